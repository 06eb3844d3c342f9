"""Ready-made machines, readings, markets and stores: a test states only what it is about."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from agent.appraisal import Basis, RunningPoint, Terms
from agent.federation.fleet_database import Arrived
from agent.federation.messages import Kind, Place, subject
from agent.federation.outbox import Outbox
from agent.federation.outlet import waiting
from agent.fleet import Failure, Fleet, Machine
from agent.market.quote import HashpriceQuote, Market, PowerPriceQuote
from agent.orders import Order, OrderAction, OrderState
from agent.rows import ReadingRow, RoundRow
from agent.store import Store
from agent.view import Picture, view_fleet
from drivers.driver import Capabilities, DriverError, Receipt, RestorePoint, Said, Timings
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

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
MAX_AGE = timedelta(seconds=75)
MODEL = "Antminer S21"
"""200 TH/s, 3500 W and 17.5 J/TH by its nameplate."""
MUCH = 64 * 1024 * 1024


def mac(number: int) -> str:
    return f"02:13:00:00:{number // 256:02X}:{number % 256:02X}"


def boards(count: int = 3, *, dead: int = 0) -> tuple[Board, ...]:
    return tuple(Board(slot=slot, alive=slot >= dead, chip_temp_c=60.0 + slot) for slot in range(count))


def reading(**changes: Any) -> Reading:
    """An S21 that mines as it should, at NOW."""
    usual = Reading(
        began_at=NOW,
        ended_at=NOW + timedelta(seconds=1),
        run_state=RunState.MINING,
        hashrate_ths=200.0,
        expected_hashrate_ths=200.0,
        power_w=3500.0,
        power_source=PowerSource.REPORTED,
        power_error=0.05,
        power_mode=PowerMode.NORMAL,
        boards=boards(),
        firmware="2024.1",
    )
    return replace(usual, **changes)


def asleep(**changes: Any) -> Reading:
    """The same machine after it was told to sleep."""
    return reading(
        **{"run_state": RunState.ASLEEP, "hashrate_ths": 0.0, "power_w": 25.0, "boards": ()} | changes
    )


def failure(kind: str = "no_answer", at: datetime = NOW) -> Failure:
    return Failure(at=at, kind=kind, detail=f"it was {kind}")


def identity(number: int = 1, **changes: Any) -> Identity:
    usual = Identity(
        family=Family.ANTMINER,
        make="AntMiner",
        model=MODEL,
        firmware="2024.1",
        mac=mac(number),
        serial=None,
        driver_class="BMMinerS21",
    )
    return replace(usual, **changes)


def machine(number: int = 1, *outcomes: Reading | Failure, **changes: Any) -> Machine:
    """Machine `number` at 10.0.0.`number`, after `outcomes`."""
    who = changes.pop("identity", identity(number))
    values = {"address": Address(host=f"10.0.0.{number}"), "first_seen_at": NOW} | changes
    made = Machine(machine_id=who.machine_id, identity=who, **values)
    for outcome in outcomes:
        made.apply(outcome)
    return made


def hashprice_quote(**changes: Any) -> HashpriceQuote:
    """39.44 USD/PH/day."""
    usual = HashpriceQuote(
        difficulty=149.30e12,
        height=927_000,
        fees_btc=0.0269,
        btc_usd=92_870.0,
        source="test",
        observed_at=NOW,
    )
    return replace(usual, **changes)


def market(price_usd_per_kwh: float | None = 0.06, **changes: Any) -> Market:
    power = None
    if price_usd_per_kwh is not None:
        power = PowerPriceQuote(price_usd_per_kwh=price_usd_per_kwh, source="test", observed_at=NOW)
    return Market(**{"at": NOW, "hashprice": hashprice_quote(), "power": power} | changes)


def point(hashrate_ths: float = 200.0, power_w: float = 3500.0, power_error: float = 0.05) -> RunningPoint:
    return RunningPoint(
        hashrate_ths=hashrate_ths,
        power_w=power_w,
        power_source=PowerSource.REPORTED,
        power_error=power_error,
        basis=Basis.LIVE,
        as_of=NOW,
    )


def picture(fleet: Fleet, in_market: Market | None = None, terms: Terms | None = None) -> Picture:
    return view_fleet(fleet, in_market or market(), terms or Terms(), max_age=MAX_AGE)


def round_row(began_at: datetime = NOW, machines: int = 1, took_s: float = 1.5) -> RoundRow:
    return RoundRow(
        began_at=began_at,
        took_s=took_s,
        machines=machines,
        answered=machines,
        failed=0,
        backed_off=0,
        skipped_rounds=0,
    )


def save(store: Store, *machines: Machine, valid_s: float = 75.0, **changes: Any) -> Picture:
    """Write one poll round of `machines` at the market's time, and give the picture that was written."""
    in_market, terms = changes.get("market") or market(), changes.get("terms") or Terms()
    fleet = Fleet(machines)
    shown = view_fleet(fleet, in_market, terms, max_age=MAX_AGE)
    store.save_machines(machines, terms)
    store.save_round(
        shown,
        round_row(in_market.at, len(machines)),
        fleet,
        [each.machine_id for each in machines],
        valid_s=valid_s,
    )
    return shown


def stored_site(path: Path, *machines: Machine, **changes: Any) -> Picture:
    """A database with one poll round of `machines`, closed."""
    with Store(path) as store:
        return save(store, *machines, **changes)


