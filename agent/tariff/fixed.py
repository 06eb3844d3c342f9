"""A flat energy rate from the configuration."""

from dataclasses import dataclass
from datetime import datetime

from agent.market.quote import FIXED, PowerPriceQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedTariff:
    """A `PowerPriceSource` that always answers with the configured rate."""

    price_usd_per_kwh: float

    async def quote(self, now: datetime) -> PowerPriceQuote:
        """The configured rate, marked as fixed."""
        return PowerPriceQuote(
            price_usd_per_kwh=self.price_usd_per_kwh, source=FIXED, observed_at=now, fixed=True
        )
