"""The physical side of one machine: does it hash, how much, at how many watts, and the books of both.

State is evaluated when somebody asks: `advance` carries out what was scheduled since the last time and books the
exact integrals up to now. All times are simulated seconds since the site started.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from drivers.reading import PowerMode, RunState
from drivers.simulator.physics import Ramp, Swing, Warmth, steady

MODE_FACTORS = {
    PowerMode.NORMAL: (1.0, 1.0),
    PowerMode.LOW: (0.78, 0.68),
    PowerMode.HIGH_EFFICIENCY: (0.88, 0.80),
    PowerMode.HIGH: (1.08, 1.17),
}
"""Hashrate and power of each mode, as fractions of normal."""
UNDERVOLT_EXPONENT = 0.7
"""Hashrate falls slower than power when power is limited: fraction ** 0.7."""
STARVED_POWER = 0.3
"""A machine without work keeps its boards powered."""
THERMAL_LAG_S = 90.0
RESTART_PAUSE_S = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """What this exemplar is: its own figures, a few percent off the nameplate, and how fast it is."""

    hashrate_ths: float
    power_w: float
    sleep_power_w: float
    boards: int
    swing: Swing
    down_delay_s: float
    down_s: float
    power_up_s: float
    hash_delay_s: float
    hash_up_s: float
    reboot_s: float


class Event(StrEnum):
    """What can be scheduled."""

    START = "start"
    BOOT = "boot"
    WAKE = "wake"
    SLEEP = "sleep"


@dataclass(slots=True, kw_only=True, eq=False)
class Plant:
    """One machine's boards and power supply. `sleep`, `wake` and the rest take the moment at which they happen."""

    nature: Nature
    asleep: bool = False
    mode: PowerMode = PowerMode.NORMAL
    power_fraction: float = 1.0
    dead_boards: int = 0
    has_work: bool = True
    offline_until_s: float = -math.inf
    started_s: float = 0.0
    energy_kwh: float = 0.0
    hash_thh: float = 0.0
    _hash: Ramp = field(init=False)
    _power: Ramp = field(init=False)
    _warmth: Warmth = field(init=False)
    _settled_s: float = -math.inf
    _booked_s: float = 0.0
    _pending: list[tuple[float, Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin warmed up, in steady state."""
        hashrate, power = self._targets()
        self._hash, self._power = steady(hashrate), steady(power)
        warm = power / self.nature.power_w
        self._warmth = Warmth(before=warm, after=warm, start_s=0.0, lag_s=THERMAL_LAG_S)

    # -- asking

    def advance(self, at_s: float) -> None:
        """Carry out what is due and book everything up to now."""
        while self._pending and self._pending[0][0] <= at_s:
            due_s, event = self._pending.pop(0)
            self._book(due_s)
            self._happen(due_s, event)
        self._book(at_s)

    def hashrate_ths(self, at_s: float) -> float:
        """Noise-free hashrate. Call `advance` first."""
        return self._hash.at(at_s)

    def mean_hashrate_ths(self, at_s: float, window_s: float) -> float:
        """Noise-free mean over the last seconds; before the last change counts as steady."""
        return self._hash.integral(at_s - window_s, at_s) / window_s

    def power_w(self, at_s: float) -> float:
        """Noise-free wall power. Call `advance` first."""
        return self._power.at(at_s) * self.nature.swing.at(at_s)

    def warmth(self, at_s: float) -> float:
        """Temperature rise over ambient, as a fraction of the rise at full power."""
        return self._warmth.at(at_s)

    def run_state(self, at_s: float) -> RunState:
        """What the machine really does."""
        if at_s < self._settled_s:
            return RunState.RAMPING
        if self.asleep:
            return RunState.ASLEEP
        return RunState.MINING if self._hash.at(at_s) > 0 else RunState.STOPPED

    # -- doing

    def sleep(self, at_s: float) -> None:
        """Stop hashing and fall to the sleep draw."""
        self.advance(at_s)
        self.asleep = True
        self._forget(Event.START, Event.SLEEP)
        self._run_down(at_s)

    def wake(self, at_s: float) -> None:
        """Start up from sleep, in the mode it is in."""
        self.advance(at_s)
        self.asleep = False
        self._forget(Event.WAKE)
        self._start(at_s)

    def restart(self, at_s: float) -> None:
        """Stop the mining process and start it again, as every change of configuration does. Asleep: nothing."""
        self.advance(at_s)
        if self.asleep:
            return
        self._forget(Event.START)
        self._run_down(at_s)
        self._schedule(self._settled_s + RESTART_PAUSE_S, Event.START)
        self._settled_s = math.inf

    def reboot(self, at_s: float) -> None:
        """Go off the network, come back, and start unless asleep."""
        self.advance(at_s)
        self._forget(Event.START, Event.BOOT)
        self._retarget(at_s, 0.0, self.nature.sleep_power_w, seconds=1.0)
        self.offline_until_s = at_s + self.nature.reboot_s
        self._schedule(self.offline_until_s, Event.BOOT)
        self._settled_s = math.inf

    def adjust(self, at_s: float, seconds: float) -> None:
        """Go to what the present mode, limit and boards ask for, without a restart."""
        self.advance(at_s)
        if self.asleep or self._settled_s == math.inf:
            return  # what was changed takes effect at the next start
        if at_s < self._settled_s:
            self._bend(at_s)
        else:
            self._retarget(at_s, *self._targets(), seconds=seconds)
            self._settled_s = at_s + seconds

    def later(self, at_s: float, event: Event) -> None:
        """Have something happen by itself."""
        self._schedule(at_s, event)

    # -- inside

    def _targets(self) -> tuple[float, float]:
        hash_factor, power_factor = MODE_FACTORS[self.mode]
        alive = (self.nature.boards - self.dead_boards) / self.nature.boards
        power = self.nature.power_w * power_factor * alive * self.power_fraction
        hashrate = self.nature.hashrate_ths * hash_factor * alive * self.power_fraction**UNDERVOLT_EXPONENT
        if not self.has_work:
            hashrate, power = 0.0, power * STARVED_POWER
        return hashrate, max(power, self.nature.sleep_power_w)

    def _happen(self, at_s: float, event: Event) -> None:
        match event:
            case Event.START:
                self._start(at_s)
            case Event.BOOT if self.asleep:
                self._settled_s = at_s
            case Event.BOOT:
                self._start(at_s)
            case Event.WAKE if self.asleep:
                self.wake(at_s)
            case Event.SLEEP if not self.asleep:
                self.sleep(at_s)

    def _start(self, at_s: float) -> None:
        hashrate, power = self._targets()
        nature = self.nature
        hash_begins_s = at_s + nature.hash_delay_s
        self._hash = Ramp(
            before=self._hash.at(at_s),
            after=hashrate,
            start_s=hash_begins_s,
            end_s=hash_begins_s + nature.hash_up_s,
        )
        self._power = Ramp(
            before=self._power.at(at_s), after=power, start_s=at_s, end_s=at_s + nature.power_up_s
        )
        self._heat(at_s, power)
        self.started_s = at_s
        self._settled_s = self._hash.end_s

    def _run_down(self, at_s: float) -> None:
        begins_s = at_s + self.nature.down_delay_s
        self._retarget(begins_s, 0.0, self.nature.sleep_power_w, seconds=self.nature.down_s)
        self._settled_s = begins_s + self.nature.down_s

    def _retarget(self, begins_s: float, hashrate: float, power: float, *, seconds: float) -> None:
        ends_s = begins_s + seconds
        before = self._hash.at(self._booked_s)
        self._hash = Ramp(before=before, after=hashrate, start_s=begins_s, end_s=ends_s)
        before = self._power.at(self._booked_s)
        self._power = Ramp(before=before, after=power, start_s=begins_s, end_s=ends_s)
        self._heat(begins_s, power)

    def _bend(self, at_s: float) -> None:
        """Starting up: arrive at the new targets at the time it would have arrived at the old ones."""
        hashrate, power = self._targets()
        self._hash = _bent(self._hash, at_s, hashrate)
        self._power = _bent(self._power, at_s, power)
        self._heat(at_s, power)

    def _heat(self, begins_s: float, power: float) -> None:
        self._warmth = Warmth(
            before=self._warmth.at(self._booked_s),
            after=power / self.nature.power_w,
            start_s=begins_s,
            lag_s=THERMAL_LAG_S,
        )

    def _book(self, at_s: float) -> None:
        if at_s <= self._booked_s:
            return
        self.hash_thh += self._hash.integral(self._booked_s, at_s) / 3600.0
        watt_seconds = self._power.integral(self._booked_s, at_s, self.nature.swing)
        self.energy_kwh += watt_seconds / 3_600_000.0
        self._booked_s = at_s

    def _schedule(self, at_s: float, event: Event) -> None:
        self._pending.append((at_s, event))
        self._pending.sort(key=lambda entry: entry[0])

    def _forget(self, *events: Event) -> None:
        self._pending = [entry for entry in self._pending if entry[1] not in events]


def _bent(ramp: Ramp, at_s: float, after: float) -> Ramp:
    start_s = max(at_s, ramp.start_s)
    return Ramp(before=ramp.at(at_s), after=after, start_s=start_s, end_s=max(start_s, ramp.end_s))