def at(moment: datetime, fleet: Iterable[Machine]) -> tuple[Machine, ...]:
    """The machines with their last reading as if it were taken at `moment`; of the silent it grows old."""
    found = tuple(fleet)
    for each in found:
        if each.reading is not None and each.failure is None:
            each.reading = replace(each.reading, began_at=moment, ended_at=moment)
    return found


def row(began_ms: int = 0, valid_ms: int = 75_000, **changes: Any) -> ReadingRow:
    """A stored reading of an S21 at 6 cents and 40 USD/PH/day."""
    usual = ReadingRow(
        machine_id=MachineId(mac(1)),
        began_ms=began_ms,
        valid_ms=valid_ms,
        run_state=RunState.MINING,
        implausible=None,
        hashrate_ths=200.0,
        power_w=3500.0,
        power_source=PowerSource.REPORTED,
        ours=False,
        decision_margin_usd_per_day=None,
        hashprice_usd_per_ph_day=40.0,
        price_usd_per_kwh=0.06,
        fee=0.0,
        reject=0.0,
        overhead=1.0,
    )
    return replace(usual, **changes)


def order(**changes: Any) -> Order:
    """An approved sleep of machine 1, made at NOW."""
    usual = Order(
        order_id=1,
        machine_id=MachineId(mac(1)),
        action=OrderAction.SLEEP,
        state=OrderState.APPROVED,
        reason="below_breakeven",
        ordered_by="policy",
        created_at=NOW,
        power_w=3500.0,
    )
    return replace(usual, **changes)


def restore_point(power_mode: PowerMode | None = PowerMode.NORMAL) -> RestorePoint:
    return RestorePoint(power_mode=power_mode, settings={"bitmain-work-mode": "0", "freq-level": "100"})


class Site:
    """A site's store and what it told so far, in order."""

    def __init__(self, directory: Path, name: str = "denver", *, limit_bytes: int = MUCH) -> None:
        directory.mkdir(exist_ok=True)
        self.path, self.name, self.limit_bytes = directory / f"{name}.db", name, limit_bytes
        self.told: list[tuple[Kind, Place, bytes]] = []
        self.sent: dict[str, int] = {}
        """How much of each epoch servers have taken, where there are any."""
        self.start()

    def start(self) -> None:
        outbox = partial(Outbox, site=self.name, threshold=0.0, limit_bytes=self.limit_bytes)
        self.store = Store(self.path, outbox)

    def stop(self) -> None:
        self.store.close()

    def flush(self) -> list[Arrived]:
        """What waits is sent; all that was ever sent, as it arrives."""
        while found := waiting(self.path, 100):
            self.told += [(each.kind, each.place, each.payload) for each in found]
            self.store.take_out(found[-1].place.epoch, found[-1].place.sequence)
        return [
            Arrived(
                stream_sequence=number, subject=subject("acme", self.name, kind), place=place, payload=payload
            )
            for number, (kind, place, payload) in enumerate(self.told, 1)
        ]


class DirectStore:
    """An `OrderStore` on the real store, in this thread."""

    def __init__(self, store):
        self.store = store

    async def create(self, wanted):
        return self.store.create_order(wanted)

    async def create_all(self, wanted):
        return self.store.create_orders(wanted)

    async def advance(self, before, after):
        self.store.advance(before, after)

    async def supersede(self, before, after, new):
        return self.store.supersede(before, after, new)

    async def advance_both(self, first, second):
        self.store.advance_both(first, second)


class FakeDriver:
    """A `Driver` that answers from a script: each read takes the next outcome, the last one for ever.

    An outcome is a reading, an error to raise, or something to await that gives a reading. Commands are noted in
    `commands` and answered with OK, or fail with `refuses`.
    """

    def __init__(self, *outcomes: Any, number: int = 1, takes_s: float = 0.0) -> None:
        self.identity = identity(number)
        self.address = Address(host=f"10.0.0.{number}")
        self.capabilities = Capabilities(can_sleep=True, power_modes=frozenset(), reports_power=True)
        self.timings = Timings(sleep_within_s=60.0, wake_within_s=300.0)
        self.commands: list[tuple[Any, ...]] = []
        self.refuses: DriverError | None = None
        self.reads = 0
        self.cancelled = False
        self._outcomes = list(outcomes) or [reading()]
        self._takes_s = takes_s

    async def read(self) -> Reading:
        self.reads += 1
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        try:
            await asyncio.sleep(self._takes_s)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome if isinstance(outcome, Reading) else await outcome()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def identify(self) -> Identity:
        return self.identity

    async def restore_point(self) -> RestorePoint:
        return restore_point()

    async def sleep(self) -> Receipt:
        return self._take("sleep")

    async def wake(self, point: RestorePoint) -> Receipt:
        return self._take("wake", point)

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        return self._take("set_power_mode", mode)

    def _take(self, *command: Any) -> Receipt:
        self.commands.append(command)
        if self.refuses is not None:
            raise self.refuses
        return Receipt(said=Said.OK, detail="done")


class HandClock:
    """A clock that only moves when told to."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **time: float) -> None:
        self.at += timedelta(**time)


async def eventually(
    condition: Callable[[], bool], within_s: float = 60.0, *, pause_s: float = 0.005
) -> None:
    """Wait until it is so; a minute is more than the busiest host takes."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def running(*loops: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """What runs until it is cancelled, which it is at the end."""
    tasks = [asyncio.create_task(each.run()) for each in loops]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
