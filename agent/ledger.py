"""Adds up energy and money per machine and period, from readings: time-weighted, gaps as gaps. Pure.

A reading stands for the time until the next one, at most for its `valid_ms`; what is left over is unknown time and
adds nothing to any sum. Sums are kept and every ratio is derived from sums.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent import economics
from agent.rows import ReadingRow
from drivers.reading import PowerSource, RunState

MS_PER_HOUR = 3_600_000
_MINING = {RunState.MINING, RunState.RAMPING}
_ASLEEP = {RunState.ASLEEP, RunState.STOPPED}
_BEST_FIRST = list(PowerSource)


@dataclass(slots=True, kw_only=True)
class Sums:
    """What one machine did in [start_ms, end_ms), in sums.

    `mining_h` is time in which it hashed or powered up, `asleep_h` time in which it did neither on its own word,
    `unknown_h` the rest. `hash_phd` is PH/s times days, `avoidable_kwh` energy above the sleep draw while it mined.

    What ratios of money are derived from only covers time with both prices (`priced_h`): `priced_phd` and, after
    fees and rejects, `paid_phd`; `avoidable_priced_kwh`, with overhead, and what that cost, `avoidable_cost_usd`.

    `avoided_loss_usd` is what running would have lost while the machine slept on our order, `forgone_profit_usd` what
    it would have earned.
    """

    start_ms: int
    end_ms: int
    mining_h: float = 0.0
    asleep_h: float = 0.0
    unknown_h: float = 0.0
    energy_kwh: float = 0.0
    avoidable_kwh: float = 0.0
    hash_phd: float = 0.0
    revenue_usd: float = 0.0
    energy_cost_usd: float = 0.0
    priced_phd: float = 0.0
    paid_phd: float = 0.0
    avoidable_priced_kwh: float = 0.0
    avoidable_cost_usd: float = 0.0
    price_h_usd_per_kwh: float = 0.0
    hashprice_h: float = 0.0
    priced_h: float = 0.0
    avoided_loss_usd: float = 0.0
    forgone_profit_usd: float = 0.0
    power_source: PowerSource | None = None

    @property
    def known_h(self) -> float:
        """Hours in which the machine's state and watts were known."""
        return self.mining_h + self.asleep_h


def add_up(readings: Sequence[ReadingRow], start_ms: int, end_ms: int, *, sleep_power_w: float) -> Sums:
    """Sums of one machine's readings (oldest first) over [start_ms, end_ms)."""
    sums = Sums(start_ms=start_ms, end_ms=end_ms)
    for reading, hours in _intervals(readings, start_ms, end_ms):
        _add(sums, reading, hours, sleep_power_w)
    sums.unknown_h = max(0.0, (end_ms - start_ms) / MS_PER_HOUR - sums.known_h)
    return sums


def _intervals(
    readings: Sequence[ReadingRow], start_ms: int, end_ms: int
) -> Iterator[tuple[ReadingRow, float]]:
    """Each reading with the hours of [start_ms, end_ms) that it stands for; of those from before, the last at most."""
    first = max(0, bisect_right(readings, start_ms, key=lambda reading: reading.began_ms) - 1)
    last = bisect_left(readings, end_ms, lo=first, key=lambda reading: reading.began_ms)
    for index in range(first, last):
        reading = readings[index]
        next_ms = readings[index + 1].began_ms if index + 1 < len(readings) else end_ms
        until = min(reading.began_ms + reading.valid_ms, next_ms, end_ms)
        since = max(reading.began_ms, start_ms)
        if until > since:
            yield reading, (until - since) / MS_PER_HOUR


def _add(sums: Sums, reading: ReadingRow, hours: float, sleep_power_w: float) -> None:
    """Add one interval, if the reading says enough for both energy and hashrate; else it stays unknown time."""
    if reading.implausible is not None:
        return
    power = _power(reading, sleep_power_w)
    hashrate_ths = 0.0 if reading.run_state in _ASLEEP else reading.hashrate_ths
    if power is None or hashrate_ths is None:
        return
    power_w, power_source = power
    kwh = power_w / 1000 * hours
    phd = hashrate_ths / 1000 * hours / economics.HOURS_PER_DAY
    avoidable_kwh = 0.0
    if reading.run_state in _ASLEEP:
        sums.asleep_h += hours
        _add_curtailed(sums, reading, hours)
    else:
        sums.mining_h += hours
        avoidable_kwh = kwh - sleep_power_w / 1000 * hours
    sums.energy_kwh += kwh
    sums.avoidable_kwh += avoidable_kwh
    sums.hash_phd += phd
    sums.power_source = _worse(sums.power_source, power_source)
    if reading.hashprice_usd_per_ph_day is not None and reading.price_usd_per_kwh is not None:
        sums.priced_h += hours
        sums.hashprice_h += reading.hashprice_usd_per_ph_day * hours
        sums.price_h_usd_per_kwh += reading.price_usd_per_kwh * hours
        _add_revenue(sums, reading, reading.hashprice_usd_per_ph_day, phd)
        _add_cost(sums, reading, reading.price_usd_per_kwh, kwh, avoidable_kwh)


def _add_curtailed(sums: Sums, reading: ReadingRow, hours: float) -> None:
    asleep_for_us = reading.ours and reading.run_state is RunState.ASLEEP
    if not asleep_for_us or reading.decision_margin_usd_per_day is None:
        return
    worth_usd = reading.decision_margin_usd_per_day * hours / economics.HOURS_PER_DAY
    if worth_usd < 0:
        sums.avoided_loss_usd -= worth_usd
    else:
        sums.forgone_profit_usd += worth_usd


def _add_revenue(sums: Sums, reading: ReadingRow, hashprice_usd_per_ph_day: float, phd: float) -> None:
    paid_phd = phd * (1 - reading.fee) * (1 - reading.reject)
    sums.priced_phd += phd
    sums.paid_phd += paid_phd
    sums.revenue_usd += paid_phd * hashprice_usd_per_ph_day


def _add_cost(
    sums: Sums, reading: ReadingRow, price_usd_per_kwh: float, kwh: float, avoidable_kwh: float
) -> None:
    sums.energy_cost_usd += kwh * reading.overhead * price_usd_per_kwh
    sums.avoidable_priced_kwh += avoidable_kwh * reading.overhead
    sums.avoidable_cost_usd += avoidable_kwh * reading.overhead * price_usd_per_kwh


def _power(reading: ReadingRow, sleep_power_w: float) -> tuple[float, PowerSource] | None:
    """Watts and their source. A sleeping machine that does not say is reckoned at the configured sleep draw."""
    if reading.run_state not in _MINING | _ASLEEP:
        return None
    if reading.power_w is not None:
        return reading.power_w, reading.power_source
    return (sleep_power_w, PowerSource.CUSTOM) if reading.run_state is RunState.ASLEEP else None


def _worse(known: PowerSource | None, new: PowerSource) -> PowerSource:
    return new if known is None else max(known, new, key=_BEST_FIRST.index)
