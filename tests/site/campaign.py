"""A fault campaign: the real agent against a simulated site, struck amid a curtailment by one fault after the other.

    python -m tests.site.campaign [--machines 200] [--rounds 1] [--seed 1] [--only NAME]

For each fault energy becomes dear, the fault strikes while orders are under way, and is lifted; then everything must
come to rest as if nothing had been: every machine asleep on one order, and awake in its mode once energy is cheap.
Prints a table of what was lost, what was done wrongly, and how long it took to recover. The witness is the simulator's
own log.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent.clock import simulated_clock
from agent.market.sources import KEYLESS
from agent.orders import Order, OrderState
from agent.simulated.prices import SimulatedPrices, TrueMarket
from agent.simulated.web import SourceFault
from agent.store import Reader
from drivers.reading import RunState
from drivers.simulator.control import SiteControl
from drivers.simulator.faults import Fault
from drivers.simulator.machine import MachineTruth
from tests.site.conftest import CHEAP, DEAR, writes
from tests.site.test_crash import repeated

ROOT = Path(__file__).parents[2]
SPEED = 40.0
SETTLE_S = 200.0
"""Of the host's time. Machines need up to 15 minutes of theirs, and are polled every second of the host's."""
MINUTE_S = 60 / SPEED
"""Of the site, in seconds of the host."""
MOST_COMMANDS = 6
"""Of one machine in one curtailment and its end: each may be tried again once, and a drift put back."""
AGENT = """
import mmap, os, struct, sys
from datetime import datetime, timedelta
from agent import cli, service
from agent.clock import Clock, simulated_clock
utc, monotonic_s, speed, offset = sys.argv[1:5]
del sys.argv[1:5]
right = simulated_clock(utc=datetime.fromisoformat(utc), monotonic_s=float(monotonic_s), speed=float(speed))
memory = mmap.mmap(os.open(offset, os.O_RDONLY), 8, prot=mmap.PROT_READ)  # no file to open while there are none
now = lambda: right.now() + timedelta(seconds=struct.unpack("d", memory[:8])[0])
service.Clock = lambda: Clock(now=now, speed=float(speed))
cli.main()
"""
CONFIG = """
scan.addresses = {targets}
poll.interval_s = 1
poll.deadline_s = 1
power.kind = "file"
power.file = "{prices}"
power.interval_s = 86400
power.max_age_s = 900
power.poll_s = 60
[market]
source = "live"
{sources}
[curtailment]
mode = "auto"
switching_cost_usd = 0
cycles_per_day = 100
min_on_s = 0
min_off_s = 0
batch_machines = 40
ramp_kw_per_min = 100000
"""


@dataclass(frozen=True)
class Outcome:
    """What a fault led to. Times in seconds of the host."""

    fault: str
    lost: list[str]
    wrong: list[str]
    recovered_s: float | None
    awake_s: float | None
    given_up: str = ""
    """Orders that failed and were left to a person, by why."""

    @property
    def is_well(self) -> bool:
        return not self.lost and not self.wrong and self.recovered_s is not None and self.awake_s is not None

    def row(self) -> str:
        def seconds(value: float | None) -> str:
            return "never" if value is None else f"{value:.0f} s"

        wrong, lost = ("; ".join(found) or "nothing" for found in (self.wrong, self.lost))
        row = f"| {self.fault} | {lost} | {wrong} | {seconds(self.recovered_s)} | {seconds(self.awake_s)} |"
        return row + (f" given up: {self.given_up}" if self.given_up else "")


HEADER = "| fault | lost | done wrongly | asleep after | awake after |\n|---|---|---|---|---|"


DISK_BYTES = 2 << 30
"""Of which only what is written takes room."""


class Disk:
    """A file system of one's own, in a file. It can become read-only under programs that are writing to it, as ext4
    does when its device fails; then it must be mounted anew. Needs root and a loop device."""

    def __init__(self, directory: Path) -> None:
        self.image, self.place = directory / "disk.img", directory / "disk"

    def make(self) -> None:
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", self.image)
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", self.image, self.place)

    def unmount(self) -> None:
        _run("umount", self.place)

    def fail(self) -> None:
        """Every write fails from now on, with EROFS where a file is opened. Nobody may be writing just then: Linux
        (6.18) tells one whose fsync the abort overtakes that it is done, and it is not."""
        _run("sync", "--file-system", self.place)
        _run("mount", "-o", "remount,abort", self.place)

    def mend(self) -> None:
        """What an operator does: unmount, check, mount."""
        self.unmount()
        _run("e2fsck", "-p", self.image, good=(0, 1))
        self.mount()


def _run(*command: str | Path, good: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in good, f"{command}: {done.stdout}{done.stderr}"


def may_have_a_disk() -> bool:
    """Whether this user may mount a disk of one's own on this host."""
    with TemporaryDirectory(prefix="hashcost-disk-") as directory:
        disk = Disk(Path(directory))
        try:
            disk.make()
        except (AssertionError, OSError):
            return False
        disk.unmount()
    return True


