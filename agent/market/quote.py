"""What the agent believes about prices at a moment: every number with its source and its age."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from agent import economics

FIXED = "fixed"
"""Source of prices that an operator wrote down."""


class PriceState(StrEnum):
    """How a number of the market came to be what it is."""

    FIXED = "fixed"
    """An operator wrote it down."""
    LIVE = "live"
    """The sources say so now."""
    HELD = "held"
    """They did, and say nothing new that can be accepted; it grows old."""
    QUARANTINED = "quarantined"
    """What they say now is absurd, or jumps, and nobody confirms it. The value is the last accepted one, if any."""
    MISSING = "missing"
    """Nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of the market. `automatic` says that the agent may act on it by itself; `detail` why not, or what is
    odd about it."""

    name: str
    value: float | None
    source: str | None
    observed_at: datetime | None
    state: PriceState
    automatic: bool
    detail: str = ""

    def as_data(self, now: datetime) -> dict[str, Any]:
        """As plain data, with its age in seconds."""
        return {
            "name": self.name,
            "value": self.value,
            "source": self.source,
            "age_s": None if self.observed_at is None else (now - self.observed_at).total_seconds(),
            "state": self.state.value,
            "automatic": self.automatic,
            "detail": self.detail,
        }


def figure_of(data: Mapping[str, Any], at: datetime) -> Figure:
    """What `as_data` made at that time. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    age_s = data["age_s"]
    return Figure(
        name=str(data["name"]),
        value=None if data["value"] is None else float(data["value"]),
        source=data["source"],
        observed_at=None if age_s is None else at - timedelta(seconds=float(age_s)),
        state=PriceState(data["state"]),
        automatic=bool(data["automatic"]),
        detail=str(data["detail"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Hashprice after the next retarget, all else equal. `blocks` are those until then."""

    difficulty: float
    hashprice_usd_per_ph_day: float
    blocks: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How a source of prices is doing: its last answer, and the failure that it is in."""

    name: str
    url: str
    answered_at: datetime | None = None
    failed_at: datetime | None = None
    failure: str | None = None
    values: str = ""
    """What it said last, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashpriceInputs:
    """What hashprice is reckoned from. `height` is the tip's; hashprice is about the block after it."""

    difficulty: float
    height: int
    fees_btc: float
    btc_usd: float

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
class HashpriceQuote(HashpriceInputs):
    """The inputs of hashprice, as one source or the consensus of several gave them.

    `fixed` quotes come from the configuration and do not age: they are what an operator chose to reckon with.
    `observed_at` is that of the oldest input. What comes with `figures` was judged by their states, and does not
    age by itself; `automatic` is whether the agent may act on all of them, `detail` why not.
    """

    source: str
    observed_at: datetime
    fixed: bool = False
    figures: Sequence[Figure] = ()
    automatic: bool = True
    detail: str = ""
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerPriceQuote:
    """Marginal power price in USD/kWh, as one source gave it at one time.

    Where `valid_until` is known, the quote stands until then; else it ages. `market_usd_per_kwh` is what the
    market pays or asks, where the contract makes something else of it. `late_s` is how long after the beginning of its
    interval its source told it, and `next_at` when it will tell the next.
    """

    price_usd_per_kwh: float
    source: str
    observed_at: datetime
    fixed: bool = False
    valid_until: datetime | None = None
    state: PriceState = PriceState.LIVE
    automatic: bool = True
    detail: str = ""
    market_usd_per_kwh: float | None = None
    late_s: float = 0.0
    next_at: datetime | None = None


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

    @property
    def automatic(self) -> bool:
        """Both prices are known, and good enough to act on without a person."""
        return (
            self.hashprice is not None
            and self.power is not None
            and self.hashprice.automatic
            and self.power.automatic
        )

    @property
    def doubts(self) -> list[str]:
        """Why the agent may not act on these prices by itself; nothing where it may."""
        found = []
        for name, quote in (("hashprice", self.hashprice), ("power price", self.power)):
            if quote is None:
                found.append(f"{name}: missing")
            elif not quote.automatic:
                found.append(f"{name}: {quote.detail or 'not certain enough'}")
        return found


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
    if quote is None:
        return False
    if isinstance(quote, PowerPriceQuote) and quote.valid_until is not None:
        return quote.observed_at <= now < quote.valid_until
    judged = isinstance(quote, HashpriceQuote) and bool(quote.figures)
    return quote.fixed or judged or timedelta() <= now - quote.observed_at <= max_age
