"""Adds up energy and money per machine and period, from readings: time-weighted, gaps as gaps. Pure.

A reading stands for the time until the next one, at most for its `valid_ms`; what is left over is unknown time and
adds nothing to any sum. Sums are kept and every ratio is derived from sums.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from agent import economics
from agent.rows import ReadingRow, Settled, Switch
from drivers.reading import PowerMode, PowerSource, RunState

MS_PER_HOUR = 3_600_000
_MINING = {RunState.MINING, RunState.RAMPING}
_ASLEEP = {RunState.ASLEEP, RunState.STOPPED}
_LOW_POWER = {PowerMode.LOW, PowerMode.HIGH_EFFICIENCY}
BEST_FIRST = list(PowerSource)


@dataclass(slots=True, kw_only=True)
class Sums:
    """What one machine did in [start_ms, end_ms), in sums.

    `mining_h` is time in which it hashed or powered up, of which `low_power_h` in a mode below the normal one;
    `asleep_h` time in which it did neither on its own word, `unknown_h` the rest. `hash_phd` is PH/s times days,
    `avoidable_kwh` energy above the sleep draw while it mined. Of `energy_kwh`, `metered_kwh` were measured beside the
    machine, `reported_kwh` told by it, `estimated_kwh` reckoned.

    What ratios of money are derived from only covers time with both prices (`priced_h`): `priced_phd` and, after
    fees and rejects, `paid_phd`; `avoidable_priced_kwh`, with overhead, and what that cost, `avoidable_cost_usd`.

    `avoided_loss_usd` is what running would have lost while the machine slept on our order, `forgone_profit_usd` what
    it would have earned. `curtailments` are confirmed sleeps on our order, `switching_cost_usd` what those and the
    wakes cost, half a cycle each.
    """

    start_ms: int
    end_ms: int
    mining_h: float = 0.0
    asleep_h: float = 0.0
    low_power_h: float = 0.0
    unknown_h: float = 0.0
    metered_kwh: float = 0.0
    reported_kwh: float = 0.0
    estimated_kwh: float = 0.0
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
    switching_cost_usd: float = 0.0
    curtailments: int = 0
    power_source: PowerSource | None = None
    least_hashrate_ths: float | None = None
    most_hashrate_ths: float | None = None
    least_power_w: float | None = None
    most_power_w: float | None = None
    least_chip_temp_c: float | None = None
    most_chip_temp_c: float | None = None
    """Of the readings that the known time stands on."""

    @property
    def known_h(self) -> float:
        """Hours in which the machine's state and watts were known."""
        return self.mining_h + self.asleep_h

    def add(self, other: "Sums") -> None:
        """Take in what the machine did in another part of the same period. Unknown time is what is left over."""
        for name in ADDITIVE:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.power_source is not None:
            self.power_source = _worse(self.power_source, other.power_source)
        for name in EXTREMES:
            setattr(self, name, further(name, getattr(self, name), getattr(other, name)))
        self.close()

    def close(self) -> None:
        """What is not known of the period is unknown time."""
        self.unknown_h = max(0.0, (self.end_ms - self.start_ms) / MS_PER_HOUR - self.known_h)


EXTREMES = tuple(field.name for field in fields(Sums) if field.name.startswith(("least_", "most_")))
ADDITIVE = tuple(
    field.name
    for field in fields(Sums)
    if field.name not in {"start_ms", "end_ms", "unknown_h", "power_source", *EXTREMES}
)
"""What adds up over parts of a period, but for the unknown time, which is what is left over."""


