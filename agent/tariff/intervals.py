"""Prices by the interval: what holds now, what a settlement interval will come to, and what cannot be true. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class IntervalPrice:
    """A price in USD/kWh for [start, end)."""

    start: datetime
    end: datetime
    usd_per_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What a price in USD/kWh can be. Outside of it the unit is wrong, or the feed."""

    low: float = -0.5
    high: float = 1.0


TINY_USD_PER_KWH = 0.0005
TINY_SAMPLES = 12


def absurd(prices: Sequence[IntervalPrice], band: Band) -> str | None:
    """Why these prices cannot be what they are said to be: most often cents for dollars or MWh for kWh. None if they
    can. Negative prices and single spikes within the band are real."""
    outside = next((each for each in prices if not band.low <= each.usd_per_kwh <= band.high), None)
    if outside is not None:
        return (
            f"{outside.usd_per_kwh:g} USD/kWh is outside of {band.low:g} to {band.high:g}: "
            "is the unit right (cents, MWh)?"
        )
    some = [abs(each.usd_per_kwh) for each in prices if each.usd_per_kwh]
    if len(some) >= TINY_SAMPLES and max(some) < TINY_USD_PER_KWH:
        return f"no price exceeds {max(some):g} USD/kWh: is the unit right (cents, MWh)?"
    return None


AGREEMENT_USD_PER_KWH = 0.02
AGREEMENT_FACTOR = 2.0


def contradicts(new: Sequence[IntervalPrice], known: Sequence[IntervalPrice]) -> str | None:
    """Why a feed cannot be believed that tells other prices of the past than it told before: its unit changed, or it
    is broken. Corrections of a few intervals, or by little, are usual. None if it can."""
    before = {each.start: each.usd_per_kwh for each in known}
    pairs = [(each.usd_per_kwh, before[each.start]) for each in new if each.start in before]
    odd = [(now, then) for now, then in pairs if _apart(now, then)]
    if len(pairs) < 2 or len(odd) <= len(pairs) / 2:
        return None
    now, then = odd[0]
    return f"it says {now:g} USD/kWh of times for which it said {then:g}: is the unit right?"


def is_of_known_times(new: Sequence[IntervalPrice], known: Sequence[IntervalPrice]) -> bool:
    """Whether a feed tells anything that could contradict what it told before."""
    return not {each.start for each in new}.isdisjoint(each.start for each in known)


def _apart(one: float, other: float) -> bool:
    small, large = sorted((abs(one), abs(other)))
    same_sign = one * other > 0
    return abs(one - other) > AGREEMENT_USD_PER_KWH and not (same_sign and large <= AGREEMENT_FACTOR * small)


def expected_settlement(
    prices: Sequence[IntervalPrice], now: datetime, settlement: timedelta, grace: timedelta
) -> IntervalPrice | None:
    """The price that the settlement interval around `now` will come to, over that whole interval.

    Load settles on the mean of the interval. What is published of it counts as it is, the rest as the last price
    before: a spike early in the interval keeps the rest dear, whatever comes next. None if the last price ended longer
    ago than `grace`, which is what markets take to publish.
    """
    start = floor(now, settlement)
    end = start + settlement
    latest = max((each for each in prices if each.start <= now), default=None)
    if latest is None or now - latest.end > grace:
        return None
    total_s, sum_usd = 0.0, 0.0
    for each in sorted(prices):
        overlap_s = (min(each.end, end) - max(each.start, start)).total_seconds()
        if overlap_s > 0 and each.start <= now:
            total_s += overlap_s
            sum_usd += overlap_s * each.usd_per_kwh
    rest_s = max(0.0, settlement.total_seconds() - total_s)
    mean = (sum_usd + rest_s * latest.usd_per_kwh) / (total_s + rest_s)
    return IntervalPrice(start=start, end=end, usd_per_kwh=mean)


def settled(prices: Sequence[IntervalPrice], settlement: timedelta, now: datetime) -> list[IntervalPrice]:
    """What the settlement intervals that are over came to: the mean of what was published of each, oldest first. Those
    of which a part is missing are left out."""
    found: list[IntervalPrice] = []
    sums: dict[datetime, tuple[float, float]] = {}
    for each in prices:
        start = floor(each.start, settlement)
        while start < each.end:
            overlap_s = (min(each.end, start + settlement) - max(each.start, start)).total_seconds()
            total_s, sum_usd = sums.get(start, (0.0, 0.0))
            sums[start] = (total_s + overlap_s, sum_usd + overlap_s * each.usd_per_kwh)
            start += settlement
    for start, (total_s, sum_usd) in sorted(sums.items()):
        end = start + settlement
        if end <= now and total_s >= settlement.total_seconds():
            found.append(IntervalPrice(start=start, end=end, usd_per_kwh=sum_usd / total_s))
    return found


def floor(now: datetime, step: timedelta) -> datetime:
    """The beginning of the interval around `now`; intervals of a length are counted from 1970 in UTC."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (now - epoch) // step * step
