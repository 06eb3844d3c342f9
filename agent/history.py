"""The past as charts and people look at it: even steps, gaps as gaps. Pure.

A machine's is added up by the same ledger as the exports, so that a chart and a CSV never tell two stories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from agent import economics
from agent.ledger import add_up
from agent.orders import Order
from agent.rows import ReadingRow, to_ms

Series = tuple[float | None, ...]
"""One value for each step; None where nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineHistory:
    """What one machine did in even steps of `step` from `start`: time-weighted means, and the hottest chip."""

    start: datetime
    step: timedelta
    hashrate_ths: Series
    power_w: Series
    chip_temp_c: Series
    margin_usd_per_day: Series


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteHistory:
    """Prices and the whole site in even steps of `step` from `start`, means of the rounds in each.

    The site's sums are None while too many machines were unknown for them to be the site's.
    """

    start: datetime
    step: timedelta
    hashprice_usd_per_ph_day: Series
    price_usd_per_kwh: Series
    breakeven_efficiency_j_per_th: Series
    power_kw: Series
    hashrate_phs: Series
    margin_usd_per_hour: Series


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRound:
    """What one round found; the money is of the terms that were in force."""

    began_ms: int
    hashprice_usd_per_ph_day: float | None
    price_usd_per_kwh: float | None
    breakeven_efficiency_j_per_th: float | None
    power_kw: float | None
    hashrate_phs: float | None
    margin_usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvidence:
    """An order with what was read of its machine: the last reading before it was sent (or, unsent, before it was made),
    and the last one that began after that and may have decided how it ended."""

    order: Order
    before: ReadingRow | None
    after: ReadingRow | None


def machine_history(
    readings: Sequence[ReadingRow],
    chip_temps_c: Sequence[float | None],
    start: datetime,
    end: datetime,
    *,
    points: int,
    sleep_power_w: float,
) -> MachineHistory:
    """One machine's past in `points` steps, from its readings (oldest first) and the hottest chip of each."""
    step = (end - start) / points
    edges = [to_ms(start + step * index) for index in range(points + 1)]
    sums = [add_up(readings, since, until, sleep_power_w=sleep_power_w) for since, until in pairwise(edges)]
    hottest: list[float | None] = [None] * points
    for reading, temp in zip(readings, chip_temps_c, strict=True):
        index = _index(reading.began_ms, edges)
        if index is not None and temp is not None:
            hottest[index] = max(temp, hottest[index] or temp)
    return MachineHistory(
        start=start,
        step=step,
        hashrate_ths=tuple(
            _ratio(each.hash_phd * 1000 * economics.HOURS_PER_DAY, each.known_h) for each in sums
        ),
        power_w=tuple(_ratio(each.energy_kwh * 1000, each.known_h) for each in sums),
        chip_temp_c=tuple(hottest),
        margin_usd_per_day=tuple(
            _ratio((each.revenue_usd - each.energy_cost_usd) * economics.HOURS_PER_DAY, each.priced_h)
            for each in sums
        ),
    )


def site_history(
    rounds: Sequence[SiteRound], start: datetime, end: datetime, *, points: int, valid: timedelta
) -> SiteHistory:
    """The site's past in `points` steps from its rounds, oldest first. A step without a round shows the one before, if
    that may still stand: for `valid`."""
    step = (end - start) / points
    edges = [to_ms(start + step * index) for index in range(points + 1)]
    buckets: list[list[SiteRound]] = [[] for _ in range(points)]
    for each in rounds:
        if (index := _index(each.began_ms, edges)) is not None:
            buckets[index].append(each)
    last: SiteRound | None = next((each for each in reversed(rounds) if each.began_ms < edges[0]), None)
    valid_ms = round(valid.total_seconds() * 1000)
    for index, bucket in enumerate(buckets):
        if bucket:
            last = bucket[-1]
        elif last is not None and edges[index] - last.began_ms < valid_ms:
            bucket.append(last)

    def means(name: str) -> Series:
        return tuple(_mean([getattr(each, name) for each in bucket]) for bucket in buckets)

    return SiteHistory(
        start=start,
        step=step,
        hashprice_usd_per_ph_day=means("hashprice_usd_per_ph_day"),
        price_usd_per_kwh=means("price_usd_per_kwh"),
        breakeven_efficiency_j_per_th=means("breakeven_efficiency_j_per_th"),
        power_kw=means("power_kw"),
        hashrate_phs=means("hashrate_phs"),
        margin_usd_per_hour=means("margin_usd_per_hour"),
    )


def _index(at_ms: int, edges: Sequence[int]) -> int | None:
    """Which step a moment lies in; None if in none."""
    if not edges[0] <= at_ms < edges[-1]:
        return None
    index = int((at_ms - edges[0]) * (len(edges) - 1) / (edges[-1] - edges[0]))
    while at_ms < edges[index]:  # edges are whole milliseconds, the division is not
        index -= 1
    while at_ms >= edges[index + 1]:
        index += 1
    return index


def _ratio(over: float, under: float) -> float | None:
    return over / under if under > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
