"""Reading machines: each family, a whole site with sick machines in it, and how the cost grows with the site."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time

from agent.fleet import Machine
from agent.poller import Poller
from bench.figures import OURS, Figure, Run, figures, interleaved, show
from bench.host import FAMILIES, OPTIONS, BenchSite, Rivals, site
from drivers.connect import connect
from drivers.driver import utc_now
from drivers.reading import Address, Family, Identity, MachineId, Reading
from drivers.simulator.control import SiteControl
from drivers.simulator.faults import Fault

WORKERS = 64
"""The agent's default, and what every contender has in flight."""
INCLUDE, EVERYTHING, RUST = "pyasic get_data(include)", "pyasic get_data()", "pyasic-rs, same fields"
TARGETS = {
    Family.ANTMINER: {INCLUDE: 12.0, EVERYTHING: 30.0, RUST: 1.2},
    Family.WHATSMINER_V2: {INCLUDE: 3.0},
    Family.WHATSMINER_V3: {INCLUDE: 3.0},
}
SICK = (Fault.NO_ANSWER, Fault.HANGS, Fault.GARBAGE)
SICK_SHARE = 0.03

Found = Sequence[tuple[Address, Identity]]


class Reader:
    """Reads machines as the agent does: its drivers, its poller."""

    def __init__(self, found: Found) -> None:
        now = datetime.now(UTC)
        self._machines = [
            (
                Machine(
                    machine_id=identity.machine_id or MachineId(str(address)),
                    identity=identity,
                    address=address,
                    first_seen_at=now,
                ),
                connect(identity, address, options=OPTIONS),
            )
            for address, identity in found
        ]
        self._poller = Poller(workers=WORKERS, deadline_s=600.0, clock=utc_now, seed=1)

    async def __call__(self) -> dict[str, float]:
        """One round."""
        cpu, wall = process_time(), perf_counter()
        result = await self._poller.poll(self._machines)
        took_s, cpu_s = perf_counter() - wall, process_time() - cpu
        good = sum(isinstance(each, Reading) for each in result.outcomes.values())
        return {"cpu_s": cpu_s, "wall_s": took_s, "good": good} | per_machine(cpu_s, len(self._machines))


def per_machine(cpu_s: float, machines: int) -> dict[str, float]:
    """CPU of one machine, ms."""
    return {"cpu_ms": cpu_s * 1000 / machines}


def rival(rivals: Rivals, how: str, found: Found) -> Run:
    """A rival's round over the same machines."""
    hosts = [address.host for address, _ in found]

    async def run() -> dict[str, float]:
        answer = await rivals.ask("poll", how=how, hosts=hosts, at_once=WORKERS)
        return answer | per_machine(answer["cpu_s"], len(hosts))

    return run


async def each_family(there: BenchSite, rivals: Rivals, runs: int) -> list[Figure]:
    """CPU of a reading, by family."""
    all_found: list[Figure] = []
    for family in FAMILIES:
        machines = there.of(family)
        hows = (INCLUDE, EVERYTHING, RUST) if family is Family.ANTMINER else (INCLUDE, RUST)
        contenders: dict[str, Run] = {OURS: Reader(machines)}
        contenders |= {how: rival(rivals, how, machines) for how in hows}
        results = await interleaved(contenders, runs)
        name = f"poll {family.value}"
        found = figures(name, "ms CPU per machine", "cpu_ms", results, TARGETS[family])
        show(found)
        all_found += found
    return all_found


async def whole_round(there: BenchSite, rivals: Rivals, runs: int, *, with_pyasic: bool) -> list[Figure]:
    """A round over a whole site of which some are dead, hang, or talk nonsense. The silent ones' time is not to be the
    round's: theirs is bounded, and the others go on."""
    ours = Reader(there.found)
    await ours()  # healthy: every rival may know its machines
    hosts = [address.host for address, _ in there.found]
    sick = random.Random(3).sample(hosts, int(SICK_SHARE * len(hosts)))
    async with SiteControl(there.control) as control:
        for number, host in enumerate(sick):
            await control.set_fault(host, SICK[number % len(SICK)])
        hows = (RUST, INCLUDE) if with_pyasic else (RUST,)
        contenders: dict[str, Run] = {OURS: Reader(there.found)}
        contenders |= {how: rival(rivals, how, there.found) for how in hows}
        results = await interleaved(contenders, runs)
        await control.clear_faults()
    name = f"round of {len(hosts)}, 3 % sick"
    found = [
        *figures(f"{name}: CPU", "s", "cpu_s", results, {RUST: 1.0}),
        *figures(f"{name}: time", "s", "wall_s", results),
        *figures(
            f"{name}: healthy machines not read",
            "machines",
            "missed",
            _missed(results, len(hosts) - len(sick)),
        ),
    ]
    show(found)
    return found


def _missed(results: dict[str, list], healthy: int) -> dict[str, list]:
    return {
        OURS: [{"missed": float(healthy - run["good"])} for run in results[OURS]],
    }


async def growth(folder: Path, sizes: Sequence[int], runs: int) -> list[Figure]:
    """CPU of a reading on a small site and on a big one, ours alone."""
    small, big = sizes
    costs = {}
    for size in (small, big):
        async with site(size, folder) as there:
            reader = Reader(there.found)
            repeat = max(1, 2000 // size)

            async def run(reader: Reader = reader, repeat: int = repeat) -> dict[str, float]:
                rounds = [await reader() for _ in range(repeat)]
                return {"cpu_ms": sum(each["cpu_ms"] for each in rounds) / repeat}

            costs[size] = await interleaved({OURS: run}, runs)
    pairs = zip(costs[small][OURS], costs[big][OURS], strict=True)
    ratios = {OURS: [{"growth": there["cpu_ms"] / here["cpu_ms"]} for here, there in pairs]}
    found = figures(f"CPU per machine at {big} over {small}", "times", "growth", ratios, {OURS: 1.2})
    show(found)
    return found
