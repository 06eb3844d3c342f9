"""The terminal with a big site that never stands still, beside a stock DataTable, each a process on a pseudo-terminal.

`python bench/terminal.py` runs it alone; `make bench` runs it with the rest. 10,000 machines of which 300 a second
change, an arrow key eight times a second. A key is painted when the program has written the row under the cursor anew,
with the address of another machine in it; a key that is never painted counts as `PATIENCE_S`. CPU is that of the
program's process over the same time, all threads; memory is what is resident at the end.
"""

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from agent.appraisal import Terms
from agent.fleet import Fleet, Machine
from agent.market.fixed import FixedHashprice
from agent.market.quote import Market, take_market
from agent.rows import RoundRow
from agent.store import Store
from agent.tariff.fixed import FixedTariff
from agent.view import view_fleet
from bench.figures import Figure, of_pairs
from drivers.catalogue import nameplate
from drivers.reading import Address, Family, Identity, MachineId, PowerMode, PowerSource, Reading, RunState

MACHINES = 10_000
CHANGES_PER_S = 300
TICK_S = 0.25
KEYS_PER_S = 8.0
KEYS = 120
PAIRS = 2
PATIENCE_S = 5.0
START_WITHIN_S = 120.0
QUIET_S = 1.5
COLUMNS, ROWS = 200, 50
DOWN = b"\x1b[B"
MODELS = ("Antminer S21", "Antminer S19 XP", "Antminer S19j Pro", "Antminer S19", "M50S", "M30S+")
VALID_S = 3600.0
_CELL = re.compile(r"\x1b\[([0-9;]*)m([^\x1b]*?)(10\.\d+\.\d+\.\d+)")
"""An address and the style that it is written in."""
_BENCH = Path(__file__).parent


# -- the site -----------------------------------------------------------------------------------------


def site_of(count: int, at: datetime) -> list[Machine]:
    """Machines of several models that have just been read."""
    machines = []
    for index, model in zip(range(count), cycle(MODELS), strict=False):
        mac = f"02:00:00:{index >> 16:02X}:{index >> 8 & 255:02X}:{index & 255:02X}"
        machine = Machine(
            machine_id=MachineId(mac),
            identity=Identity(
                family=Family.ANTMINER, make="Antminer", model=model, firmware=None, mac=mac, serial=None,
                driver_class="",
            ),
            address=Address(host=f"10.0.{index >> 8}.{index & 255}"),
            first_seen_at=at,
        )  # fmt: skip
        _read(machine, index, at)
        machines.append(machine)
    return machines


def _read(machine: Machine, noise: int, at: datetime) -> None:
    plate = nameplate(machine.identity.model)
    assert plate is not None  # noqa: S101 - the catalogue has the models above
    drift = 0.97 + noise * 7919 % 600 / 10_000
    machine.apply(
        Reading(
            began_at=at,
            ended_at=at,
            run_state=RunState.MINING,
            hashrate_ths=plate.hashrate_ths * drift,
            expected_hashrate_ths=plate.hashrate_ths,
            power_w=plate.power_w * drift,
            power_source=PowerSource.REPORTED,
            power_error=0.05,
            power_mode=PowerMode.NORMAL,
        )
    )


def _market(at: datetime) -> Market:
    hashprice = FixedHashprice(difficulty=149.3e12, height=927_000, fees_btc=0.0269, btc_usd=92_870.0)
    tariff = FixedTariff(price_usd_per_kwh=0.06)
    return asyncio.run(take_market(hashprice, tariff, at, max_age=timedelta(minutes=15)))


def _save(store: Store, machines: Sequence[Machine], market: Market) -> None:
    fleet = Fleet(machines)
    picture = view_fleet(fleet, market, Terms(), max_age=timedelta(days=1))
    row = RoundRow(
        began_at=market.at, took_s=0.1, machines=MACHINES, answered=len(machines), failed=0, backed_off=0,
        skipped_rounds=0,
    )  # fmt: skip
    store.save_round(picture, row, fleet, [each.machine_id for each in machines], valid_s=VALID_S)


def make_site(database: Path) -> None:
    """A database with one round of the whole site, closed."""
    now = datetime.now(UTC)
    machines = site_of(MACHINES, now)
    with Store(database) as store:
        store.save_machines(machines, Terms())
        _save(store, machines, _market(now))


def change_for_ever(database: Path) -> None:
    """Another few machines have new numbers, again and again."""
    machines = cycle(enumerate(site_of(MACHINES, datetime.now(UTC))))
    market = _market(datetime.now(UTC))
    with Store(database) as store:
        due, count = monotonic(), 0
        while True:
            now = datetime.now(UTC)
            some = list(islice(machines, round(CHANGES_PER_S * TICK_S)))
            for index, machine in some:
                _read(machine, index + count, now)
            _save(store, [machine for _, machine in some], replace(market, at=now))
            due, count = due + TICK_S, count + 1
            sleep(max(0.0, due - monotonic()))


# -- a program on a terminal --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run of a program came to."""

    median_ms: float
    worst_ms: float
    cpu_percent: float
    memory_mb: float


