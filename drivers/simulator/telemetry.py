"""What a machine says of itself: truth, with noise, averages, temperatures, and the faults that spoil readings."""

import math
from dataclasses import dataclass

from drivers.simulator.faults import Fault
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.models import Cooling
from drivers.simulator.physics import DAY_S, noise

AMBIENT_C = 24.0
AMBIENT_SWING_C = 6.0
WARMEST_S = 15 * 3600.0
WATER_C = 34.0
CHIP_RISE_C = 48.0
BOARD_RISE_C = 36.0
IDLE_FAN_RPM = 960


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSaid:
    """One hashboard as the machine describes it."""

    index: int
    alive: bool
    hashrate_ths: float
    ideal_ths: float
    chips: int
    chip_c: tuple[float, float]
    """Coolest and hottest chip."""
    pcb_c: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """All numbers of one answer, of one moment. `power_w` None means that the answer has no wattage in it."""

    when: int
    elapsed_s: int
    asleep: bool
    hash_5s_ths: float
    hash_1m_ths: float
    hash_15m_ths: float
    hash_30m_ths: float
    hash_av_ths: float
    ideal_ths: float
    power_w: float | None
    boards: tuple[BoardSaid, ...]
    fans_rpm: tuple[int, ...]
    inlet_c: float
    pools_alive: bool

    @property
    def chip_c(self) -> tuple[float, float]:
        """Coolest and hottest chip of all live boards."""
        alive = [board.chip_c for board in self.boards if board.alive] or [(0.0, 0.0)]
        return min(low for low, _ in alive), max(high for _, high in alive)


def observe(machine: SimulatedMachine) -> Said:
    """What the machine says now."""
    now_s = machine.clock.seconds()
    plant = machine.plant
    plant.advance(now_s)
    elapsed_s = max(1.0, now_s - plant.started_s)
    unit = 1000.0 if machine.has(Fault.HASHRATE_X1000) else 1.0
    spread = machine.noise * noise(machine.seed, now_s, 5.0)
    minute = machine.noise * 0.35 * noise(machine.seed + 1, now_s, 60.0)
    inlet_c = _inlet_c(machine, now_s)
    return Said(
        when=int(machine.clock.at(now_s).timestamp()),
        elapsed_s=int(elapsed_s),
        asleep=plant.asleep,
        hash_5s_ths=unit * plant.hashrate_ths(now_s) * (1 + spread),
        hash_1m_ths=unit * plant.mean_hashrate_ths(now_s, 60.0) * (1 + minute),
        hash_15m_ths=unit * plant.mean_hashrate_ths(now_s, 900.0) * (1 + minute / 4),
        hash_30m_ths=unit * plant.mean_hashrate_ths(now_s, 1800.0) * (1 + minute / 5),
        hash_av_ths=unit * plant.mean_hashrate_ths(now_s, min(elapsed_s, 3600.0)),
        ideal_ths=machine.exemplar.hashrate_ths,
        power_w=_watts(machine, now_s),
        boards=_boards(machine, now_s, inlet_c, unit * (1 + spread)),
        fans_rpm=_fans(machine, now_s, inlet_c),
        inlet_c=inlet_c,
        pools_alive=not machine.has(Fault.POOL_DEAD),
    )


def _inlet_c(machine: SimulatedMachine, now_s: float) -> float:
    if machine.exemplar.cooling is not Cooling.AIR:
        return WATER_C
    midnight = machine.clock.epoch.replace(hour=0, minute=0, second=0, microsecond=0)
    of_day_s = (machine.clock.epoch - midnight).total_seconds() + now_s
    wave = math.cos(2 * math.pi * (of_day_s - WARMEST_S) / DAY_S)
    return AMBIENT_C + AMBIENT_SWING_C * wave + (machine.seed % 40) / 10 - 2.0


def _watts(machine: SimulatedMachine, now_s: float) -> float | None:
    if machine.has(Fault.WATTS_ABSENT):
        return None
    if machine.has(Fault.WATTS_NAN):
        return math.nan
    if machine.has(Fault.WATTS_ZERO):
        return 0.0
    return machine.plant.power_w(now_s) * (1 + machine.noise * 0.3 * noise(machine.seed + 2, now_s, 5.0))


def _boards(machine: SimulatedMachine, now_s: float, inlet_c: float, factor: float) -> tuple[BoardSaid, ...]:
    plant, exemplar = machine.plant, machine.exemplar
    count = exemplar.boards
    alive = count - plant.dead_boards
    share = plant.hashrate_ths(now_s) * factor / alive if alive else 0.0
    warmth = plant.warmth(now_s)
    said = []
    for index in range(count):
        lives = index < alive
        # boards differ a little from each other, and the differences cancel out
        tilt = 0.01 * (index - (alive - 1) / 2)
        hottest = inlet_c + CHIP_RISE_C * warmth + 1.5 * index
        if machine.has(Fault.HOT_CHIPS):
            hottest = machine.number(Fault.HOT_CHIPS, "celsius")
        pcb = inlet_c + BOARD_RISE_C * warmth + index
        said.append(
            BoardSaid(
                index=index,
                alive=lives,
                hashrate_ths=share * (1 + tilt) if lives else 0.0,
                ideal_ths=exemplar.hashrate_ths / count,
                chips=exemplar.chips_per_board if lives else 0,
                chip_c=(hottest - 18 * warmth, hottest) if lives else (0.0, 0.0),
                pcb_c=(pcb - 14 * warmth, pcb) if lives else (0.0, 0.0),
            )
        )
    return tuple(said)


def _fans(machine: SimulatedMachine, now_s: float, inlet_c: float) -> tuple[int, ...]:
    busy = min(1.0, machine.plant.warmth(now_s)) * (0.55 + 0.015 * (inlet_c - 10))
    rpm = IDLE_FAN_RPM + busy * 5200
    return tuple(int(rpm / 30 + index % 2) * 30 for index in range(machine.exemplar.fans))
