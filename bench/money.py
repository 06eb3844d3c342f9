"""What the books cost: booking an hour, exporting a month, replaying a year of prices, and bytes on the disk."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time

from agent.appraisal import Terms
from agent.archive import day_file, write_day
from agent.backtest.comparison import compare
from agent.backtest.replay import Past
from agent.backtest.series import History
from agent.bookkeeping import next_page, reckon, step_rows
from agent.books import stored_rows
from agent.curtailment import CurtailmentPolicy
from agent.export import Period, to_csv
from agent.ledger import MS_PER_HOUR, Sums, add_up
from agent.ledger_export import COLUMNS, machine_rows
from agent.lots import Lot
from agent.reader import Reader
from agent.rows import RoundRow, to_ms
from agent.store import Store
from agent.view import view_fleet
from bench.core import fleet_of, market_at, read
from bench.figures import OURS, Figure, figures, interleaved, show

MACHINES, ROUND_S, MONTH_DAYS = 1_000, 30, 30
CLASSES, YEAR_QUARTERS = 50, 365 * 96
START = datetime(2026, 2, 1, tzinfo=UTC)


async def books(folder: Path, runs: int) -> list[Figure]:
    """CPU and bytes of the ledger of a thousand machines, and CPU of a backtest."""
    database = folder / "money.db"
    rows = await _hour_of_readings(database)
    found = [*_bytes(database, rows), *await _book(database, runs), *await _keep(database, folder, runs)]
    _month_of_ledger(database)
    found += await _export(database, runs)
    found += await _backtest()
    show(found)
    return found


async def _hour_of_readings(database: Path) -> int:
    """An hour of rounds, and the first of the next; how many readings."""
    market, fleet = await market_at(START), fleet_of(MACHINES, START)
    ids = [machine.machine_id for machine in fleet]
    rounds = 3600 // ROUND_S + 1
    with Store(database) as store:
        store.save_machines(fleet, Terms())
        for number in range(rounds):
            at = START + timedelta(seconds=ROUND_S * number)
            for index, machine in enumerate(fleet):
                read(machine, index, at)
            picture = view_fleet(fleet, market, Terms(), max_age=timedelta(days=1))
            row = RoundRow(
                began_at=at, took_s=1.0, machines=len(ids), answered=len(ids), failed=0, backed_off=0,
                skipped_rounds=0,
            )  # fmt: skip
            store.save_round(picture, row, fleet, ids, valid_s=2.5 * ROUND_S)
    return rounds * len(ids)


def _bytes(database: Path, rows: int) -> list[Figure]:
    size = database.stat().st_size
    per_day = size / rows * 86_400 / ROUND_S
    return [Figure(name="readings of a machine and day", unit="bytes", ours=per_day)]


async def _book(database: Path, runs: int) -> list[Figure]:
    async def ours() -> dict[str, float]:
        cpu = process_time()
        page = next_page(database, timedelta())
        if page is None or len(page.hours) != MACHINES:
            raise AssertionError("machines are missing")
        return {"cpu_s": process_time() - cpu}

    return figures(f"book an hour of {MACHINES}", "s CPU", "cpu_s", await interleaved({OURS: ours}, runs))


async def _keep(database: Path, folder: Path, runs: int) -> list[Figure]:
    """What rolling an hour up costs, and what steps and hours take in the database and in files, a machine and day."""
    with Reader(database) as reader:

        async def ours() -> dict[str, float]:
            cpu = process_time()
            rows = [row for bite in step_rows(reader, to_ms(START)) for row in bite]
            if len(rows) != MACHINES * 12:
                raise AssertionError("steps are missing")
            return {"cpu_s": process_time() - cpu}

        name = f"roll up an hour of {MACHINES}"
        found = figures(name, "s CPU", "cpu_s", await interleaved({OURS: ours}, runs))
        steps = [row for bite in step_rows(reader, to_ms(START)) for row in bite]
        hours = reckon(reader, to_ms(START))
    with Store(folder / "kept.db") as store:
        store.save_machines(fleet_of(MACHINES, START), Terms())
    sizes = [_size(folder / "kept.db")]
    for write in (lambda store: store.roll_up(steps), lambda store: store.book(hours, 0)):
        with Store(folder / "kept.db") as store:
            write(store)
        sizes.append(_size(folder / "kept.db"))
    told = [("steps", steps, sizes[1] - sizes[0]), ("ledger", stored_rows(hours), sizes[2] - sizes[1])]
    for table, rows, size in told:
        write_day(folder, table, to_ms(START), rows)
        found += [
            Figure(name=f"{table} of a machine and day", unit="bytes", ours=size / MACHINES * 24),
            Figure(
                name=f"{table} of a machine and day, archived",
                unit="bytes",
                ours=_size(day_file(folder, table, to_ms(START))) / MACHINES * 24,
            ),
        ]
    return found


def _size(path: Path) -> int:
    return path.stat().st_size


def _month_of_ledger(database: Path) -> None:
    """Book the first hour of every machine as each hour of a month."""
    page = next_page(database, timedelta())
    assert page is not None  # noqa: S101 - it was measured just now
    with Store(database) as store:
        for hour in range(MONTH_DAYS * 24):
            start_ms = to_ms(START) + hour * MS_PER_HOUR
            moved = [(machine_id, _moved(sums, start_ms)) for machine_id, sums in page.hours]
            store.book(moved, start_ms + MS_PER_HOUR)


def _moved(sums: Sums, start_ms: int) -> Sums:
    moved = add_up([], start_ms, start_ms + MS_PER_HOUR, sleep_power_w=0.0)
    moved.add(sums)
    return moved


async def _export(database: Path, runs: int) -> list[Figure]:
    start, end = START, START + timedelta(days=MONTH_DAYS)

    async def ours() -> dict[str, float]:
        cpu = process_time()
        with Reader(database) as reader:
            text = to_csv(machine_rows(reader, start, end, Period.DAY), COLUMNS)
        if text.count("\n") != 1 + MACHINES * MONTH_DAYS:
            raise AssertionError("rows are missing")
        return {"cpu_s": process_time() - cpu}

    name = f"export a month of {MACHINES} by the day"
    return figures(name, "s CPU", "cpu_s", await interleaved({OURS: ours}, min(runs, 3)))


async def _backtest() -> list[Figure]:
    """A year of 15-minute prices with spikes, and fifty classes of machines."""
    chance = random.Random(1)
    starts = [START.timestamp() + 900.0 * index for index in range(YEAR_QUARTERS)]
    prices, level, spike = [], 0.0, 0.0
    for _ in starts:  # prices of a market go on for a while, and dear ones end
        level = 0.97 * level + chance.gauss(0.0, 0.003)
        spike = chance.uniform(0.05, 1.0) if chance.random() < 0.003 else spike * 0.6
        prices.append(0.03 + level + spike)
    days = [START.timestamp() + 86_400.0 * day for day in range(-1, YEAR_QUARTERS // 96 + 1)]
    past = Past(
        History(starts, [at_s + 900.0 for at_s in starts], prices),
        History(days, [at_s + 86_400.0 for at_s in days], [50.0] * len(days)),
    )
    lots = [
        Lot(model=f"{index}", count=10, hashrate_ths=100.0, power_w=1500.0 + 60 * index, terms=Terms())
        for index in range(CLASSES)
    ]

    async def ours() -> dict[str, float]:
        cpu = process_time()
        compare(past, lots, {"agent": CurtailmentPolicy(switching_cost_usd=0.015)}, delay_min=0.0)
        return {"cpu_s": process_time() - cpu}

    name = f"backtest a year of 15 minutes, {CLASSES} classes"
    return figures(name, "s CPU", "cpu_s", await interleaved({OURS: ours}, 1))
