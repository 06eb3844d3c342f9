"""What the agent believes about prices at a moment: every number with its source and its age."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from agent import economics

FIXED = "fixed"
"""Source of prices that an operator wrote down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashpriceQuote:
    """The four inputs of hashprice, as one source gave them at one time.

    `height` is the tip's; hashprice is about the block after it. `fixed` quotes come from the configuration
    and do not age: they are what an operator chose to reckon with.
    """

    difficulty: float
    height: int
    fees_btc: float
    btc_usd: float
    source: str
    observed_at: datetime
    fixed: bool = False

    @property
    def hashprice_usd_per_ph_day(self) -> float:
        """USD/PH/day before pool fees."""
        hashprice = economics.hashprice_usd_per_ph_day(
            difficulty=self.difficulty,
            subsidy_btc=economics.subsidy_btc(self.height + 1),
            fees_btc=self.fees_btc,
            btc_usd=self.btc_usd,
        )
        assert hashprice is not None  # noqa: S101 - all four inputs are known
        return hashprice


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerPriceQuote:
    """Marginal power price in USD/kWh, as one source gave it at one time."""

    price_usd_per_kwh: float
    source: str
    observed_at: datetime
    fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Both prices at `at`; None where a price is missing or too old to be one."""

    at: datetime
    hashprice: HashpriceQuote | None
    power: PowerPriceQuote | None

    @property
    def hashprice_usd_per_ph_day(self) -> float | None:
        """Hashprice in USD/PH/day, or None."""
        return None if self.hashprice is None else self.hashprice.hashprice_usd_per_ph_day

    @property
    def price_usd_per_kwh(self) -> float | None:
        """Power price in USD/kWh, or None."""
        return None if self.power is None else self.power.price_usd_per_kwh


class HashpriceSource(Protocol):
    """Where hashprice comes from. Live sources plug in here."""

    async def quote(self, now: datetime) -> HashpriceQuote | None:
        """The latest quote, or None while there is none to be had."""


class PowerPriceSource(Protocol):
    """Where the power price comes from. Tariffs and real-time feeds plug in here."""

    async def quote(self, now: datetime) -> PowerPriceQuote | None:
        """The price in force at `now`, or None while it is not known."""


async def take_market(
    hashprice: HashpriceSource, power: PowerPriceSource, now: datetime, *, max_age: timedelta
) -> Market:
    """Ask both sources; a live quote older than `max_age` is a stale price, and a stale price is not a price."""
    hashprice_quote = await hashprice.quote(now)
    power_quote = await power.quote(now)
    return Market(
        at=now,
        hashprice=hashprice_quote if _fresh(hashprice_quote, now, max_age) else None,
        power=power_quote if _fresh(power_quote, now, max_age) else None,
    )


def _fresh(quote: HashpriceQuote | PowerPriceQuote | None, now: datetime, max_age: timedelta) -> bool:
    return quote is not None and (quote.fixed or timedelta() <= now - quote.observed_at <= max_age)