class Stage:
    """A site in a process of its own, and the agent beside it, which may be stopped and started."""

    def __init__(
        self,
        directory: Path,
        ready: dict[str, Any],
        control: SiteControl,
        hashprice: SimulatedPrices,
        disk: Disk | None,
    ) -> None:
        self.directory, self.control, self.hashprice, self._disk = directory, control, hashprice, disk
        self.wrong: list[str] = []
        """What a fault has found to be wrong itself."""
        self.database = (directory if disk is None else disk.place) / "hashcost.db"
        self.prices = directory / "prices.csv"
        self.log: list[str] = []
        self._ready = ready
        self._offset = directory / "offset"
        self._offset.write_bytes(struct.pack("d", 0.0))
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        targets = json.dumps(ready["scan_targets"])
        urls = {name: url for name, url in hashprice.urls().items() if name in KEYLESS}
        sources = "\n".join(f'sources.{name}.url = "{url}"' for name, url in urls.items())
        config = CONFIG.format(targets=targets, prices=self.prices, sources=sources)
        (directory / "c.toml").write_text(config)

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def disk(self) -> Disk:
        assert self._disk is not None
        return self._disk

    async def start(self) -> None:
        """Start the agent."""
        ready = self._ready
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, ready["sim_utc"], str(ready["monotonic"]), str(ready["speed"]),
            str(self._offset), "run", "--config", str(self.directory / "c.toml"), "--database", str(self.database),
            "--socket", str(self.directory / "s"),
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.log.append(line.decode(errors="replace").rstrip())

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent and read what it still had to say."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        if self._reading is not None:
            await self._reading
        self._process = None

    async def price(self, usd_per_kwh: float) -> None:
        """What energy costs from now on: another price for the day from the start of the site on."""
        new = self.prices.with_suffix(".new")
        new.write_text(f"start,price\n{self._ready['sim_utc']},{usd_per_kwh}\n")
        new.replace(self.prices)

    def step_clock(self, seconds: float) -> None:
        """What the agent takes for the time is so far off from now on."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    def limit(self, which: int, soft: int | None) -> None:
        """A limit of the agent's process; None is as high as it may be."""
        most = resource.prlimit(self.process.pid, which)[1]
        resource.prlimit(self.process.pid, which, (most if soft is None else soft, most))

    def hashprice_is_there(self, there: bool) -> None:
        """Whether the sources of hashprice answer; else they close every connection."""
        faults = {} if there else dict.fromkeys(self.hashprice.urls(), SourceFault.DOWN)
        self.hashprice.server.faults = faults

    async def commands(self) -> int:
        """How many commands that change something the machines have received so far."""
        return sum(len(writes(truth)) for truth in await self.truths())

    async def commands_nothing(self, seconds: float, meanwhile: str) -> None:
        """It is wrong if a machine is commanded within the next seconds of the host."""
        before = await self.commands()
        await asyncio.sleep(seconds)
        if new := await self.commands() - before:
            self.wrong.append(f"{new} commands were sent {meanwhile}")

    async def orders(self) -> list[Order]:
        """Every order, as the database has it."""

        def read() -> list[Order]:
            with Reader(self.database) as reader:
                return reader.orders(100_000)

        return await asyncio.to_thread(read)

    async def truths(self) -> list[MachineTruth]:
        return await self.control.all_truth()

    async def noticed(self, event: str) -> None:
        """Wait until a fault was felt: one that strikes nothing proves nothing."""
        async with asyncio.timeout(60):
            while not any(event in line for line in self.log):
                await asyncio.sleep(0.1)

    async def moving(self) -> None:
        """Wait until orders are under way."""
        seen = len(self.log)
        async with asyncio.timeout(60):
            while not any("event=order" in line for line in self.log[seen:]):
                await asyncio.sleep(0.05)

    async def settles(self, state: RunState, *, standing: int) -> float | None:
        """Seconds until every machine is in that state, by the books and by the orders; None if never."""
        began = time.monotonic()
        while time.monotonic() - began < SETTLE_S:
            orders = await self.orders()
            at_rest = not any(order.is_open for order in orders)
            as_ordered = at_rest and sum(order.is_standing for order in orders) == standing
            if as_ordered and {truth.run_state for truth in await self.truths()} == {state}:
                return time.monotonic() - began
            await asyncio.sleep(0.5)
        return None


