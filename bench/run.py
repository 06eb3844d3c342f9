"""`make bench` and `make bench-short`: every figure of docs/performance.md, in one run, beside its rivals.

The simulated site and the rivals are other processes, whose CPU is not counted as ours. Runs are interleaved. Prints
figures as they come; the whole run writes bench/latest.json, the short one bench/short.json.
"""

import argparse
import asyncio
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from agent.event_loop import run
from agent.limits import allow_files
from bench import core, money, polling, scanning, terminal, whole_agent
from bench.figures import Figure, show, write
from bench.host import rivals, site


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    runs: int
    long_runs: int
    """Of what takes long: whole rounds and scans."""
    poll_machines: int
    round_machines: int
    find_machines: int
    find_prefix: int
    growth: tuple[int, int]
    agent_rounds: int
    curtail_machines: int


WHOLE = Size(
    runs=5, long_runs=5, poll_machines=200, round_machines=10_000, find_machines=2_000, find_prefix=19,
    growth=(100, 10_000),
    agent_rounds=10, curtail_machines=2_000,
)  # fmt: skip
SHORT = Size(
    runs=5, long_runs=2, poll_machines=100, round_machines=500, find_machines=200, find_prefix=22, growth=(100, 1_000),
    agent_rounds=5, curtail_machines=100,
)  # fmt: skip
PARTS = ("poll", "core", "find", "round", "growth", "agent", "curtail", "terminal", "money")
SHORT_PARTS = PARTS[:-2]


async def measure(size: Size, folder: Path, parts: tuple[str, ...]) -> list[Figure]:
    """Every figure of the parts that were asked for."""
    found: list[Figure] = []
    async with rivals() as others:
        if "poll" in parts:
            async with site(size.poll_machines, folder) as there:
                await others.ask("know", machines=there.for_rivals())
                found += await polling.each_family(there, others, size.runs)
        if "core" in parts:
            found += await core.after_a_round(folder, size.runs)
        if "find" in parts:
            async with site(size.find_machines, folder) as there:
                found += await scanning.find(there, others, size.long_runs, size.find_prefix)
        if "round" in parts:
            async with site(size.round_machines, folder) as there:
                await others.ask("know", machines=there.for_rivals())
                found += await polling.whole_round(there, others, size.long_runs, with_pyasic=size is WHOLE)
        if "growth" in parts:
            found += await polling.growth(folder, size.growth, size.runs)
        if "agent" in parts:
            async with site(size.round_machines, folder) as there:
                found += await whole_agent.idle(there, folder, size.agent_rounds)
        if "curtail" in parts:
            async with site(size.curtail_machines, folder, speed=whole_agent.CURTAIL_SPEED) as there:
                await others.ask("know", machines=there.for_rivals())
                found += await whole_agent.curtail(there, others, folder)
    if "money" in parts:
        found += await money.books(folder, size.runs)
    if "terminal" in parts:
        screens = await asyncio.to_thread(terminal.terminal_figures, folder)
        show(screens)
        found += screens
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description="Measure hashcost beside its rivals."
    )
    parser.add_argument("--short", action="store_true", help="smaller sites, under five minutes")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    allow_files(Config())
    everything = SHORT_PARTS if options.short else PARTS
    size, parts = (SHORT if options.short else WHOLE), tuple(options.parts) or everything
    with tempfile.TemporaryDirectory(prefix="hashcost-bench-") as name:
        found = run(measure(size, Path(name), parts))
    if parts == everything:
        output = Path(__file__).parent / ("short.json" if options.short else "latest.json")
        write(found, output)
        sys.stdout.write(f"written to {output}\n")


if __name__ == "__main__":
    main()
