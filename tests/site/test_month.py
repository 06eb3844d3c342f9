"""A month of a simulated site by its own books: what the ledger says was used, hashed, earned and avoided."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.accounts import accounts
from agent.bookkeeping import Bookkeeper
from agent.corrections import Corrections
from agent.export import Period, split
from agent.ledger_export import site_rows
from agent.market.fixed import FixedHashprice
from agent.market.quote import HashpriceQuote
from agent.reader import Reader
from agent.records import price_rows
from agent.rehearsal import MovablePrice
from agent.service import Agent
from drivers.reading import Family, RunState
from drivers.simulator.faults import Fault
from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from tests import loops
from tests.site.conftest import HandClock, Theatre, commands_sent

STEP = timedelta(minutes=30)
VALID = 2.5 * STEP
START = datetime(2026, 2, 20, 5, 7, tzinfo=UTC)
"""The month holds the change of clocks in Chicago on 8 March. No round falls on a full quarter hour."""
QUARTER = timedelta(minutes=15)
ROUNDS_A_DAY = 48
ROUNDS = 30 * ROUNDS_A_DAY
MACHINES = 2
ZONE = ZoneInfo("America/Chicago")
RETARGET, RESTARTS, OUTAGE = 700, (450, 1000), 6
"""Rounds at which the difficulty changes and the agent is started anew, and rounds that a start takes."""
SILENCE = range(300, 320)
CORRECTED_USD_PER_KWH, CORRECTED = 0.21, (START + timedelta(days=7, minutes=8), timedelta(hours=20))
SLEEP_W = 40.0


@dataclass(kw_only=True)
class Said:
    """What a machine said at a round that the agent could read it in, and the prices of that round."""

    at: datetime
    price: float
    hashprice: float
    power_w: float
    hashrate_ths: float
    asleep: bool


@dataclass(kw_only=True)
class Month:
    """What is known of the month but by the ledger: what was said, and the site's own books at every half step."""

    database: Path
    said: dict[str, list[Said | datetime]] = field(default_factory=dict)
    """By machine; a moment alone is a read that failed."""
    books: dict[str, dict[datetime, tuple[float, float]]] = field(default_factory=dict)
    """kWh and TH/s h."""
    end: datetime = START
    starts: int = 0
    """Of the agent."""


class Retargeted:
    """A source of hashprice whose difficulty changes."""

    difficulty = 149.3e12

    async def quote(self, now: datetime) -> HashpriceQuote:
        fixed = FixedHashprice(difficulty=self.difficulty, height=927_000, fees_btc=0.0269, btc_usd=92_870.0)
        return await fixed.quote(now)


def price_of(index: int) -> float:
    """Dear in the evening of most days, in between by the hour of the day."""
    hour = index % ROUNDS_A_DAY / 2
    if 17 <= hour < 20 and index // ROUNDS_A_DAY % 5:
        return 0.32
    return 0.03 + hour / 1000


async def live(month: Month, corrections: Path) -> None:
    clock = HandClock()
    spec = SiteSpec(network="127.91.0.0/16", machines=16, seed=11)
    async with Site(spec, epoch=START, monotonic=clock) as site:
        theatre = Theatre(
            site=site,
            clock=clock,
            database=month.database,
            price=MovablePrice(0.03),
            step_s=STEP.total_seconds(),
        )
        machines = [each for each in site.machines if each.family is Family.WHATSMINER_V3][:MACHINES]
        assert len(machines) == MACHINES
        index = 0
        while index < ROUNDS:
            until = next(each for each in (*RESTARTS, ROUNDS) if each > index)
            index = await run_agent(month, theatre, machines, index, until, corrections)
            for _ in range(OUTAGE if index < ROUNDS else 0):
                pass_step(month, theatre, machines)
                index += 1
        month.end = site.now()