@asynccontextmanager
async def stage(directory: Path, machines: int, seed: int, disk: Disk | None) -> AsyncIterator[Stage]:
    """A site of so many machines, all mining, and an agent that knows them, with its database on that disk."""
    socket = directory / "control.sock"
    simulator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.simulator", "--machines", str(machines), "--speed", str(SPEED),
        "--seed", str(seed), "--network", "127.95.0.0/16", "--control", str(socket),
        stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert simulator.stdout is not None
        ready = json.loads(await simulator.stdout.readline())
        began_at = datetime.fromisoformat(ready["sim_utc"])
        clock = simulated_clock(utc=began_at, monotonic_s=ready["monotonic"], speed=ready["speed"])
        hashprice = SimulatedPrices(TrueMarket(began_at=began_at, seed=seed), clock.now)
        async with hashprice.server, SiteControl(socket) as control:
            found = Stage(directory, ready, control, hashprice, disk)
            await found.price(CHEAP)
            await found.start()
            try:
                async with asyncio.timeout(90):
                    while not any("event=scanned" in line for line in found.log):
                        await asyncio.sleep(0.1)
                yield found
            finally:
                await found.stop(signal.SIGKILL)
    finally:
        simulator.kill()
        await simulator.communicate()


# -- the faults -----------------------------------------------------------------------------------------

Strike = Callable[[Stage, random.Random], Awaitable[None]]


async def kill(stage: Stage, chance: random.Random) -> None:
    for _ in range(3):
        await asyncio.sleep(chance.uniform(0.05, 1.5))
        await stage.stop(signal.SIGKILL)
        await stage.start()


async def terminate(stage: Stage, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0.0, 0.5))
    await stage.stop(signal.SIGTERM)
    await stage.start()


async def suspend(stage: Stage, _: random.Random) -> None:
    stage.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(8 * MINUTE_S)
    stage.process.send_signal(signal.SIGCONT)


async def clock_ahead(stage: Stage, _: random.Random) -> None:
    stage.step_clock(3600)
    await asyncio.sleep(5)
    stage.step_clock(0)


async def clock_back(stage: Stage, _: random.Random) -> None:
    stage.step_clock(-3600)
    await asyncio.sleep(5)
    stage.step_clock(0)


async def disk_full(stage: Stage, _: random.Random) -> None:
    stage.limit(resource.RLIMIT_FSIZE, 8192)
    await stage.noticed("event=storage_failed")
    await asyncio.sleep(6)
    stage.limit(resource.RLIMIT_FSIZE, None)


async def no_files(stage: Stage, _: random.Random) -> None:
    stage.limit(resource.RLIMIT_NOFILE, 24)
    await stage.noticed("event=read_failed")
    await asyncio.sleep(6)
    stage.limit(resource.RLIMIT_NOFILE, None)


async def partition(stage: Stage, chance: random.Random) -> None:
    await _afflict(stage, chance, [Fault.NO_ANSWER, Fault.REFUSES], share=0.4, seconds=8)


