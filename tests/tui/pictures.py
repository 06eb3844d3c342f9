"""A site with a day behind it, told the same each time, and its screens as pictures (SVG) and as text."""

import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from agent.database import MODE, PRICES
from agent.market.quote import Figure, HashpriceQuote, PowerPriceQuote, PriceState, SourceStatus
from agent.market.report import report
from agent.orders import Order, OrderAction, OrderState
from agent.rows import Event
from agent.store import Store
from drivers.reading import Board, MachineId, Pool
from tests.agent.builders import (
    asleep,
    at,
    eventually,
    failure,
    identity,
    mac,
    machine,
    market,
    reading,
    save,
)
from tests.agent.test_fleet import Site, delivered
from tests.tui.screens import text
from tui.app import HashcostApp
from tui.bindings import SCREENS
from tui.fleet_source import FleetSource
from tui.sites import SitesApp
from tui.source import AgentState, Source

NOW = datetime(2026, 2, 1, 3, 12, 40, tzinfo=UTC)
MODELS = (
    ("Antminer S19", 95.0, 3250.0), ("Antminer S19j Pro", 104.0, 3068.0), ("Antminer S19 XP", 140.0, 3010.0),
    ("Antminer S21", 200.0, 3500.0), ("Antminer S21 Pro", 234.0, 3510.0), ("M30S++_VH20", 112.0, 3472.0),
    ("M60_VK30", 172.0, 3422.0),
)  # fmt: skip
MACHINES = 48
ASLEEP, SILENT = {3, 8, 22, 29}, {17}


def _machine(number: int, moment: datetime, wave: float):
    model, hashrate_ths, power_w = MODELS[number % len(MODELS)]
    who = identity(number, model=model, firmware="20240612")
    share = 0.97 + (number * 7 % 9) / 150 + 0.01 * wave
    group = "hall-b" if number > 30 else "hall-a"
    if number in SILENT:
        return machine(number, failure("timeout"), identity=who, group=group)
    if number in ASLEEP and moment > NOW - timedelta(hours=2):
        done = machine(number, asleep(power_w=28.0), identity=who, group=group)
        done.ours = True
        return done
    boards = tuple(
        Board(slot=slot, alive=True, hashrate_ths=hashrate_ths * share / 3, chip_temp_c=66.0 + (number * 3 + slot) % 14,
              board_temp_c=58.0 + slot, chips=126)
        for slot in range(3)
    )  # fmt: skip
    told = {
        "hashrate_ths": hashrate_ths * share, "expected_hashrate_ths": hashrate_ths,
        "power_w": power_w * (1 + 0.01 * wave),
        "boards": boards, "fans_rpm": (4380, 4410, 4350, 4400), "uptime_s": 1_234_000,
        "pools": (Pool(url="stratum+tcp://pool.example:3333", user="site.worker", alive=True, active=True),),
    }  # fmt: skip
    return machine(number, reading(**told), identity=who, group=group)


def fill(path: Path) -> None:
    """A database with a round every half hour of a day."""
    with Store(path) as store:
        for step in range(48, -1, -1):
            moment = NOW - timedelta(minutes=30 * step, seconds=20)
            wave = math.sin(step / 7)
            fleet = at(moment, [_machine(number, moment, wave) for number in range(1, MACHINES + 1)])
            quote = HashpriceQuote(
                difficulty=149.30e12, height=927_000, fees_btc=0.0269, btc_usd=92_870.0 + 1800 * wave, source="live",
                observed_at=moment, figures=_figures(moment, 92_870.0 + 1800 * wave),
            )  # fmt: skip
            price = 0.06 + 0.012 * math.sin(step / 5)
            power = PowerPriceQuote(price_usd_per_kwh=price, source="ercot", observed_at=moment)
            shown = save(
                store, *fleet, valid_s=1900.0, market=market(at=moment, hashprice=quote, power=power)
            )
        sources = [
            SourceStatus(
                name="bitcoin_core", url="", answered_at=moment, values="difficulty 1.493e+14, height 927000"
            ),
            SourceStatus(name="coinbase", url="", answered_at=moment, values="btc_usd 92871"),
            SourceStatus(name="kraken", url="", answered_at=moment, values="btc_usd 92869"),
            SourceStatus(
                name="gemini", url="", failed_at=moment, failure="timeout: no whole answer within 10 s"
            ),
        ]
        told = report(shown.market, quote.figures, sources)
        told["forecast"] = {
            "difficulty": 152.1e12,
            "hashprice_usd_per_ph_day": 38.71,
            "blocks": 356,
            "source": "mempool",
        }
        store.save_setting(PRICES, json.dumps(told))
        store.save_setting(MODE, "recommend")
        for order in _orders():
            store.create_order(order)
        store.save_events(
            [
                _event(9, "command_approve", "anna (uid 1000): approve orders 1, 2"),
                _event(31, "machine_moved", "10.0.0.9 -> 10.0.0.44", machine_id=mac(9)),
            ]
        )


