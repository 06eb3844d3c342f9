"""One simulated machine: who it is, what is wrong with it, and every command it received.

The protocols read it through `telemetry.observe` and change it through `change`, where the faults that concern
writing have their say. Truth is in its `plant`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from drivers.reading import Family, PowerMode, RunState
from drivers.simulator.clock import SimClock
from drivers.simulator.faults import Fault, FaultParameter, checked
from drivers.simulator.models import Model, WattsShown
from drivers.simulator.plant import Event, Plant

READS_KEPT = 40
WRITES_KEPT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSetting:
    """One configured pool."""

    url: str
    user: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """One command as it arrived. `kind` names protocol and command: `rpc:stats`, `web:set_miner_conf`, `v2:power_off`,
    `v3:set.miner.service`, `operator:sleep`."""

    at: datetime
    monotonic_s: float
    kind: str
    summary: str
    outcome: str
    writes: bool


class WriteOutcome(StrEnum):
    """What became of a write."""

    DONE = "done"
    IGNORED = "ignored"
    """Answered OK, did nothing."""
    REFUSED = "refused"
    CRASHED = "crashed"
    """The machine is rebooting; nobody answers any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """How this exemplar's firmware differs from its sisters'."""

    version: str
    compiled: str
    watts_shown: WattsShown
    empty_when_asleep: bool
    """Stock Antminer: asleep, STATS and SUMMARY are empty lists."""
    old_btminer: bool
    """Whatsminer V2: `btmineroff` in `status`, and nothing behind the mining process answers while it is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTruth:
    """What really is: noise-free, whatever the machine says of itself."""

    address: str
    mac: str
    serial: str
    family: Family
    model: str
    run_state: RunState
    power_mode: PowerMode
    hashrate_ths: float
    power_w: float
    energy_kwh: float
    hash_thh: float
    since: datetime
    at: datetime
    pools: tuple[str, ...]
    commands: tuple[CommandRecord, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class SimulatedMachine:
    """A machine at an address. `mac` and `serial` are its own; what it claims may differ by fault."""

    clock: SimClock
    exemplar: Model
    plant: Plant
    firmware: Firmware
    address: str
    mac: str
    serial: str
    seed: int
    noise: float
    pools: tuple[PoolSetting, ...]
    fan_control: bool = False
    fan_pwm: str = "100"
    freq_level: str = "100"
    locator_on: bool = False
    starts_after_power_cycle: bool = True
    staged: tuple[bool, PowerMode] | None = None
    """Sleep and mode as configured, while they wait for a reboot."""
    locked_until_s: float = 0.0
    """Monotonic: until then the web interface locks everybody out."""
    tokens: dict[str, float] = field(default_factory=dict)
    """Whatsminer V2: issued signs and the monotonic time at which each expires."""
    _faults: dict[Fault, dict[str, FaultParameter]] = field(default_factory=dict)
    _reads: list[CommandRecord] = field(default_factory=list)
    _writes: list[CommandRecord] = field(default_factory=list)

    @property
    def family(self) -> Family:
        """Which protocols it speaks."""
        return self.exemplar.family

    @property
    def model(self) -> str:
        """Its nameplate name."""
        return self.exemplar.name

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it listens. Port 6060 only with the firmware that has it."""
        has_6060 = self.firmware.watts_shown is WattsShown.PORT_6060
        return tuple(port for port in self.exemplar.ports if port != 6060 or has_6060)

    @property
    def claimed_mac(self) -> str:
        """The MAC that it tells."""
        fault = self._faults.get(Fault.DUPLICATE_MAC)
        return str(fault["mac"]) if fault else self.mac

    @property
    def offline(self) -> bool:
        """Rebooting: nothing listens."""
        return self.clock.seconds() < self.plant.offline_until_s

    def password(self, factory: str) -> str:
        """The password that opens it; `factory` unless somebody changed it."""
        fault = self._faults.get(Fault.WRONG_PASSWORD)
        return str(fault["password"]) if fault else factory

    # -- faults

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with it."""
        return tuple(self._faults)

    def has(self, fault: Fault) -> bool:
        """Whether the fault is set."""
        return fault in self._faults

    def number(self, fault: Fault, parameter: str) -> float:
        """A numeric parameter of a fault that is set."""
        return float(self._faults[fault][parameter])

    def set_fault(self, fault: Fault, parameters: dict[str, FaultParameter]) -> None:
        """Set a fault, or set it anew. Raises ValueError if it cannot befall this family."""
        self._faults[fault] = checked(fault, self.family, parameters)
        self._sync_boards()

    def clear_fault(self, fault: Fault | None = None) -> None:
        """Repair one thing, or everything."""
        if fault is None:
            self._faults.clear()
            self.locked_until_s = 0.0
        else:
            self._faults.pop(fault, None)
        self._sync_boards()

    def use_up(self, fault: Fault, parameter: str) -> bool:
        """Take one off a counting fault; True while there was one to take."""
        if not self.has(fault):
            return False
        left = int(self.number(fault, parameter)) - 1
        if left > 0:
            self._faults[fault][parameter] = left
        else:
            self.clear_fault(fault)
        return True

    def _sync_boards(self) -> None:
        dead = int(self.number(Fault.BOARD_DEAD, "boards")) if self.has(Fault.BOARD_DEAD) else 0
        dead = max(0, min(dead, self.plant.nature.boards))
        if dead != self.plant.dead_boards:
            now_s = self.clock.seconds()
            self.plant.advance(now_s)
            self.plant.dead_boards = dead
            self.plant.adjust(now_s, seconds=2.0)

    # -- commands

    def record(self, kind: str, summary: str, outcome: str, *, writes: bool) -> None:
        """Keep a command in the log; only the latest are kept."""
        log, kept = (self._writes, WRITES_KEPT) if writes else (self._reads, READS_KEPT)
        if len(log) >= 2 * kept:
            del log[:kept]
        entry = CommandRecord(
            at=self.clock.utc(),
            monotonic_s=self.clock.monotonic(),
            kind=kind,
            summary=summary[:200],
            outcome=outcome,
            writes=writes,
        )
        log.append(entry)

    def change(self, kind: str, summary: str, apply: Callable[[float], None]) -> WriteOutcome:
        """Carry out a write that a client sent, unless a fault has it otherwise, and log it."""
        outcome = self._change(apply)
        self.record(kind, summary, outcome, writes=True)
        return outcome

    def _change(self, apply: Callable[[float], None]) -> WriteOutcome:
        now_s = self.clock.seconds()
        if self.has(Fault.REFUSES_WRITES):
            return WriteOutcome.REFUSED
        if self.has(Fault.OK_BUT_NOTHING):
            return WriteOutcome.IGNORED
        if self.has(Fault.REBOOTS_MIDWAY):
            applied = self._faults.pop(Fault.REBOOTS_MIDWAY)["applied"]
            if applied:
                apply(now_s)
            self.reboot(now_s)
            return WriteOutcome.CRASHED
        was_asleep = self.plant.asleep
        apply(now_s)
        self._provoke(was_asleep, now_s)
        return WriteOutcome.DONE

    def _provoke(self, was_asleep: bool, now_s: float) -> None:
        asleep = self.plant.asleep
        if asleep and self.has(Fault.WAKES_BY_ITSELF):
            self.plant.later(now_s + self.number(Fault.WAKES_BY_ITSELF, "seconds"), Event.WAKE)
        if asleep != was_asleep and self.has(Fault.RIVAL_CONTROLLER):
            undo = Event.WAKE if asleep else Event.SLEEP
            self.plant.later(now_s + self.number(Fault.RIVAL_CONTROLLER, "seconds"), undo)

    # -- what it can be made to do; `at_s` is the moment in simulated seconds

    def sleep(self, at_s: float) -> None:
        """Go to sleep."""
        self.plant.sleep(at_s)

    def wake(self, at_s: float) -> None:
        """Wake up in the mode that is set. Awake already: nothing."""
        self.plant.advance(at_s)
        if self.plant.asleep:
            self.plant.wake(at_s)

    def set_mode(self, at_s: float, mode: PowerMode) -> None:
        """Mine in this mode, after a restart. Raises ValueError if the machine has no such mode."""
        if mode not in self.exemplar.modes:
            raise ValueError(f"{self.address}: {self.model} has no mode {mode}")
        self.plant.advance(at_s)
        self.plant.mode = mode
        self.plant.power_fraction = 1.0
        self.plant.restart(at_s)

    def set_power_fraction(self, at_s: float, fraction: float, *, seconds: float | None) -> None:
        """Limit power to a fraction of what the mode draws: within so many seconds, or (None) by a restart."""
        self.plant.advance(at_s)
        self.plant.power_fraction = fraction
        if seconds is None:
            self.plant.restart(at_s)
        else:
            self.plant.adjust(at_s, seconds)

    def set_pools(self, at_s: float, pools: tuple[PoolSetting, ...]) -> None:
        """Mine for these pools. Without any URL there is no work, and nothing hashes."""
        self.plant.advance(at_s)
        self.pools = pools
        self.plant.has_work = any(pool.url for pool in pools)

    def reboot(self, at_s: float) -> None:
        """Restart the control board. What was staged takes effect; a stopped Whatsminer starts again."""
        self.plant.advance(at_s)
        if self.staged is not None:
            self.plant.asleep, self.plant.mode = self.staged
            self.staged = None
        elif self.family is not Family.ANTMINER and self.starts_after_power_cycle:
            self.plant.asleep = False
        self.plant.reboot(at_s)

    # -- truth

    def truth(self) -> MachineTruth:
        """What really is, now."""
        now_s = self.clock.seconds()
        plant = self.plant
        plant.advance(now_s)
        commands = sorted((*self._reads, *self._writes), key=lambda record: record.monotonic_s)
        return MachineTruth(
            address=self.address,
            mac=self.mac,
            serial=self.serial,
            family=self.family,
            model=self.model,
            run_state=plant.run_state(now_s),
            power_mode=plant.mode,
            hashrate_ths=plant.hashrate_ths(now_s),
            power_w=plant.power_w(now_s),
            energy_kwh=plant.energy_kwh,
            hash_thh=plant.hash_thh,
            since=self.clock.epoch,
            at=self.clock.at(now_s),
            pools=tuple(pool.url for pool in self.pools),
            commands=tuple(commands),
        )
