"""Where hashprice comes from."""

from typing import Annotated

from pydantic import Field

from agent.config.section import Section


class MarketSection(Section):
    """The fixed quote that hashprice is computed from."""

    difficulty: Annotated[float, Field(ge=1e13, le=1e16)] = Field(
        default=149.30e12, description="Network difficulty."
    )
    height: Annotated[int, Field(ge=0, le=20_000_000)] = Field(
        default=927_000, description="Height of the chain's tip; the subsidy is the next block's."
    )
    fees_btc: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.0269, description="Mean fees of a block, BTC."
    )
    btc_usd: Annotated[float, Field(ge=1000, le=10_000_000)] = Field(
        default=92_870.0, description="Price of a bitcoin, USD."
    )
