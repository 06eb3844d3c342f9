"""The vocabulary that every driver speaks: what a machine is, and what it said at a moment.

Everything is frozen. `None` means *nobody measured it*; a zero was measured. Units are in the names.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType

MachineId = NewType("MachineId", str)
"""Stable name of a machine for its whole life: its MAC (`02:13:..`), or `sn:<serial>` where it has none.
Never its address, which DHCP hands to somebody else."""


class Family(StrEnum):
    """Which driver reads a machine."""

    ANTMINER = "antminer"
    WHATSMINER_V2 = "whatsminer_v2"
    WHATSMINER_V3 = "whatsminer_v3"
    GENERIC = "generic"


class RunState(StrEnum):
    """What a machine is doing, by evidence of the reading alone."""

    MINING = "mining"
    RAMPING = "ramping"
    """Boards are powering up, tuning or winding down: hashrate and watts say nothing about steady state."""
    ASLEEP = "asleep"
    """The machine says that it was told to stop (its mode or state says so) and it does not hash."""
    STOPPED = "stopped"
    """It should mine by its own configuration, and does not."""
    UNKNOWN = "unknown"


class PowerMode(StrEnum):
    """The mode a machine mines in. Sleep is not a mode: it is what is woken from."""

    NORMAL = "normal"
    HIGH = "high"
    LOW = "low"
    HIGH_EFFICIENCY = "high_efficiency"


class PowerSource(StrEnum):
    """Where a wattage comes from, best first (facts on power truth: docs/reference.md)."""

    METERED = "metered"
    REPORTED = "reported"
    CUSTOM = "custom"
    NAMEPLATE = "nameplate"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a machine answers. `port` is None for its family's usual ports."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a machine is. `mac` is upper case with colons; `driver_class` names the pyasic class to rebuild.

    `model` is the bare `make` while the machine does not tell its model, as some do not while they sleep.
    """

    family: Family
    make: str
    model: str
    firmware: str | None
    mac: str | None
    serial: str | None
    driver_class: str

    @property
    def machine_id(self) -> MachineId | None:
        """The MAC, else the serial, else None: such a machine cannot be told from another."""
        if self.mac:
            return MachineId(self.mac)
        return MachineId(f"sn:{self.serial}") if self.serial else None

    def completed_by(self, known: "Identity") -> "Identity":
        """This identity, with what the machine does not tell now as it is `known` of the same machine."""
        told = self.model != self.make
        return replace(
            self,
            model=self.model if told else known.model,
            driver_class=self.driver_class if told else known.driver_class,
            firmware=self.firmware or known.firmware,
            serial=self.serial or known.serial,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One hashboard. `alive` is False for a board that is missing or dead, None if the machine does not say."""

    slot: int
    alive: bool | None
    hashrate_ths: float | None = None
    chip_temp_c: float | None = None
    board_temp_c: float | None = None
    chips: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One configured pool, without its password."""

    url: str
    user: str | None
    alive: bool | None
    active: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one machine said in one poll.

    `began_at` is taken before the first byte is sent: only a reading that began after a command is evidence
    for it. `power_error` is the half-width of the wattage's error band as a fraction (0.05 = +-5 %).
    `implausible` gives the reason why the numbers must not be acted on, or None.
    """

    began_at: datetime
    ended_at: datetime
    run_state: RunState
    hashrate_ths: float | None
    expected_hashrate_ths: float | None
    power_w: float | None
    power_source: PowerSource
    power_error: float | None
    power_mode: PowerMode | None
    boards: tuple[Board, ...] = ()
    fans_rpm: tuple[int, ...] = ()
    inlet_temp_c: float | None = None
    pools: tuple[Pool, ...] = ()
    uptime_s: int | None = None
    errors: tuple[str, ...] = ()
    firmware: str | None = None
    implausible: str | None = None

    @property
    def efficiency_j_per_th(self) -> float | None:
        """Watts per terahash per second; None unless both are known and the machine hashes."""
        if self.power_w is None or not self.hashrate_ths:
            return None
        return self.power_w / self.hashrate_ths

    @property
    def chip_temp_c(self) -> float | None:
        """The hottest chip reported, degC."""
        return max((b.chip_temp_c for b in self.boards if b.chip_temp_c is not None), default=None)
