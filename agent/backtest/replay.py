"""Replays a policy on a history: what is known when, what the policy does then, and what that was worth. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Protocol

from agent import economics
from agent.backtest.clairvoyant import best_states
from agent.backtest.series import History
from agent.lots import Lot

SECONDS_PER_DAY = float(economics.SECONDS_PER_DAY)
STALE_AFTER_S = 900.0
"""A price is acted on for so long after what it was published for has ended, if nothing newer comes."""


@dataclass(frozen=True, slots=True)
class News:
    """What is known from `at_s` on until the next news; None is not known."""

    at_s: float
    price_usd_per_kwh: float | None
    hashprice_usd_per_ph_day: float | None


@dataclass(frozen=True, slots=True)
class Past:
    """Histories of both prices over the same time. Money is reckoned by what prices were; policies see `news`."""

    power: History
    hashprice: History

    def news(self, delay_s: float) -> list[News]:
        """What becomes known when: a power price `delay_s` after the start of its interval, a hashprice at the end of
        its interval; what was recorded was known from its start on. Power prices grow stale in gaps."""
        prices: list[tuple[float, float | None]] = []
        known_at = [start + delay_s for start in self.power.starts]
        for index, at_s in enumerate(known_at):
            prices.append((at_s, self.power.values[index]))
            stale_s = max(at_s, self.power.ends[index] + delay_s) + STALE_AFTER_S
            following = known_at[index + 1] if index + 1 < len(known_at) else None
            if following is not None and stale_s < following:
                prices.append((stale_s, None))
        known_s = self.hashprice.starts if self.hashprice.recorded else self.hashprice.ends
        hashprices = list(zip(known_s, self.hashprice.values, strict=True))
        return _merged(prices, hashprices, self.power.starts[0], self.power.ends[-1])

    @property
    def hours(self) -> float:
        """Hours with a power price."""
        return sum(end - start for start, end in zip(self.power.starts, self.power.ends, strict=True)) / 3600

    @property
    def gap_hours(self) -> float:
        """Hours without one, between the first and the last."""
        return (self.power.ends[-1] - self.power.starts[0]) / 3600 - self.hours

    def ahead_s(self, at_s: float, delay_s: float) -> float:
        """Seconds until the price after the one that is known is told, where that was known; 0 in a gap."""
        index = bisect_right(self.power.starts, at_s - delay_s) - 1
        if self.power.recorded or index < 0:
            return 0.0
        return max(0.0, self.power.ends[index] + delay_s - at_s)


def _merged(
    prices: Sequence[tuple[float, float | None]],
    hashprices: Sequence[tuple[float, float]],
    start_s: float,
    end_s: float,
) -> list[News]:
    """One line of news from both, from `start_s` on, where all that was known before counts as news."""
    news: list[News] = []
    price: float | None = None
    hashprice: float | None = None
    told = 0
    for at_s, new_price in [*prices, (end_s, None)]:
        while told < len(hashprices) and hashprices[told][0] <= at_s:
            known_s, hashprice = hashprices[told]
            told += 1
            if start_s <= known_s < min(at_s, end_s):
                news.append(News(known_s, price, hashprice))
        price = new_price
        if at_s < end_s:
            news.append(News(at_s, price, hashprice))
    return news


@dataclass(frozen=True, slots=True)
class Switch:
    """At `at_s` the machine is put to sleep, or woken."""

    at_s: float
    sleeps: bool


class Replayed(Protocol):
    """A policy for one lot. It starts with machines that run."""

    def hear(self, news: News, next_s: float) -> Sequence[Switch]:
        """What it does from this news on until `next_s`, when the next comes."""


def replay(policy: Replayed, news: Sequence[News], end_s: float) -> list[Switch]:
    """All that a policy did."""
    switches: list[Switch] = []
    for here, after in pairwise([*news, News(end_s, None, None)]):
        switches += policy.hear(here, after.at_s)
    return switches


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a policy was worth for one lot, or for several together. `gain_usd` is against always running, after
    switching costs; `daily_usd` the same by UTC day. `cycles` are sleeps of all machines."""

    gain_usd: float
    hours_off: float
    cycles: int
    machines: int
    daily_usd: dict[str, float] = field(default_factory=dict)

    @property
    def cycles_per_machine(self) -> float:
        """Sleeps of one machine, on average."""
        return self.cycles / self.machines

    @property
    def worst_day(self) -> tuple[str, float]:
        """The day on which it lost the most against always running, or earned the least."""
        return min(self.daily_usd.items(), key=lambda each: (each[1], each[0]), default=("", 0.0))