def further(name: str, one: float | None, other: float | None) -> float | None:
    """Of two values of one of the `EXTREMES` the one further out; None is not known."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other) if name.startswith("least_") else max(one, other)


def add_up(
    readings: Sequence[ReadingRow],
    start_ms: int,
    end_ms: int,
    *,
    sleep_power_w: float,
    settled: Sequence[Settled] = (),
    switches: Sequence[Switch] = (),
) -> Sums:
    """Sums of one machine's readings (oldest first) over [start_ms, end_ms).

    `settled` are power prices (oldest first) that turned out to be others than readings were made under: they count
    instead, but for machines with a price of their own.
    """
    sums = Sums(start_ms=start_ms, end_ms=end_ms)
    for reading, since_ms, until_ms in _intervals(readings, start_ms, end_ms):
        for priced, hours in _priced(reading, since_ms, until_ms, settled):
            _add(sums, priced, hours, sleep_power_w)
    for switch in switches:
        if start_ms <= switch.at_ms < end_ms:
            sums.switching_cost_usd += switch.cost_usd
            sums.curtailments += switch.sleeps
    sums.close()
    return sums


def _priced(
    reading: ReadingRow, since_ms: int, until_ms: int, settled: Sequence[Settled]
) -> Iterator[tuple[ReadingRow, float]]:
    """The reading, cut where other power prices begin and end, with the hours of each piece."""
    if reading.own_price:
        settled = ()
    index = bisect_right(settled, since_ms, key=lambda each: each.start_ms) - 1
    at_ms, price = since_ms, reading.price_usd_per_kwh
    while at_ms < until_ms:
        here = settled[index] if 0 <= index < len(settled) else None
        following = settled[index + 1].start_ms if index + 1 < len(settled) else until_ms
        if here is not None and at_ms < here.end_ms:
            piece_ms = min(here.end_ms, until_ms)
            price = here.price_usd_per_kwh
        else:
            piece_ms = min(following, until_ms)
            price = reading.price_usd_per_kwh
        same = price == reading.price_usd_per_kwh
        yield reading if same else replace(reading, price_usd_per_kwh=price), (piece_ms - at_ms) / MS_PER_HOUR
        at_ms = piece_ms
        if piece_ms >= following:
            index += 1


def _intervals(
    readings: Sequence[ReadingRow], start_ms: int, end_ms: int
) -> Iterator[tuple[ReadingRow, int, int]]:
    """Each reading with the part of [start_ms, end_ms) that it stands for; of those from before, the last at most."""
    first = max(0, bisect_right(readings, start_ms, key=lambda reading: reading.began_ms) - 1)
    last = bisect_left(readings, end_ms, lo=first, key=lambda reading: reading.began_ms)
    for index in range(first, last):
        reading = readings[index]
        next_ms = readings[index + 1].began_ms if index + 1 < len(readings) else end_ms
        until = min(reading.began_ms + reading.valid_ms, next_ms, end_ms)
        since = max(reading.began_ms, start_ms)
        if until > since:
            yield reading, since, until


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
        _add_curtailed(sums, reading, hours, sleep_power_w)
    else:
        sums.mining_h += hours
        if reading.power_mode in _LOW_POWER:
            sums.low_power_h += hours
        avoidable_kwh = kwh - sleep_power_w / 1000 * hours
    sums.energy_kwh += kwh
    _add_by_source(sums, power_source, kwh)
    sums.avoidable_kwh += avoidable_kwh
    sums.hash_phd += phd
    sums.power_source = _worse(sums.power_source, power_source)
    _widen(sums, hashrate_ths, power_w, reading.chip_temp_c)
    if reading.hashprice_usd_per_ph_day is not None and reading.price_usd_per_kwh is not None:
        sums.priced_h += hours
        sums.hashprice_h += reading.hashprice_usd_per_ph_day * hours
        sums.price_h_usd_per_kwh += reading.price_usd_per_kwh * hours
        _add_revenue(sums, reading, reading.hashprice_usd_per_ph_day, phd)
        _add_cost(sums, reading, reading.price_usd_per_kwh, kwh, avoidable_kwh)


def _widen(sums: Sums, hashrate_ths: float, power_w: float, chip_temp_c: float | None) -> None:
    """Take one reading's values into the extremes. Spelled out: it is done for every reading of a site."""
    if sums.most_power_w is None or power_w > sums.most_power_w:
        sums.most_power_w = power_w
    if sums.least_power_w is None or power_w < sums.least_power_w:
        sums.least_power_w = power_w
    if sums.most_hashrate_ths is None or hashrate_ths > sums.most_hashrate_ths:
        sums.most_hashrate_ths = hashrate_ths
    if sums.least_hashrate_ths is None or hashrate_ths < sums.least_hashrate_ths:
        sums.least_hashrate_ths = hashrate_ths
    if chip_temp_c is not None:
        sums.most_chip_temp_c = further("most_", sums.most_chip_temp_c, chip_temp_c)
        sums.least_chip_temp_c = further("least_", sums.least_chip_temp_c, chip_temp_c)


def _add_by_source(sums: Sums, source: PowerSource, kwh: float) -> None:
    if source is PowerSource.METERED:
        sums.metered_kwh += kwh
    elif source is PowerSource.REPORTED:
        sums.reported_kwh += kwh
    else:
        sums.estimated_kwh += kwh


def _add_curtailed(sums: Sums, reading: ReadingRow, hours: float, sleep_power_w: float) -> None:
    asleep_for_us = reading.ours and reading.run_state is RunState.ASLEEP
    margin = _running_margin(reading, sleep_power_w) if asleep_for_us else None
    if margin is None:
        return
    worth_usd = margin * hours / economics.HOURS_PER_DAY
    if worth_usd < 0:
        sums.avoided_loss_usd -= worth_usd
    else:
        sums.forgone_profit_usd += worth_usd


def _running_margin(reading: ReadingRow, sleep_power_w: float) -> float | None:
    """What the machine would be worth awake, USD/day: reckoned anew where it is kept what it does while it runs, else
    as it was reckoned then."""
    if reading.running_ths is None or reading.price_usd_per_kwh is None:
        return reading.decision_margin_usd_per_day
    return economics.decision_margin_usd_per_day(
        hashrate_ths=reading.running_ths,
        power_w=reading.running_power_w,
        sleep_power_w=sleep_power_w,
        hashprice_usd_per_ph_day=reading.hashprice_usd_per_ph_day,
        price_usd_per_kwh=reading.price_usd_per_kwh + reading.credit_usd_per_kwh,
        fee=reading.fee,
        reject=reading.reject,
        overhead=reading.overhead,
    )


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
    return new if known is None else max(known, new, key=BEST_FIRST.index)