def _event(minutes: int, kind: str, detail: str, **more) -> Event:
    return Event(at=NOW - timedelta(minutes=minutes), kind=kind, detail=detail, **more)


def _figures(moment: datetime, btc_usd: float) -> list[Figure]:
    values = {"difficulty": 149.30e12, "height": 927_000.0, "fees_btc": 0.0269, "btc_usd": btc_usd}
    return [
        Figure(name=name, value=value, source="median of coinbase, kraken" if name == "btc_usd" else "bitcoin_core",
               observed_at=moment, state=PriceState.LIVE, automatic=True)
        for name, value in values.items()
    ]  # fmt: skip


def _orders() -> list[Order]:
    def order(number: int, state: OrderState, minutes: int, **changes) -> Order:
        made = NOW - timedelta(minutes=minutes)
        usual = {
            "order_id": 0, "machine_id": MachineId(mac(number)), "action": OrderAction.SLEEP, "state": state,
            "reason": "below_breakeven", "ordered_by": "policy", "created_at": made, "power_w": 3250.0,
        }  # fmt: skip
        return Order(**{**usual, **changes})

    sent = {"dispatched_at": NOW - timedelta(seconds=40), "attempts": 1}
    failed = {"settled_at": NOW - timedelta(hours=3), "failure": "did_not_obey", "attempts": 2}
    return [
        order(14, OrderState.DISPATCHED, 9, **sent),
        order(21, OrderState.DISPATCHED, 9, **sent),
        order(40, OrderState.FAILED, 190, **failed),
        *(order(number, OrderState.PROPOSED, 4) for number in (7, 28, 35, 42)),
    ]


class Told(Source):
    """A source whose agent says the same each time."""

    async def agent(self) -> AgentState:
        """In mode recommend, with a call of the grid to come."""
        ramp = {"machines_per_min": 50, "kw_per_min": 500.0}
        return AgentState(
            says={
                "mode": "recommend", "held": False, "storage_problem": None,
                "ramp": {**ramp, "sleep": {"machines": 2, "kw": 6.5}, "wake": {"machines": 0, "kw": 0.0}},
            },
            due_by={1: NOW + timedelta(seconds=200), 2: NOW + timedelta(seconds=200)},
            obligations=[
                {"call_id": "summer-peak", "target_kw": 60.0, "end": "2026-02-01T05:00:00+00:00", "holds": False},
            ],
        )  # fmt: skip


async def tour(
    path: Path, size: tuple[int, int], *, theme: str | None = None
) -> AsyncIterator[tuple[str, HashcostApp]]:
    """Every screen of that site, one after the other, settled."""
    app = HashcostApp(Told(path, clock=lambda: NOW))
    async with app.run_test(size=size) as pilot:
        if theme is not None:
            app.theme = theme
        await eventually(lambda: app.state is not None and app.agent.says is not None)
        for number, screen in enumerate(SCREENS, start=1):
            await pilot.press(str(number), *("p" for _ in range(screen == "what-if")))
            await _settled(pilot)
            yield screen, app


def fill_fleet(directory: Path) -> Path:
    """A fleet of four sites, one of which has been silent for a while; where its copies are."""
    for name, first, last, ago in (
        ("boise", 1, 12, 0),
        ("denver", 13, 40, 0),
        ("tulsa", 41, 46, 900),
        ("ulvik", 47, 53, 0),
    ):
        site = Site(directory / "sites", name)
        then = NOW - timedelta(seconds=20 + ago)
        fleet = at(then, [_machine(number, then, 0.0) for number in range(first, last + 1)])
        power = PowerPriceQuote(price_usd_per_kwh=0.05 + first / 1000, source="ercot", observed_at=then)
        save(site.store, *fleet, market=market(at=then, power=power))
        delivered(directory / "fleet", site.flush(), heard_at=then)
        site.stop()
    return directory / "fleet"


async def fleet_picture(directory: Path, size: tuple[int, int]) -> str:
    """The terminal's first screen of a fleet, as SVG."""
    app = SitesApp(FleetSource(directory, clock=lambda: NOW))
    async with app.run_test(size=size) as pilot:
        await eventually(lambda: app.state is not None)
        await _settled(pilot)
        return app.export_screenshot(title="hashcost")


async def _settled(pilot: Pilot[Any]) -> None:
    """Until nothing changes any more for a while."""
    before, same = "", 0
    while same < 3:
        await pilot.pause(0.08)
        now = text(pilot)
        before, same = now, same + 1 if now == before else 0