class Program:
    """One program on a pseudo-terminal of `COLUMNS` by `ROWS`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        told = {name: value for name, value in os.environ.items() if not name.startswith("HASHCOST_")}
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env=told | {"TERM": "xterm-256color", "PYTHONPATH": str(_BENCH.parent)},
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def measure(self) -> Measured:
        """Press the key again and again while the site changes."""
        cursor = self._find_cursor()
        waits, shown = [], self._press(cursor, None)[1]
        began, cpu_before = monotonic(), self._cpu_s()
        for number in range(KEYS):
            self._drain(until=began + number / KEYS_PER_S)
            waited_s, shown = self._press(cursor, shown)
            waits.append(waited_s * 1000)
        self._drain(until=began + KEYS / KEYS_PER_S)
        share = (self._cpu_s() - cpu_before) / (monotonic() - began)
        return Measured(
            median_ms=statistics.median(waits),
            worst_ms=max(waits),
            cpu_percent=share * 100,
            memory_mb=self._memory_mb(),
        )

    def wait_until_shown(self) -> None:
        """Until the machines are there and nothing more is drawn."""
        text, until = "", monotonic() + START_WITHIN_S
        while not _CELL.search(text):
            text += self._read(until)
            if monotonic() > until:
                raise RuntimeError(f"nothing was shown; last: {text[-300:]!r}")
        self._drain(until=monotonic() + QUIET_S)

    def _find_cursor(self) -> str:
        """The style of the row under the cursor: of an address that has another once the cursor has left it."""
        presses = []
        for _ in range(4):
            os.write(self._master, DOWN)
            presses.append(_CELL.findall(self._drain(until=monotonic() + QUIET_S)))
        for style in {style for style, _, _ in presses[0]}:
            under = [[address for found, _, address in press if found == style][-1:] for press in presses]
            left = [{address for found, _, address in press if found != style} for press in presses]
            moved = len({tuple(each) for each in under}) == len(presses)
            if moved and all(row and row[0] in after for row, after in zip(under, left[1:], strict=False)):
                return style
        raise RuntimeError("the cursor was not found in what was drawn")

    def _press(self, cursor: str, before: str | None) -> tuple[float, str | None]:
        """Seconds until the cursor is on another machine, and its address."""
        os.write(self._master, DOWN)
        pressed, text = monotonic(), ""
        while (waited := monotonic() - pressed) < PATIENCE_S:
            text += self._read(pressed + PATIENCE_S)
            under = [address for style, _, address in _CELL.findall(text) if style == cursor]
            if under and under[-1] != before:
                return monotonic() - pressed, under[-1]
        return waited, before

    def _read(self, until: float) -> str:
        """What is drawn next, or nothing until then."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - monotonic()))
        return os.read(self._master, 65536).decode("utf-8", "replace") if ready else ""

    def _drain(self, until: float) -> str:
        """All that is drawn until then."""
        text = ""
        while monotonic() < until:
            text += self._read(until)
        return text

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None  # noqa: S101 - Linux tells it of every process that lives
        return int(found[1]) / 1000


# -- figures ------------------------------------------------------------------------------------------


def _measured(arguments: Sequence[str], database: Path) -> Measured:
    with Program(arguments) as program:
        program.wait_until_shown()
        change = [sys.executable, "-m", "bench.terminal", "--change", str(database)]
        writer = subprocess.Popen(change, cwd=_BENCH.parent)  # noqa: S603 - ourselves
        try:
            return program.measure()
        finally:
            writer.kill()
            writer.wait()


def terminal_figures(folder: Path) -> list[Figure]:
    """Key to paint, CPU share and memory of `hashcost tui`, beside the stock table with the same machines."""
    database = folder / "terminal.db"
    make_site(database)
    ours = [sys.executable, "-P", "-m", "agent", "tui", "--database", str(database)]
    stock = [sys.executable, str(_BENCH / "stock_table.py"), str(database)]
    pairs = [(_measured(ours, database), _measured(stock, database)) for _ in range(PAIRS)]
    return [
        of_pairs(
            f"terminal, {MACHINES} machines: {what}",
            unit,
            [(getattr(mine, field), getattr(other, field)) for mine, other in pairs],
            "Textual DataTable",
        )
        for what, unit, field in (
            ("key to paint, median", "ms", "median_ms"),
            ("key to paint, worst", "ms", "worst_ms"),
            ("CPU", "% of a core", "cpu_percent"),
            ("memory", "MB resident", "memory_mb"),
        )
    ]


def main() -> None:
    """Alone: print the figures."""
    if sys.argv[1:2] == ["--change"]:
        change_for_ever(Path(sys.argv[2]))
    with tempfile.TemporaryDirectory(prefix="hashcost-bench-") as name:
        for figure in terminal_figures(Path(name)):
            sys.stdout.write(
                f"{figure.name:48} {figure.ours:9.1f} {figure.unit:12} {figure.rival:9.1f} {figure.rival_name}"
                f"   ratio {figure.ratio:.1f} ({figure.spread[0]:.1f} to {figure.spread[1]:.1f})\n"
            )


if __name__ == "__main__":
    main()