async def run_agent(
    month: Month,
    theatre: Theatre,
    machines: list[SimulatedMachine],
    index: int,
    until: int,
    corrections: Path,
) -> int:
    """One agent from its start to its end; the round at which it stops."""
    hashprice = Retargeted()
    month.starts += 1
    async with theatre.new_agent(hashprice=hashprice) as agent:
        agent.config.scan.addresses[:] = [each.address for each in machines]
        if index == 0:
            await agent.scan()
        keeper = Bookkeeper(
            month.database,
            agent._store,
            agent._in_writer,
            clock=theatre.site.now,
            corrections=Corrections(corrections),
        )
        while index < until:
            hashprice.difficulty = 149.3e12 if index < RETARGET else 156e12
            theatre.price.price_usd_per_kwh = price_of(index)
            faults(theatre.site, machines[0], index)
            picture = await agent.poll_once()
            await commands_sent(agent)
            note(month, agent, theatre.price.price_usd_per_kwh, picture.market.hashprice_usd_per_ph_day)
            if index % 100 == 0:
                await keeper.catch_up()
            if index == 600:
                write_corrections(corrections)
            pass_step(month, theatre, machines)
            index += 1
        await keeper.catch_up()
    return index


def faults(site: Site, machine: SimulatedMachine, index: int) -> None:
    if index == SILENCE.start:
        site.set_fault(machine.address, Fault.GARBAGE)
    elif index == SILENCE.stop:
        site.clear_faults(machine.address)


def write_corrections(path: Path) -> None:
    start, length = CORRECTED
    rows = [
        f"{start + quarter * QUARTER:%Y-%m-%dT%H:%M:%SZ},{CORRECTED_USD_PER_KWH}" for quarter in range(80)
    ]
    assert length == 80 * QUARTER
    path.write_text("\n".join(["start,usd_per_kwh", *rows, ""]))


def note(month: Month, agent: Agent, price: float, hashprice: float) -> None:
    for machine in agent.fleet:
        said = month.said.setdefault(machine.machine_id, [])
        if machine.failure is not None and machine.failure.at == agent._clock.now():
            said.append(machine.failure.at)
        elif machine.failure is None and machine.reading.began_at == agent._clock.now():
            said.append(
                Said(
                    at=machine.reading.began_at,
                    price=price,
                    hashprice=hashprice,
                    power_w=machine.reading.power_w,
                    hashrate_ths=machine.reading.hashrate_ths,
                    asleep=machine.reading.run_state is RunState.ASLEEP,
                )
            )


def pass_step(month: Month, theatre: Theatre, machines: list[SimulatedMachine]) -> None:
    for _ in range(2):
        look(month, theatre.site, machines)
        theatre.pass_time(STEP.total_seconds() / 2)
    look(month, theatre.site, machines)


def look(month: Month, site: Site, machines: list[SimulatedMachine]) -> None:
    for machine in machines:
        machine.plant.advance(machine.clock.seconds())
        books = month.books.setdefault(machine.mac, {})
        books[site.now()] = machine.plant.energy_kwh, machine.plant.hash_thh


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """Thirty days, two machines, two restarts with hours in between, a silence, a retarget, a correction, evenings
    asleep."""
    folder = tmp_path_factory.mktemp("month")
    made = Month(database=folder / "hashcost.db")
    loops.run(live(made, folder / "statement.csv"))
    return made


def intervals(month: Month, machine: str):
    """What was said, with the time that it stands for."""
    said = month.said[machine]
    for each, after in pairwise([*said, month.end]):
        if isinstance(each, Said):
            following = after.at if isinstance(after, Said) else after
            yield each, min(following, each.at + VALID)


def final_price(at: datetime, told: float) -> float:
    start, length = CORRECTED
    return CORRECTED_USD_PER_KWH if start <= at < start + length else told


def ledger(month: Month):
    with Reader(month.database) as reader:
        return {machine.machine_id: sums for machine, (sums,) in accounts(reader, [(START, month.end)])}


def test_the_month_holds_all_that_it_is_to_hold(month):
    with Reader(month.database) as reader:
        events = [event.kind for event in reader.events(10_000)]
        prices = list(price_rows(reader, START, month.end))
    between = [
        after.at - each.at
        for said in month.said.values()
        for each, after in pairwise(each for each in said if isinstance(each, Said))
    ]
    assert month.end - START == timedelta(days=30)
    assert month.starts == 1 + len(RESTARTS)
    assert sum(gap >= OUTAGE * STEP for gap in between) == MACHINES * len(RESTARTS) + 1
    assert max(between) >= len(SILENCE) * STEP
    assert any(isinstance(each, datetime) for said in month.said.values() for each in said)
    assert {row["difficulty"] for row in prices} == {149.3e12, 156e12}
    times = [each.at for said in month.said.values() for each in said if isinstance(each, Said)]
    offsets = {at.astimezone(ZONE).utcoffset() for at in times}
    assert len(offsets) == 2
    assert events.count("ledger_reappraised") >= CORRECTED[1] // timedelta(hours=1)
    assert all(each.curtailments >= 20 for each in ledger(month).values())


