"""What the agent does with a round once it was read: appraise, decide, store, and load it again."""

import gc
import sqlite3
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from time import process_time
from typing import Any

from sqlite_utils import Database

from agent.appraisal import Terms
from agent.curtailer import Curtailer
from agent.curtailment import CurtailmentPolicy, Mode, decide
from agent.fleet import Fleet, Machine
from agent.market.fixed import FixedHashprice
from agent.market.quote import Market, take_market
from agent.orders import Patience
from agent.reader import Reader
from agent.reconciler import Ramp, Reconciler
from agent.rows import LATEST_AS_WRITTEN, READING_COLUMNS, RoundRow, latest_row, reading_row, to_ms
from agent.store import Store
from agent.tariff.fixed import FixedTariff
from agent.view import Picture, view_fleet
from bench.figures import OURS, Figure, figures, interleaved, show
from drivers.reading import (
    Address,
    Board,
    Family,
    Identity,
    MachineId,
    PowerMode,
    PowerSource,
    Reading,
    RunState,
)

MACHINES = 10_000
SITE = {
    "Antminer S19j Pro": (Family.ANTMINER, 104.0, 3068.0, PowerSource.NAMEPLATE),
    "Antminer S21": (Family.ANTMINER, 200.0, 3500.0, PowerSource.REPORTED),
    "M30S++_VH20": (Family.WHATSMINER_V2, 112.0, 3472.0, PowerSource.REPORTED),
    "M60S_VK40": (Family.WHATSMINER_V3, 186.0, 3441.0, PowerSource.REPORTED),
}


def fleet_of(count: int, at: datetime) -> Fleet:
    """Machines of several models that have just been read, without any network."""
    return Fleet(_machine(index, at) for index in range(count))


def _machine(index: int, at: datetime) -> Machine:
    mac = f"02:00:00:{index >> 16:02X}:{index >> 8 & 255:02X}:{index & 255:02X}"
    model = list(SITE)[index % len(SITE)]
    machine = Machine(
        machine_id=MachineId(mac),
        identity=Identity(
            family=SITE[model][0], make=model.partition(" ")[0], model=model, firmware="1.0", mac=mac,
            serial=None, driver_class="",
        ),
        address=Address(host=f"10.0.{index >> 8}.{index & 255}"),
        first_seen_at=at,
    )  # fmt: skip
    read(machine, index, at)
    return machine


def read(machine: Machine, index: int, at: datetime) -> None:
    """One more reading, a little different from the last."""
    _, rate_ths, power_w, source = SITE[machine.identity.model]
    share = 0.97 + (index * 7919 + int(at.timestamp()) * 104_729) % 70_001 / 1_000_000
    machine.apply(
        Reading(
            began_at=at, ended_at=at, run_state=RunState.MINING, hashrate_ths=rate_ths * share,
            expected_hashrate_ths=rate_ths, power_w=power_w * share, power_source=source, power_error=0.05,
            power_mode=PowerMode.NORMAL, fans_rpm=(4200, 4260, 4300, 4290), uptime_s=86_400,
            boards=tuple(
                Board(slot=slot, alive=True, hashrate_ths=rate_ths * share / 3, chip_temp_c=71.0, chips=126)
                for slot in range(3)
            ),
        )
    )  # fmt: skip


async def market_at(now: datetime) -> Market:
    """Prices under which about half of the machines lose money."""
    return await take_market(
        FixedHashprice(difficulty=149.3e12, height=927_000, fees_btc=0.0269, btc_usd=92_870.0),
        FixedTariff(price_usd_per_kwh=0.06),
        now,
        max_age=timedelta(minutes=15),
    )


async def after_a_round(folder: Path, runs: int) -> list[Figure]:
    """CPU of everything that follows reading."""
    now = datetime.now(UTC)
    market, fleet = await market_at(now), fleet_of(MACHINES, now)
    terms, ages = Terms(), timedelta(days=1)

    async def appraise() -> dict[str, float]:
        cpu = process_time()
        view_fleet(fleet, market, terms, max_age=ages)
        return {"cpu_ms": (process_time() - cpu) * 1000}

    found = figures(f"appraise {MACHINES}", "ms CPU", "cpu_ms", await interleaved({OURS: appraise}, runs))
    found += await _decide(fleet, view_fleet(fleet, market, terms, max_age=ages), runs)
    found += await _store(fleet, market, folder, runs)
    found += await _load(folder, runs)
    show(found)
    return found