async def hostile(stage: Stage, chance: random.Random) -> None:
    bad = [
        Fault.HANGS,
        Fault.OVERSIZED,
        Fault.GARBAGE,
        Fault.HALF_CLOSED,
        Fault.RESETS,
        Fault.SLOW_ANSWER,
        Fault.HTML,
    ]
    await _afflict(stage, chance, bad, share=0.4, seconds=8)


async def made_to_hurt(stage: Stage, chance: random.Random) -> None:
    """Some drip a byte at a time, some nest without end, two send 100 MB whenever they are asked."""
    truths = await stage.truths()
    for number, truth in enumerate(chance.sample(truths, int(0.4 * len(truths)))):
        if number < 2:
            await stage.control.set_fault(truth.address, Fault.OVERSIZED, size=100_000_000)
        elif number % 2:
            await stage.control.set_fault(truth.address, Fault.HALF_CLOSED, share=0.0, drip_s=0.02)
        else:
            await stage.control.set_fault(truth.address, Fault.GARBAGE, depth=50_000)
    await asyncio.sleep(8)
    await stage.control.clear_faults()
    await stage.noticed("event=read_failed")


async def read_only(stage: Stage, _: random.Random) -> None:
    """The file system turns read-only under the running agent, and stays so until somebody mounts it anew."""
    stage.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(stage.disk.fail)
    stage.process.send_signal(signal.SIGCONT)
    await stage.noticed("event=storage_failed")
    await stage.noticed("event=alert_began alert=storage")
    await stage.commands_nothing(6, "while nothing could be recorded")
    await stage.stop(signal.SIGTERM)
    stage.disk.mend()
    stage.log.clear()
    await stage.start()
    await stage.noticed("event=started")


async def no_sources(stage: Stage, _: random.Random) -> None:
    kept = stage.prices.with_suffix(".gone")
    stage.prices.rename(kept)
    stage.hashprice_is_there(False)
    await stage.noticed("event=source_failed")
    await asyncio.sleep(20 * MINUTE_S)
    await stage.noticed("event=alert_began alert=prices_in_doubt")
    stage.hashprice_is_there(True)
    kept.rename(stage.prices)


async def no_hashprice(stage: Stage, _: random.Random) -> None:
    """Once its last hashprice is too old to be acted on, no machine is woken, however cheap energy becomes."""
    stage.hashprice_is_there(False)
    await stage.noticed("event=source_failed")
    await stage.settles(RunState.ASLEEP, standing=len(await stage.truths()))
    await stage.noticed("event=alert_began alert=prices_in_doubt")
    await stage.price(CHEAP)
    await stage.commands_nothing(5 * MINUTE_S, "on a hashprice that nobody knows")
    await stage.price(DEAR)
    stage.hashprice_is_there(True)


async def damage(stage: Stage, _: random.Random) -> None:
    """A page of the database is spoiled while the agent is down; a copy of just before is put back."""
    await stage.stop(signal.SIGTERM)
    await _hashcost(stage, "backup", "--directory", str(stage.directory / "copies"))
    with stage.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    await stage.start()
    await stage.noticed("event=storage_failed")
    await stage.stop(signal.SIGTERM)
    copy = next((stage.directory / "copies").glob("hashcost-*.db"))
    await _hashcost(stage, "restore-db", str(copy))
    copy.unlink()
    await stage.start()