def test_energy_and_hashes_are_those_of_the_site_s_own_books(month):
    booked = ledger(month)
    assert set(booked) == set(month.books)
    used = hashed = known_h = 0.0
    for machine, books in month.books.items():
        for each, until in intervals(month, machine):
            (kwh, thh), (kwh_then, thh_then) = books[each.at], books[until]
            used, hashed = used + kwh_then - kwh, hashed + thh_then - thh
            known_h += (until - each.at) / timedelta(hours=1)
    total_kwh = sum(each.energy_kwh for each in booked.values())
    assert total_kwh == pytest.approx(used, rel=0.001)
    # a wake is seen half an hour late here, and hashes come some minutes after watts
    assert sum(each.hash_phd for each in booked.values()) * 24_000 == pytest.approx(hashed, rel=0.005)
    assert sum(each.known_h for each in booked.values()) == pytest.approx(known_h)
    unknown_h = sum(each.unknown_h for each in booked.values())
    assert unknown_h > MACHINES * len(RESTARTS) * (OUTAGE - 2.5) * 0.5


def test_money_is_what_the_prices_imply_to_the_cent(month):
    minute, revenue, cost = timedelta(minutes=1), 0.0, 0.0
    for machine in month.said:
        for each, until in intervals(month, machine):
            hours = (until - each.at) / timedelta(hours=1)
            revenue += each.hashrate_ths / 1000 / 24 * each.hashprice * hours * (not each.asleep)
            at = each.at
            while at < until:
                piece = min(minute, until - at) / timedelta(hours=1)
                cost += each.power_w / 1000 * piece * final_price(at, each.price)
                at += minute
    booked = ledger(month).values()
    assert sum(each.revenue_usd for each in booked) == pytest.approx(revenue, abs=0.005)
    assert sum(each.energy_cost_usd for each in booked) == pytest.approx(cost, abs=0.005)
    assert cost > 100


def test_what_sleep_avoided_is_what_the_machine_would_have_lost(month):
    for machine, sums in ledger(month).items():
        awake = [each for each in month.said[machine] if isinstance(each, Said) and each.hashrate_ths > 50]
        ths = sum(each.hashrate_ths for each in awake) / len(awake)
        kw = sum(each.power_w for each in awake) / len(awake) / 1000 - SLEEP_W / 1000
        lost, is_confirmed = 0.0, False
        for each, until in intervals(month, machine):
            hours = (until - each.at) / timedelta(hours=1)
            if each.asleep and is_confirmed:  # the reading that confirms the sleep is not ours yet
                price = final_price(each.at, each.price)
                lost += hours * (kw * price - ths / 1000 / 24 * each.hashprice)
            is_confirmed = each.asleep
        assert sums.avoided_loss_usd - sums.forgone_profit_usd == pytest.approx(lost, rel=0.02)
        assert sums.avoided_loss_usd > 5


def test_the_site_s_days_are_those_of_its_clock_and_add_up(month):
    with Reader(month.database) as reader:
        days = list(site_rows(reader, START, month.end, Period.DAY, ZONE))
    spans = list(split(START, month.end, Period.DAY, ZONE))
    assert [(until - since) / timedelta(hours=1) for since, until in spans].count(23) == 1
    for row, (since, until) in zip(days, spans, strict=True):
        hours = row["mining_hours"] + row["asleep_hours"] + row["unknown_hours"]
        assert hours == pytest.approx(MACHINES * (until - since) / timedelta(hours=1))
    booked = ledger(month).values()
    assert sum(row["energy_kwh"] or 0.0 for row in days) == pytest.approx(
        sum(each.energy_kwh for each in booked)
    )
