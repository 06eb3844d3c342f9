"""Hashprice from the configuration: the four inputs that an operator wrote down."""

from dataclasses import dataclass
from datetime import datetime

from agent.market.quote import FIXED, HashpriceQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedHashprice:
    """A `HashpriceSource` that always answers with the configured inputs."""

    difficulty: float
    height: int
    fees_btc: float
    btc_usd: float

    async def quote(self, now: datetime) -> HashpriceQuote:
        """The configured inputs, marked as fixed."""
        return HashpriceQuote(
            difficulty=self.difficulty,
            height=self.height,
            fees_btc=self.fees_btc,
            btc_usd=self.btc_usd,
            source=FIXED,
            observed_at=now,
            fixed=True,
        )
