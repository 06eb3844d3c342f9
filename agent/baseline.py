"""What a machine does when it runs, remembered for when it does not: medians of its own mining readings."""

from array import array
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median

from drivers.reading import PowerMode, PowerSource, Reading, RunState

SAMPLES_NEEDED = 30
SAMPLES_KEPT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a baseline was measured under. A change of any of them makes it a baseline of something else."""

    firmware: str | None
    boards_alive: int
    power_source: PowerSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Median hashrate in TH/s and watts of `samples` mining readings in one power mode: at least `SAMPLES_NEEDED`, at
    most the last `SAMPLES_KEPT`."""

    power_mode: PowerMode | None
    hashrate_ths: float
    power_w: float
    power_error: float
    conditions: Conditions
    as_of: datetime
    samples: int


@dataclass(slots=True)
class _Samples:
    conditions: Conditions
    hashrate_ths: "array[float]" = field(default_factory=lambda: array("d"))
    power_w: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, hashrate_ths: float, power_w: float) -> None:
        for values, value in ((self.hashrate_ths, hashrate_ths), (self.power_w, power_w)):
            values.append(value)
            if len(values) > SAMPLES_KEPT:
                del values[0]


class Baselines:
    """The running baselines of one machine, one per power mode."""

    __slots__ = ("_latest", "_samples", "_settled", "_tells_boards")

    def __init__(self, known: list[Baseline] | None = None) -> None:
        self._samples: dict[PowerMode | None, _Samples] = {}
        self._settled = {baseline.power_mode: baseline for baseline in known or []}
        self._latest: PowerMode | None = max(
            self._settled, key=lambda mode: self._settled[mode].as_of, default=None
        )
        self._tells_boards = any(baseline.conditions.boards_alive for baseline in self._settled.values())

    def observe(self, reading: Reading) -> None:
        """Take a reading in, if it shows the machine mining past ramp-up.

        Other conditions end a baseline; a sample needs all numbers, and all boards alive that the machine tells of.
        """
        self._tells_boards = self._tells_boards or bool(reading.boards)
        if not _steady(reading) or (self._tells_boards and not reading.boards):
            return
        mode = self._latest = reading.power_mode
        self._forget_what_is_over(mode, reading)
        if reading.hashrate_ths is None or reading.power_w is None or _boards_dead(reading):
            return
        conditions = _conditions(reading)
        samples = self._samples.setdefault(mode, _Samples(conditions))
        samples.add(reading.hashrate_ths, reading.power_w)
        if len(samples.power_w) >= SAMPLES_NEEDED:
            self._settled[mode] = Baseline(
                power_mode=mode,
                hashrate_ths=median(samples.hashrate_ths),
                power_w=median(samples.power_w),
                power_error=reading.power_error or 0.0,
                conditions=conditions,
                as_of=reading.began_at,
                samples=len(samples.power_w),
            )

    def _forget_what_is_over(self, mode: PowerMode | None, reading: Reading) -> None:
        settled, samples = self._settled.get(mode), self._samples.get(mode)
        if settled is not None and _contradicts(reading, settled.conditions):
            del self._settled[mode]
        if samples is not None and _contradicts(reading, samples.conditions):
            del self._samples[mode]

    @property
    def latest(self) -> Baseline | None:
        """The baseline of the mode that the machine last mined in; None until there are samples enough."""
        return self._settled.get(self._latest)

    def all(self) -> list[Baseline]:
        """Every settled baseline, for the store."""
        return list(self._settled.values())


def _steady(reading: Reading) -> bool:
    return reading.run_state is RunState.MINING and reading.implausible is None


def _boards_dead(reading: Reading) -> bool:
    return any(board.alive is False for board in reading.boards)


def _contradicts(reading: Reading, known: Conditions) -> bool:
    """Whether a reading was taken under other conditions. Watts that nobody knows are no other source of them."""
    found = _conditions(reading)
    if reading.power_w is None:
        found = replace(found, power_source=known.power_source)
    return found != known


def _conditions(reading: Reading) -> Conditions:
    return Conditions(
        firmware=reading.firmware,
        boards_alive=sum(board.alive is not False for board in reading.boards),
        power_source=reading.power_source,
    )
