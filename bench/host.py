"""The other processes of a benchmark: a simulated site, and the rivals in their own environment."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.clock import Clock
from agent.demo import DemoOptions, simulated_site
from drivers.addresses import parse_targets
from drivers.discovery import scan
from drivers.driver import ReadOptions
from drivers.reading import Address, Family, Identity

FAMILIES = (Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3)
LINE_BYTES = 1 << 26
OPTIONS = ReadOptions(slow_interval_s=1e9, power_probe_interval_s=1e9)
"""The steady state: what is read rarely was read in the run that warms up, and is a figure of its own."""


class Rivals:
    """The process of the rivals: one question at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, do: str, **what: Any) -> dict[str, float]:
        """What bench/rivals.py measured."""
        assert self._process.stdin is not None  # noqa: S101 - asked for pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"do": do} | what).encode() + b"\n")
        await self._process.stdin.drain()
        answer: dict[str, float] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def rivals() -> AsyncIterator[Rivals]:
    """Start them, with the interpreter that BENCH_RIVALS names."""
    python = os.environ.get("BENCH_RIVALS", ".venv-rivals/bin/python")
    here = Path(__file__).parent
    process = await asyncio.create_subprocess_exec(
        python, "-P", str(here / "rivals.py"), stdin=PIPE, stdout=PIPE, limit=LINE_BYTES
    )
    try:
        assert process.stdout is not None  # noqa: S101
        if not await process.stdout.readline():
            sys.exit("the rivals did not start: make .venv-rivals")
        yield Rivals(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSite:
    """A simulated site and the machines that a scan found on it."""

    targets: list[str]
    found: tuple[tuple[Address, Identity], ...]
    control: Path
    clock: Clock

    def of(self, family: Family) -> list[tuple[Address, Identity]]:
        """The machines of a family."""
        return [each for each in self.found if each[1].family is family]

    def for_rivals(self) -> list[tuple[str, str]]:
        """Host and pyasic's class of each."""
        return [(address.host, identity.driver_class) for address, identity in self.found]


@asynccontextmanager
async def site(machines: int, folder: Path, *, speed: float = 60.0) -> AsyncIterator[BenchSite]:
    """Start a healthy site in another process and identify its machines."""
    control = folder / f"control-{machines}.sock"
    options = DemoOptions(
        machines=machines, seed=7, speed=speed, faults=False, auto=False, once=True, csv=None, as_json=True
    )
    async with simulated_site(options, control) as started:
        result = await scan(parse_targets(list(started.scan_targets)), options=OPTIONS)
        if len(result.found) != machines:
            sys.exit(f"the simulated site has {machines} machines, {len(result.found)} were found")
        yield BenchSite(
            targets=list(started.scan_targets), found=result.found, control=control, clock=started.clock
        )
