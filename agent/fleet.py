"""The live picture: every machine of the site, its last reading, its baselines, and what they amount to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from agent.appraisal import Basis, RunningPoint
from agent.baseline import Baseline, Baselines
from agent.groups import SITE_GROUP
from agent.policy import Reason, Situation
from drivers.catalogue import nameplate
from drivers.reading import Address, Identity, MachineId, PowerSource, Reading, RunState

CUSTOM_ERROR = 0.10
"""Half-width of the error band of watts that were measured once: machines drift, and so does the weather."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A read that did not succeed: its stable `kind`, and a sentence for a person."""

    at: datetime
    kind: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Machine:
    """One machine as it is known now. Changed only through `Fleet` and `apply`."""

    machine_id: MachineId
    identity: Identity
    address: Address
    group: str = SITE_GROUP
    first_seen_at: datetime
    baselines: Baselines = field(default_factory=Baselines)
    reading: Reading | None = None
    failure: Failure | None = None
    failures_in_row: int = 0
    ours: bool = False
    """It sleeps on our order, and is ours to wake."""
    withheld: Reason | None = None
    """Why it is not this agent's to command, where a site has several parts."""
    custom_power_w: float | None = None
    """Watts that somebody measured for it once."""

    def apply(self, outcome: Reading | Failure) -> None:
        """Take in the outcome of one read. A failure leaves the last reading, which grows old."""
        if isinstance(outcome, Failure):
            self.failure = outcome
            self.failures_in_row += 1
            return
        self.reading = self._with_custom_power(outcome)
        self.failure = None
        self.failures_in_row = 0
        self.baselines.observe(self.reading)

    def _with_custom_power(self, reading: Reading) -> Reading:
        """Watts that were measured once are better than a nameplate's, and than none."""
        guessed = reading.power_source in (PowerSource.NAMEPLATE, PowerSource.UNKNOWN)
        if self.custom_power_w is None or not guessed or reading.run_state is not RunState.MINING:
            return reading
        return replace(
            reading,
            power_w=self.custom_power_w,
            power_source=PowerSource.CUSTOM,
            power_error=CUSTOM_ERROR,
        )

    @property
    def last_seen_at(self) -> datetime:
        """When it last answered with a reading, or was found."""
        return self.first_seen_at if self.reading is None else self.reading.began_at

    def running_point(self) -> RunningPoint | None:
        """What it does while it runs: measured while it mines, else its baseline, else the nameplate.

        Never a number of a machine that is not mining: asleep it reads 0 TH/s, which is not what it can earn.
        """
        reading = self.reading
        if reading is None or reading.implausible is not None:
            return None
        if reading.run_state is RunState.MINING:
            return _live_point(reading)
        baseline = self.baselines.latest
        if baseline is not None:
            return baseline_point(baseline)
        return self._nameplate_point(reading)

    def _nameplate_point(self, reading: Reading) -> RunningPoint | None:
        plate = nameplate(self.identity.model, expected_hashrate_ths=reading.expected_hashrate_ths)
        if plate is None:
            return None
        expected = reading.expected_hashrate_ths
        return RunningPoint(
            hashrate_ths=expected or plate.hashrate_ths,
            power_w=(expected or plate.hashrate_ths) * plate.efficiency_j_per_th,
            power_source=PowerSource.NAMEPLATE,
            power_error=plate.error,
            basis=Basis.EXPECTED if expected else Basis.NAMEPLATE,
            as_of=reading.began_at,
        )

    def situation(self, now: datetime, *, max_age: timedelta) -> Situation:
        """What a recommendation may rest on at `now`; a reading older than `max_age` is stale."""
        reading = self.reading
        if self.failure is not None or reading is None:
            return Situation(run_state=RunState.UNKNOWN, problem=Reason.UNREACHABLE)
        if now - reading.began_at > max_age:
            return Situation(run_state=RunState.UNKNOWN, problem=Reason.STALE_READING)
        if reading.implausible is not None:
            return Situation(run_state=reading.run_state, problem=Reason.IMPLAUSIBLE_READING)
        missing = _missing(reading, self.running_point())
        return Situation(run_state=reading.run_state, missing=missing, ours=self.ours)


def baseline_point(baseline: Baseline) -> RunningPoint:
    """What a machine does in a mode that it is known in."""
    return RunningPoint(
        hashrate_ths=baseline.hashrate_ths,
        power_w=baseline.power_w,
        power_source=baseline.conditions.power_source,
        power_error=baseline.power_error,
        basis=Basis.BASELINE,
        as_of=baseline.as_of,
    )


def _live_point(reading: Reading) -> RunningPoint | None:
    if reading.hashrate_ths is None or reading.power_w is None:
        return None
    return RunningPoint(
        hashrate_ths=reading.hashrate_ths,
        power_w=reading.power_w,
        power_source=reading.power_source,
        power_error=reading.power_error or 0.0,
        basis=Basis.LIVE,
        as_of=reading.began_at,
    )


def _missing(reading: Reading, point: RunningPoint | None) -> Reason | None:
    if point is not None:
        return None
    if reading.run_state is RunState.MINING and reading.hashrate_ths is not None:
        return Reason.POWER_UNKNOWN
    return Reason.HASHRATE_UNKNOWN


class Fleet:
    """All machines of a site by their identity."""

    def __init__(self, machines: Iterable[Machine] = ()) -> None:
        self._machines = {machine.machine_id: machine for machine in machines}

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def __getitem__(self, machine_id: MachineId) -> Machine:
        return self._machines[machine_id]

    def __contains__(self, machine_id: object) -> bool:
        return machine_id in self._machines

    def get(self, machine_id: MachineId) -> Machine | None:
        """The machine, if it is (still) in the fleet: a scan may retire one while it is being read."""
        return self._machines.get(machine_id)

    def remove(self, machine_id: MachineId) -> None:
        """Take out a machine that turned out to be another one of the fleet."""
        del self._machines[machine_id]

    def add(self, machine: Machine) -> None:
        """Add a machine that was found for the first time."""
        self._machines[machine.machine_id] = machine
