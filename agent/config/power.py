"""What energy costs."""

from typing import Annotated

from pydantic import Field

from agent.config.section import Section


class PowerSection(Section):
    """What energy costs."""

    price_usd_per_kwh: Annotated[float, Field(gt=-1, lt=1)] = Field(
        default=0.06, description="Marginal power price, USD/kWh: 6 cents is 0.06."
    )
