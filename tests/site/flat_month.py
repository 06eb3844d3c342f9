"""A month of the agent's life in little, in a process of its own: what it holds at the end of each day, as JSON."""

import asyncio
import gc
import json
import logging
import sqlite3
import sys
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

from agent import service
from agent.appraisal import Terms
from agent.clock import Clock
from agent.config import Config, CurtailmentSection, HistorySection, MetricsSection, PollSection
from agent.curtailment import Mode, Rule
from agent.market.quote import PowerPriceQuote
from agent.rows import to_ms
from agent.service import Agent
from agent.store import Store
from drivers.driver import NoAnswer, Receipt, Said
from tests import loops
from tests.agent.builders import FakeDriver, HandClock, asleep, eventually, mac, machine, reading

ROUND = timedelta(hours=1)
DAYS = 40
KEPT_DAYS = 5
MACHINES = 4
CHEAP, DEAR = 0.01, 0.5


class Obedient(FakeDriver):
    """A machine that does what it is told, and is silent now and then."""

    def __init__(self, clock: HandClock, number: int) -> None:
        super().__init__(number=number)
        self._clock = clock
        self._asleep = False
        self.told = 0

    async def read(self):
        self.reads += 1
        if self._clock().hour == 6:
            raise NoAnswer(self.address, "silent for once")
        make = asleep if self._asleep else reading
        # what machines say of themselves is not the same every day
        return make(began_at=self._clock(), ended_at=self._clock(), firmware=f"2024.{self.reads // 500}")

    async def sleep(self) -> Receipt:
        return self._told(asleep=True)

    async def wake(self, point) -> Receipt:
        return self._told(asleep=False)

    def _told(self, *, asleep: bool) -> Receipt:
        """Counted, and not kept: what the site remembers is not to be taken for the agent's."""
        self._asleep = asleep
        self.told += 1
        return Receipt(said=Said.OK, detail="done")


class DearEvenings:
    """A power price at which everything sleeps from 18 to 22."""

    async def quote(self, now):
        price = DEAR if 18 <= now.hour < 22 else CHEAP
        return PowerPriceQuote(price_usd_per_kwh=price, source="test", observed_at=now)


class Site(Agent):
    fakes: dict

    def _driver(self, machine_id):
        return self.fakes[machine_id]


def known(database):
    with Store(database) as store:
        store.save_machines([machine(number) for number in range(1, MACHINES + 1)], Terms())


def held():
    """Blocks of memory, files and tasks that this process has now."""
    gc.collect()
    return (
        sys.getallocatedblocks(),
        len(list(Path("/proc/self/fd").iterdir())),
        len(asyncio.all_tasks()),
    )


async def live(directory: Path):
    """Live through the month."""
    service.BOOK_S = 0.02
    logging.getLogger("hashcost").disabled = True
    clock, database = HandClock(), directory / "hashcost.db"
    fakes = {mac(number): Obedient(clock, number) for number in range(1, MACHINES + 1)}
    await asyncio.to_thread(known, database)
    config = Config(
        poll=PollSection(interval_s=ROUND.total_seconds(), deadline_s=60.0),
        curtailment=CurtailmentSection(mode=Mode.AUTO, rule=Rule.DEAD_BAND, min_on_s=0.0, min_off_s=0.0),
        history=HistorySection(readings_days=KEPT_DAYS),
        metrics=MetricsSection(textfile=str(directory / "hashcost.prom")),
    )
    agent = await asyncio.to_thread(Site, config, database, clock=Clock(now=clock), power=DearEvenings())
    agent.fakes = fakes
    days = []

    def rows(sql):
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute(sql).fetchone()[0]

    def booked():
        hour_ms = rows("select max(hour_ms) from ledger")
        return hour_ms is not None and hour_ms >= to_ms(clock() - timedelta(hours=2))

    def oldest_reading_days():
        return (to_ms(clock()) - rows("select min(began_ms) from readings")) / 86_400_000

    async with agent:
        books = asyncio.create_task(agent.book_forever())
        for _ in range(DAYS):
            for _ in range(timedelta(days=1) // ROUND):
                clock.forward(seconds=ROUND.total_seconds())
                await agent.poll_once()
            await eventually(booked, within_s=60)
            await eventually(lambda: not agent.reconciler._sending, within_s=60)
            days.append(held())
        # readings are dropped after the hour is booked, so this may be under way
        with suppress(TimeoutError):
            await eventually(lambda: oldest_reading_days() <= KEPT_DAYS + 1)
        books.cancel()
        with suppress(asyncio.CancelledError):
            await books
    return {
        "days": days,
        "commands": [fake.told for fake in fakes.values()],
        "orders": rows("select count(*) from orders where state = 'confirmed' or state = 'released'"),
        "oldest_reading_days": oldest_reading_days(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(loops.run(live(Path(sys.argv[1])))))