async def _hashcost(stage: Stage, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments, "--database", str(stage.database),
        stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def _afflict(
    stage: Stage, chance: random.Random, faults: list[Fault], *, share: float, seconds: float
) -> None:
    truths = await stage.truths()
    for truth in chance.sample(truths, int(share * len(truths))):
        await stage.control.set_fault(truth.address, chance.choice(faults))
    await asyncio.sleep(seconds)
    await stage.control.clear_faults()
    await stage.noticed("event=read_failed")


READ_ONLY = "disk read-only, mounted anew"
FAULTS: dict[str, Strike] = {
    "kill -9, three times": kill,
    "SIGTERM and start": terminate,
    "SIGSTOP for 8 minutes": suspend,
    "clock an hour ahead, and back": clock_ahead,
    "clock an hour back, and ahead": clock_back,
    "disk full": disk_full,
    READ_ONLY: read_only,
    "a spoiled page, a copy put back": damage,
    "no file descriptors": no_files,
    "40 % of the site cut off": partition,
    "40 % of the site hostile": hostile,
    "40 % drip, nest or send 100 MB": made_to_hurt,
    "all sources gone for 20 minutes": no_sources,
    "hashprice gone until it is too old": no_hashprice,
}


# -- the campaign ---------------------------------------------------------------------------------------


async def strike(stage: Stage, name: str, chance: random.Random) -> Outcome:
    """One fault amid a curtailment: what came of it."""
    before = {truth.mac: truth for truth in await stage.truths()}
    older = {order.order_id for order in await stage.orders()}
    machines = len(before)
    await stage.price(DEAR)
    await stage.moving()
    await FAULTS[name](stage, chance)
    asleep_s = await stage.settles(RunState.ASLEEP, standing=machines)
    await stage.price(CHEAP)
    awake_s = await stage.settles(RunState.MINING, standing=0)
    wrong = [*stage.wrong, *(line for line in stage.log if "Traceback" in line)]
    after = {truth.mac: truth for truth in await stage.truths()}
    orders = await stage.orders()
    ordered = {order.machine_id for order in orders}
    for mac, truth in after.items():
        new = len(writes(truth)) - len(writes(before[mac]))
        if new > MOST_COMMANDS:
            wrong.append(f"{mac} was sent {new} commands")
        if len(repeated(truth)) > len(repeated(before[mac])):
            wrong.append(f"{mac} was told again before it could have done it")
        if new and mac not in ordered:
            wrong.append(f"{mac} was commanded without an order")
    open_twice = [
        each for each, count in Counter(o.machine_id for o in orders if o.is_open).items() if count > 1
    ]
    wrong += [f"{each} has two open orders" for each in open_twice]
    lost = [f"the pools of {mac}" for mac, truth in after.items() if truth.pools != before[mac].pools]
    lost += [
        f"the mode of {mac}" for mac, truth in after.items() if truth.power_mode != before[mac].power_mode
    ]
    failed = Counter(
        f"{o.action.value} {o.failure}"
        for o in orders
        if o.state is OrderState.FAILED and o.order_id not in older
    )
    given_up = ", ".join(f"{n} {why}" for why, n in failed.items())
    outcome = Outcome(name, lost, wrong, asleep_s, awake_s, given_up)
    if not outcome.is_well:
        print(f"{name}: the agent's log", *stage.log, sep="\n", file=sys.stderr)  # noqa: T201 - for who looks into it
    stage.log.clear()
    stage.wrong.clear()
    return outcome


async def campaign(
    machines: int, names: list[str], *, seed: int, told: Callable[[Outcome], None]
) -> list[Outcome]:
    """Strike one fault after the other against one site."""
    chance, outcomes = random.Random(seed), []
    with TemporaryDirectory(prefix="hashcost-soak-") as directory:
        async with AsyncExitStack() as stack:
            disk = Disk(Path(directory)) if READ_ONLY in names else None
            if disk is not None:
                await asyncio.to_thread(disk.make)
                stack.callback(disk.unmount)
            site = await stack.enter_async_context(stage(Path(directory), machines, seed, disk))
            for name in names:
                outcomes.append(await strike(site, name, chance))
                told(outcomes[-1])
    return outcomes


def main() -> int:
    """Run as many rounds as told, and fail if anything was lost, wrong or late."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=FAULTS, action="append")
    options = parser.parse_args()
    names = options.only or list(FAULTS)
    if not options.only and not may_have_a_disk():
        names.remove(READ_ONLY)
        print(f"not run: {READ_ONLY}, which needs root and a loop device", file=sys.stderr)  # noqa: T201
    print(HEADER, flush=True)  # noqa: T201 - this is its output
    well = True
    for number in range(options.rounds):
        outcomes = asyncio.run(
            campaign(
                options.machines,
                names,
                seed=options.seed + number,
                told=lambda outcome: print(outcome.row(), flush=True),  # noqa: T201
            )
        )
        well = well and all(outcome.is_well for outcome in outcomes)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
