"""`make bench`: what hashcost's own work costs, beside what its users would otherwise call, in one run.

Runs are interleaved (ours, rival, ours, rival, ...), CPU time is this process's own, the simulated site is another
process. Prints a table and writes bench/latest.json; quote the ratios, the times depend on the machine.
"""

import asyncio
import json
import os
import platform
import sys
import tempfile
import warnings
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from time import process_time

from figure import Figure, compare
from sqlite_utils import Database
from terminal import terminal_figures

from agent.appraisal import Terms
from agent.demo import DemoOptions, SimulatedSite, simulated_site
from agent.fleet import Fleet, Machine
from agent.market.fixed import FixedHashprice
from agent.market.quote import Market, take_market
from agent.rows import RoundRow, to_ms
from agent.store import Store
from agent.summary import view_as_data
from agent.tariff.fixed import FixedTariff
from agent.view import view_fleet
from drivers import _pyasic
from drivers.addresses import parse_targets
from drivers.connect import connect
from drivers.discovery import scan
from drivers.driver import ReadOptions
from drivers.reading import Address, Family, Identity, MachineId, PowerMode, PowerSource, Reading, RunState

SITE_MACHINES = 60
FLEET_MACHINES = 10_000
FIELDS = ["hashrate", "wattage", "hashboards", "fans", "is_mining"]


# -- polling ------------------------------------------------------------------------------------------


async def poll_figures(site: SimulatedSite) -> list[Figure]:
    """CPU of one read, per family, beside pyasic's `get_data` with the same fields on the same machines."""
    options = ReadOptions(slow_interval_s=1e9, power_probe_interval_s=1e9, deadline_s=30.0)
    result = await scan(parse_targets(list(site.scan_targets)), options=options)
    figures = []
    for family in (Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3):
        machines = [item for item in result.found if item[1].family is family]
        figures.append(await _poll_figure(family, machines, options))
    return figures


async def _poll_figure(
    family: Family, machines: list[tuple[Address, Identity]], options: ReadOptions
) -> Figure:
    drivers = [connect(identity, address, options=options) for address, identity in machines]
    rivals = [_pyasic.class_by_name(identity.driver_class)(address.host) for address, identity in machines]

    async def ours() -> float:
        began = process_time()
        for driver in drivers:
            await driver.read()
        return (process_time() - began) * 1000 / len(drivers)

    async def theirs() -> float:
        began = process_time()
        for miner in rivals:
            await miner.get_data(include=FIELDS)
        return (process_time() - began) * 1000 / len(rivals)

    return await compare(
        f"poll {family.value}", "ms CPU per machine", ours, theirs, "pyasic get_data(include)"
    )


# -- appraising and storing a big fleet ---------------------------------------------------------------


def fleet_of(count: int, at: datetime) -> Fleet:
    """Machines that have just been read, without any network."""
    return Fleet(_machine(index, at) for index in range(count))


def _machine(index: int, at: datetime) -> Machine:
    mac = f"02:00:00:{index >> 16:02X}:{index >> 8 & 255:02X}:{index & 255:02X}"
    machine = Machine(
        machine_id=MachineId(mac),
        identity=Identity(
            family=Family.ANTMINER,
            make="Antminer",
            model="Antminer S19j Pro",
            firmware=None,
            mac=mac,
            serial=None,
            driver_class="",
        ),
        address=Address(host=f"10.0.{index >> 8}.{index & 255}"),
        first_seen_at=at,
    )
    _read(machine, index, at)
    return machine


def _read(machine: Machine, index: int, at: datetime) -> None:
    machine.apply(
        Reading(
            began_at=at,
            ended_at=at,
            run_state=RunState.MINING,
            hashrate_ths=90.0 + index % 20,
            expected_hashrate_ths=104.0,
            power_w=3000.0,
            power_source=PowerSource.REPORTED,
            power_error=0.05,
            power_mode=PowerMode.NORMAL,
        )
    )


async def fleet_figures(folder: Path) -> list[Figure]:
    """CPU of deciding and of storing a round of 10,000 machines."""
    now = datetime.now(UTC)
    market = await take_market(
        FixedHashprice(difficulty=149.3e12, height=927_000, fees_btc=0.0269, btc_usd=92_870.0),
        FixedTariff(price_usd_per_kwh=0.06),
        now,
        max_age=timedelta(minutes=15),
    )
    fleet = fleet_of(FLEET_MACHINES, now)

    async def decide() -> float:
        began = process_time()
        view_fleet(fleet, market, Terms(), max_age=timedelta(minutes=5))
        return (process_time() - began) * 1000

    return [
        await compare(f"appraise and recommend {FLEET_MACHINES}", "ms CPU", decide),
        await _store_figure(fleet, market, folder),
    ]


