"""Puts simulated machines with every fault to sleep and wakes them, and writes down what the driver said and what
really happened. The site's clock is moved by hand: nothing depends on the host's speed.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from drivers.connect import connect
from drivers.discovery import scan
from drivers.driver import Driver, DriverError, ReadOptions, Receipt, RestorePoint
from drivers.reading import Address, Family, PowerMode, PowerSource, Reading, RunState
from drivers.simulator.faults import FACTS, Fault
from drivers.simulator.machine import MachineTruth, SimulatedMachine
from drivers.simulator.site import Site, SiteSpec

FAMILIES = (Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3)
ACTIONS: tuple[Literal["sleep", "wake"], ...] = ("sleep", "wake")
OPTIONS = ReadOptions(deadline_s=0.8, connect_s=0.25, call_s=0.35, write_s=0.35)
MODE, FREQUENCY = PowerMode.LOW, "90"
STEP_S = {"sleep": 5.0, "wake": 30.0}
"""How often a machine is looked at after a command."""
ASLEEP_W = 300.0
SETTLED_S = 1800.0
"""Longer than any machine takes to wake, or to undo a command by itself."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of one command. `outcome` is what the receipt said or the kind of the error; `in_time` is what
    the machine does when its command should have had its effect, `later` half an hour on; `changed` says
    whether the machine took it. `confirmed_s` is after how many seconds a reading showed what was ordered."""

    outcome: str
    raised: bool
    changed: bool
    confirmed_s: float | None
    in_time: str
    later: str
    received: int
    kept: bool


Key = tuple[Fault | None, Family, Literal["sleep", "wake"]]


class HandClock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def keys() -> Iterator[Key]:
    """Every fault on every family that it befalls, and none, for both actions."""
    for family in FAMILIES:
        for fault in (None, *Fault):
            if fault is None or family in FACTS[fault].families:
                for action in ACTIONS:
                    yield fault, family, action


async def collect(network: str) -> dict[Key, Cell]:
    """The whole matrix; the families at the same time."""
    cells: dict[Key, Cell] = {}
    async with asyncio.TaskGroup() as group:
        for number, family in enumerate(FAMILIES):
            group.create_task(_collect(family, f"{network}.{64 * number}/26", cells))
    return cells


async def _collect(family: Family, network: str, cells: dict[Key, Cell]) -> None:
    clock = HandClock()
    async with Site(SiteSpec(machines=20, seed=1, speed=1.0, network=network), monotonic=clock) as site:
        machine = next(m for m in site.machines if m.family is family and MODE in m.exemplar.modes)
        ((address, identity),) = (await scan([Address(host=machine.address)], options=OPTIONS)).found
        for key in keys():
            if key[1] is family:
                other, driver = (connect(identity, address, options=OPTIONS) for _ in range(2))
                point = await _prepare(site, clock, machine, other, key[2])
                cells[key] = await _cell(site, clock, machine, driver, point, key)


async def _cell(
    site: Site, clock: HandClock, machine: SimulatedMachine, driver: Driver, point: RestorePoint, key: Key
) -> Cell:
    fault, _, action = key
    pools, fans = machine.pools, (machine.fan_control, machine.fan_pwm)
    asleep, before = machine.plant.asleep, len(_writes(machine.truth()))
    if fault is not None:
        site.set_fault(machine.address, fault)
    outcome = await _outcome(driver, action, point)
    staged = machine.staged[0] if machine.staged else machine.plant.asleep
    changed = staged != asleep
    received = len(_writes(machine.truth())) - before
    began_s = clock.now_s
    confirmed_s = None if isinstance(outcome, DriverError) else await _confirmed_s(clock, driver, action)
    clock.now_s = began_s + _within_s(driver, action)
    in_time = machine.truth().run_state
    clock.now_s += SETTLED_S
    later = machine.truth().run_state
    intact = (machine.pools, (machine.fan_control, machine.fan_pwm)) == (pools, fans)
    return Cell(
        outcome=str(outcome.said) if isinstance(outcome, Receipt) else outcome.kind,
        raised=isinstance(outcome, DriverError),
        changed=changed,
        confirmed_s=confirmed_s,
        in_time=in_time,
        later=later,
        received=received,
        kept=intact and machine.plant.mode is MODE and machine.freq_level == FREQUENCY,
    )


def _within_s(driver: Driver, action: str) -> float:
    return driver.timings.sleep_within_s if action == "sleep" else driver.timings.wake_within_s


async def _confirmed_s(clock: HandClock, driver: Driver, action: str) -> float | None:
    """Seconds until a reading shows what was ordered, looking every few; None if none does within the family's time."""
    step_s = STEP_S[action]
    for step in range(1, int(_within_s(driver, action) / step_s) + 1):
        clock.now_s += step_s
        if action == "sleep" and step * step_s < driver.timings.sleep_from_s:
            continue
        with suppress(DriverError):
            if _shows(await driver.read(), action):
                return step * step_s
    return None