class _NoOrders:
    """An `OrderStore` for a site that only observes."""

    async def refuse(self, *_: object) -> Any:
        """Nothing is ordered."""
        raise AssertionError("a site that only observes orders nothing")

    create = create_all = advance = supersede = advance_both = refuse


async def _decide(fleet: Fleet, picture: Picture, runs: int) -> list[Figure]:
    def clock() -> datetime:
        return picture.market.at

    ramp = Ramp(machines=50, kw_per_min=500.0)
    async with Reconciler(_NoOrders(), [], clock=clock, patience=Patience(), ramp=ramp) as reconciler:
        curtailer = Curtailer(fleet, reconciler, CurtailmentPolicy(mode=Mode.OBSERVE), clock)

        async def whole_step() -> dict[str, float]:
            cpu = process_time()
            await curtailer.decide(picture)
            return {"cpu_ms": (process_time() - cpu) * 1000}

        gathered = curtailer.gathered(picture)

        async def policy() -> dict[str, float]:
            cpu = process_time()
            decide(*gathered, curtailer.policy)
            return {"cpu_ms": (process_time() - cpu) * 1000}

        steps = await interleaved({OURS: whole_step}, runs)
        decisions = await interleaved({OURS: policy}, runs)
    return [
        *figures(f"decide {MACHINES}", "ms CPU", "cpu_ms", decisions, {OURS: 100.0}),
        *figures("  and gather what that is decided from, and note it", "ms CPU", "cpu_ms", steps),
    ]


async def _store(fleet: Fleet, market: Market, folder: Path, runs: int) -> list[Figure]:
    """Ours stores readings and the latest picture; the rival the same rows as dicts, under the same keys."""
    database = Database(folder / "rival.db")
    database.enable_wal()
    ids = [machine.machine_id for machine in fleet]
    rounds = iter(range(1, 1_000))

    def read_again() -> tuple[datetime, Picture]:
        at = market.at + timedelta(seconds=30 * next(rounds))
        for index, machine in enumerate(fleet):
            read(machine, index, at)
        picture = view_fleet(fleet, market, Terms(), max_age=timedelta(days=1))
        gc.collect()  # of what was made for this run, so that neither pays for the other's
        return at, picture

    with Store(folder / "ours.db") as store:
        store.save_machines(fleet, Terms())

        async def ours() -> dict[str, float]:
            at, picture = read_again()
            row = RoundRow(
                began_at=at, took_s=1.0, machines=len(fleet), answered=len(fleet), failed=0, backed_off=0,
                skipped_rounds=0,
            )  # fmt: skip
            cpu = process_time()
            store.save_round(picture, row, fleet, ids, valid_s=75.0)
            return {"cpu_ms": (process_time() - cpu) * 1000}

        async def theirs() -> dict[str, float]:
            at, picture = read_again()
            cpu = process_time()
            readings = [
                _as_dict(READING_COLUMNS, reading_row(fleet[view.machine_id], view, 1, 75_000))
                for view in picture.views
            ]
            latest = [_as_dict(LATEST_AS_WRITTEN, latest_row(view, to_ms(at), 1)) for view in picture.views]
            database.table("readings").insert_all(readings, pk=("machine_id", "began_ms"))
            database.table("latest").upsert_all(latest, pk="machine_id")
            cpu = process_time() - cpu
            database.table("readings").create_index(["began_ms"], if_not_exists=True)
            return {"cpu_ms": cpu * 1000}

        rival = "sqlite-utils insert_all, upsert_all"
        results = await interleaved({OURS: ours, rival: theirs}, runs)
    database.close()
    return figures(f"store a round of {MACHINES}", "ms CPU", "cpu_ms", results, {rival: 5.0})


def _as_dict(columns: tuple[str, ...], row: tuple[object, ...]) -> dict[str, object]:
    return dict(zip_longest(columns, row))


async def _load(folder: Path, runs: int) -> list[Figure]:
    """What a screen pays for all machines when it opens."""

    async def ours() -> dict[str, float]:
        cpu = process_time()
        with Reader(folder / "ours.db") as reader:
            if len(reader.latest()) != MACHINES:
                raise sqlite3.DatabaseError("machines are missing")
        return {"cpu_ms": (process_time() - cpu) * 1000}

    return figures(f"load {MACHINES} for a screen", "ms CPU", "cpu_ms", await interleaved({OURS: ours}, runs))