async def _store_figure(fleet: Fleet, market: Market, folder: Path) -> Figure:
    """Ours stores readings and the latest picture; the rival the same rows as dicts."""
    store = Store(folder / "ours.db")
    store.save_machines(fleet, Terms())
    rival = Database(folder / "rival.db")
    rival.enable_wal()
    rounds = iter(range(1, 1000))

    def picture_at(at: datetime) -> tuple[datetime, RoundRow]:
        for index, machine in enumerate(fleet):
            _read(machine, index, at)
        row = RoundRow(
            began_at=at,
            took_s=1.0,
            machines=len(fleet),
            answered=len(fleet),
            failed=0,
            backed_off=0,
            skipped_rounds=0,
        )
        return at, row

    async def ours() -> float:
        _, row = picture_at(market.at + timedelta(seconds=30 * next(rounds)))
        picture = view_fleet(fleet, market, Terms(), max_age=timedelta(days=1))
        ids = [machine.machine_id for machine in fleet]
        began = process_time()
        store.save_round(picture, row, fleet, ids, valid_s=75.0)
        return (process_time() - began) * 1000

    async def theirs() -> float:
        at, _ = picture_at(market.at + timedelta(seconds=30 * next(rounds)))
        picture = view_fleet(fleet, market, Terms(), max_age=timedelta(days=1))
        readings = [_reading_as_dict(machine, at) for machine in fleet]
        latest = [
            {
                name: str(value) if isinstance(value, StrEnum) else value
                for name, value in view_as_data(view).items()
            }
            for view in picture.views
        ]
        began = process_time()
        rival.table("readings").insert_all(readings)
        rival.table("latest").upsert_all(latest, pk="machine_id")
        return (process_time() - began) * 1000

    figure = await compare(
        f"store a round of {FLEET_MACHINES}", "ms CPU", ours, theirs, "sqlite-utils insert_all, upsert_all"
    )
    store.close()
    rival.close()
    return figure


def _reading_as_dict(machine: Machine, at: datetime) -> dict[str, object]:
    assert machine.reading is not None  # noqa: S101 - fleet_of gave it one
    return {
        "machine_id": machine.machine_id,
        "began_ms": to_ms(at),
        "valid_ms": 75_000,
        "run_state": machine.reading.run_state.value,
        "failure": None,
        "implausible": None,
        "hashrate_ths": machine.reading.hashrate_ths,
        "power_w": machine.reading.power_w,
        "power_source": machine.reading.power_source.value,
        "power_mode": "normal",
        "chip_temp_c": None,
        "quote_id": 1,
    }


# -- report -------------------------------------------------------------------------------------------


def report(figures: list[Figure], output: Path) -> None:
    """Print the table and write the file."""
    for figure in figures:
        line = f"{figure.name:34} {figure.ours:9.2f} {figure.unit}"
        if figure.ratio is not None and figure.spread is not None:
            line += (
                f"   {figure.rival:9.2f} {figure.rival_name}   ratio {figure.ratio:.1f}"
                f" ({figure.spread[0]:.1f} to {figure.spread[1]:.1f})"
            )
        sys.stdout.write(line + "\n")
    data = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "figures": [asdict(figure) for figure in figures],
    }
    output.write_text(json.dumps(data, indent=1) + "\n")


async def main() -> None:
    """Run every figure."""
    warnings.simplefilter("ignore")
    options = DemoOptions(
        machines=SITE_MACHINES,
        seed=7,
        speed=60.0,
        faults=False,
        auto=False,
        once=True,
        csv=None,
        as_json=True,
    )
    with tempfile.TemporaryDirectory(prefix="hashcost-bench-") as name:
        folder = Path(name)
        async with simulated_site(options, folder / "control.sock") as site:
            figures = await poll_figures(site)
        figures += await fleet_figures(folder)
        figures += await asyncio.to_thread(terminal_figures, folder)
    report(figures, Path(__file__).parent / "latest.json")


if __name__ == "__main__":
    asyncio.run(main())