def _shows(reading: Reading, action: str) -> bool:
    """Hashing stopped and, where they are measured, watts down; or hashing again in the mode that it had. What is
    implausible shows nothing."""
    if reading.implausible is not None:
        return False
    if action == "wake":
        return reading.run_state is RunState.MINING and reading.power_mode in {MODE, None}
    measured = reading.power_source is PowerSource.REPORTED and reading.power_w is not None
    return reading.run_state is RunState.ASLEEP and not (measured and (reading.power_w or 0.0) > ASLEEP_W)


async def _prepare(
    site: Site, clock: HandClock, machine: SimulatedMachine, driver: Driver, action: str
) -> RestorePoint:
    """A sound machine that mines in its low mode, or sleeps from there."""
    site.clear_faults()
    machine.staged = None
    machine.tokens.clear()
    machine.freq_level = FREQUENCY
    site.wake(machine.address)
    site.set_mode(machine.address, MODE)
    clock.now_s += 86_400.0
    machine.truth()
    point = await driver.restore_point()
    if action == "wake":
        await driver.sleep()
        clock.now_s += 3600.0
        machine.truth()
    return point


async def _outcome(driver: Driver, action: str, point: RestorePoint) -> Receipt | DriverError:
    try:
        return await (driver.sleep() if action == "sleep" else driver.wake(point))
    except DriverError as error:
        return error


def _writes(truth: MachineTruth) -> list[str]:
    return [c.outcome for c in truth.commands if c.writes and not c.kind.startswith("operator:")]


# -- as a document -------------------------------------------------------------------------------------------

HEAD = """# Faults and commands

What the drivers answer when a machine with a fault is put to sleep or woken, and what really happened to it. The
simulated site wrote this (`tests/drivers/test_fault_matrix.py`); with `HASHCOST_WRITE_DOCS=1` in the environment
the same test writes it anew.

*Answer*: `ok` and `silent` are what a receipt says: a command was sent, and only readings tell what came of it.
Everything else is the kind of an error: the machine certainly did not accept the command. *Confirmed after*:
seconds of the site's clock until a plausible reading proves it, a dash where none does in the family's time; a sleep
is looked for every 5 s, of a stock Antminer from 120 s on, because one that only restarts looks asleep for a while; a
wake every 30 s. *Machine*: what it really does when its family's time for the command is over, and, where that is
something else, half an hour later (a machine that was awake and was not put to sleep is `mining`). *Sent*: how many
commands that change something reached it. *Kept*: pools, fans, power mode and frequency level are what they were.
"""
TABLE = (
    "| fault | command | answer | confirmed after | machine | sent | kept |\n|---|---|---|---|---|---|---|\n"
)
_NAMES = {
    Family.ANTMINER: "Stock Antminer",
    Family.WHATSMINER_V2: "Whatsminer, API V2",
    Family.WHATSMINER_V3: "Whatsminer, API V3",
}


def document(cells: Mapping[Key, Cell]) -> str:
    """The matrix as Markdown."""
    parts = [HEAD]
    for family in FAMILIES:
        parts.append(f"\n## {_NAMES[family]}\n\n{TABLE}")
        parts += [_line(key, cells[key]) for key in keys() if key[1] is family]
    return "".join(parts)


def _line(key: Key, cell: Cell) -> str:
    fault, _, action = key
    machine = cell.in_time if cell.later == cell.in_time else f"{cell.in_time}, later {cell.later}"
    columns = (
        fault or "none",
        action,
        f"`{cell.outcome}`",
        "-" if cell.confirmed_s is None else f"{cell.confirmed_s:.0f} s",
        machine,
        cell.received,
        "yes" if cell.kept else "**no**",
    )
    return "| " + " | ".join(map(str, columns)) + " |\n"