class Valuation:
    """One lot on a past: what sleep is worth in every interval, and what a policy's switches came to."""

    def __init__(self, past: Past, lot: Lot, switching_cost_usd: float) -> None:
        self.past, self.lot = past, lot
        self.switching_cost_usd = switching_cost_usd * lot.count
        self._starts, self._ends = past.power.starts, past.power.ends
        worth = Worth(lot)
        self._usd_per_s = [
            -worth(price, _known(past.hashprice.value_at(start), start)) / SECONDS_PER_DAY
            for start, price in zip(past.power.starts, past.power.values, strict=True)
        ]
        self.avoided_usd = [
            rate * (end - start)
            for rate, start, end in zip(self._usd_per_s, self._starts, self._ends, strict=True)
        ]
        self._until = [0.0, *accumulate(self.avoided_usd)]
        self._hours = [
            0.0,
            *accumulate((e - s) / 3600 for s, e in zip(self._starts, self._ends, strict=True)),
        ]

    def always_on_usd(self) -> float:
        """Gross margin of running all the time."""
        usd, own = 0.0, self.lot.terms.price_usd_per_kwh
        paid_phs, kwh_per_day = self.lot.paid_phs, self.lot.energy_kwh_per_day
        for start, end, price in zip(self._starts, self._ends, self.past.power.values, strict=True):
            hashprice = _known(self.past.hashprice.value_at(start), start)
            cost = kwh_per_day * (price if own is None else own)
            usd += (paid_phs * hashprice - cost) * (end - start) / SECONDS_PER_DAY
        return usd

    def worth(self, switches: Sequence[Switch]) -> Result:
        """What a policy's switches were worth. Time in gaps counts neither as hours nor as money."""
        end_s = self._ends[-1]
        daily: dict[str, float] = {}
        hours, sleeps = 0.0, 0
        for switch, after in pairwise([*switches, Switch(end_s, False)]):
            _add(daily, switch.at_s, -self.switching_cost_usd / 2)
            if switch.sleeps:
                sleeps += 1
                hours += self._hours_until(after.at_s) - self._hours_until(switch.at_s)
                for since, until in _days(switch.at_s, after.at_s):
                    _add(daily, since, self._avoided_until(until) - self._avoided_until(since))
        return Result(
            gain_usd=sum(daily.values()),
            hours_off=hours * self.lot.count,
            cycles=sleeps * self.lot.count,
            machines=self.lot.count,
            daily_usd=self._every_day() | daily,
        )

    def clairvoyant(self) -> list[Switch]:
        """The switches that were worth the most of all that could have been made."""
        states = best_states(self.avoided_usd, self.switching_cost_usd)
        return [
            Switch(start, asleep)
            for start, before, asleep in zip(self._starts, [False, *states], states, strict=False)
            if asleep is not before
        ]

    def _every_day(self) -> dict[str, float]:
        return {_day(since): 0.0 for since, _ in _days(self._starts[0], self._ends[-1])}

    def _avoided_until(self, at_s: float) -> float:
        """What sleep was worth from the beginning to a moment."""
        index = bisect_right(self._starts, at_s) - 1
        if index < 0:
            return 0.0
        within = min(at_s, self._ends[index]) - self._starts[index]
        return self._until[index] + self._usd_per_s[index] * within

    def _hours_until(self, at_s: float) -> float:
        index = bisect_left(self._starts, at_s) - 1
        if index < 0:
            return 0.0
        return self._hours[index] + (min(at_s, self._ends[index]) - self._starts[index]) / 3600


class Worth:
    """The decision margin of a lot, USD/day, at many prices: what running earns over sleeping."""

    def __init__(self, lot: Lot) -> None:
        self._paid_phs = lot.paid_phs
        self._avoidable_kwh_per_day = lot.avoidable_kwh_per_day
        self._own_price = lot.terms.price_usd_per_kwh
        self._credit = lot.terms.credit_usd_per_kwh

    def __call__(self, price_usd_per_kwh: float, hashprice_usd_per_ph_day: float) -> float:
        """At these prices; machines with a price of their own do not see the market's."""
        price = price_usd_per_kwh if self._own_price is None else self._own_price
        return self._paid_phs * hashprice_usd_per_ph_day - self._avoidable_kwh_per_day * (
            price + self._credit
        )


def together(results: Sequence[Result]) -> Result:
    """Several lots as one."""
    daily: dict[str, float] = {}
    for result in results:
        for day, usd in result.daily_usd.items():
            daily[day] = daily.get(day, 0.0) + usd
    return Result(
        gain_usd=sum(result.gain_usd for result in results),
        hours_off=sum(result.hours_off for result in results),
        cycles=sum(result.cycles for result in results),
        machines=sum(result.machines for result in results),
        daily_usd=daily,
    )


def _known(hashprice: float | None, at_s: float) -> float:
    if hashprice is None:
        raise ValueError(f"no hashprice at {datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC")
    return hashprice


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def _days(start_s: float, end_s: float) -> list[tuple[float, float]]:
    """[start_s, end_s) cut at UTC midnights."""
    pieces = []
    while start_s < end_s:
        midnight = (start_s // SECONDS_PER_DAY + 1) * SECONDS_PER_DAY
        pieces.append((start_s, min(midnight, end_s)))
        start_s = midnight
    return pieces


def _add(daily: dict[str, float], at_s: float, usd: float) -> None:
    day = _day(at_s)
    daily[day] = daily.get(day, 0.0) + usd
