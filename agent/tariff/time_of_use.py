"""A `PowerPriceSource` by the calendar."""

from dataclasses import dataclass
from datetime import datetime

from agent.market.quote import PowerPriceQuote, PriceState
from agent.tariff.calendar import Calendar
from agent.tariff.contract import Contract

TIME_OF_USE = "time_of_use"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOfUseTariff:
    """Always knows its price; it stands until the calendar's next change."""

    calendar: Calendar
    contract: Contract

    async def quote(self, now: datetime) -> PowerPriceQuote:
        """The price of this hour."""
        holding = self.calendar.interval_at(now)
        return PowerPriceQuote(
            price_usd_per_kwh=self.contract.marginal_usd_per_kwh(holding.usd_per_kwh),
            source=TIME_OF_USE,
            observed_at=now,
            valid_until=holding.end,
            state=PriceState.FIXED,
            market_usd_per_kwh=holding.usd_per_kwh,
        )
