"""The ledger, booked hour by hour: a month of a site against its own truth, late prices, restarts, and what exports
make of it."""

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from agent.accounts import accounts
from agent.appraisal import Terms
from agent.bookkeeping import Bookkeeper
from agent.books import total
from agent.corrections import Corrections
from agent.decisions import DecisionRecord
from agent.export import Period, split
from agent.ledger import ADDITIVE, MS_PER_HOUR, Sums
from agent.ledger_export import COLUMNS, machine_rows, site_rows
from agent.orders import OrderAction, OrderState
from agent.policy import Reason
from agent.reader import Reader
from agent.rows import from_ms, to_ms
from agent.store import Store
from agent.tariff.intervals import IntervalPrice
from drivers.reading import PowerMode, PowerSource
from tests import loops
from tests.agent.builders import (
    NOW,
    DirectStore,
    HandClock,
    asleep,
    failure,
    hashprice_quote,
    mac,
    machine,
    market,
    order,
    reading,
    save,
)
from tests.agent.processes import hashcost

STEP = timedelta(minutes=20)
VALID_S = 1500.0
TERMS = Terms(fee=0.02, reject=0.01, overhead=1.05, sleep_power_w=30.0)
START = datetime(2026, 2, 20, 5, 7, tzinfo=UTC)
"""The month holds the change of clocks in Chicago on 8 March."""


@dataclass
class Moment:
    """What was so from a round on: the test's own books."""

    at: datetime
    price: float
    hashprice: float
    watts: float | None
    ths: float
    awake: tuple[float, float] | None
    """TH/s and W of a machine that sleeps on our order, while it runs."""


async def direct(function, *arguments):
    return function(*arguments)


class Month:
    """A site of three machines that runs round by round, writes what it did, and has it booked."""

    def __init__(self, path, seed=1):
        self.path, self.random = path, random.Random(seed)
        self.store = Store(path)
        self.clock = HandClock(START)
        self.machines = [machine(number) for number in (1, 2, 3)]
        for each in self.machines:
            for _ in range(40):
                each.baselines.observe(reading())
        self.truth = {each.machine_id: [] for each in self.machines}
        self.final: list[IntervalPrice] = []
        self.open()

    def open(self):
        self.books = Bookkeeper(
            self.path, self.store, direct, clock=self.clock, settled=lambda _: (self.final, "feed")
        )

    def restart(self):
        self.store.close()
        self.store = Store(self.path)
        self.open()

    def round(self, difficulty=149.3e12):
        price = round(self.random.uniform(-0.02, 0.3), 4)
        quote = hashprice_quote(difficulty=difficulty, observed_at=self.clock())
        now = market(price, at=self.clock(), hashprice=quote)
        silent = self.random.random() < 0.05
        polled = []
        for each in self.machines:
            chance = self.random.random()
            at = {"began_at": self.clock(), "ended_at": self.clock()}
            each.ours = chance < 0.3
            if silent:
                continue
            polled.append(each)
            if chance < 0.3:
                each.apply(asleep(power_w=None, power_source=PowerSource.UNKNOWN, **at))
                point = each.running_point()
                known = (30.0, 0.0, (point.hashrate_ths, point.power_w))
            elif chance < 0.4:
                each.apply(failure(at=self.clock()))
                known = (None, 0.0, None)
            else:
                mode = PowerMode.LOW if chance < 0.5 else PowerMode.NORMAL
                ths, watts = self.random.uniform(150, 210), self.random.uniform(2800, 3700)
                each.apply(reading(hashrate_ths=ths, power_w=watts, power_mode=mode, **at))
                known = (watts, ths, None)
            self.truth[each.machine_id].append(
                Moment(self.clock(), price, quote.hashprice_usd_per_ph_day, *known)
            )
        if polled:
            save(self.store, *polled, market=now, terms=TERMS, valid_s=VALID_S)

    async def run(self, rounds, **changes):
        for _ in range(rounds):
            self.clock.at += STEP
            self.round(**changes)
            if self.random.random() < 0.1:
                await self.books.catch_up()
        await self.books.catch_up()

    def price_at(self, at, told):
        for each in self.final:
            if each.start <= at < each.end:
                return each.usd_per_kwh
        return told

    def totals(self, start, end):
        """(kWh, revenue, cost, avoided, forgone, known hours), minute by minute."""
        kwh = revenue = cost = avoided = forgone = hours = 0.0
        minute = timedelta(minutes=1)
        for moments in self.truth.values():
            following = [each.at for each in moments[1:]] + [end]
            for each, after in zip(moments, following, strict=True):
                until = min(after, each.at + timedelta(seconds=VALID_S), end)
                at = max(each.at, start)
                while at < until and each.watts is not None:
                    price, h = self.price_at(at, each.price), 1 / 60
                    kwh, hours = kwh + each.watts / 1000 * h, hours + h
                    revenue += each.ths / 1000 * each.hashprice / 24 * h * 0.98 * 0.99
                    cost += each.watts / 1000 * h * price * 1.05
                    if each.awake is not None:
                        phs, kw = each.awake[0] / 1000, (each.awake[1] - 30.0) / 1000
                        worth = (phs * each.hashprice * 0.98 * 0.99 / 24 - kw * price * 1.05) * h
                        avoided, forgone = avoided + max(0.0, -worth), forgone + max(0.0, worth)
                    at += minute
        return kwh, revenue, cost, avoided, forgone, hours


def added(path, periods):
    with Reader(path) as reader:
        sums = [each for _, several in accounts(reader, periods) for each in several]
    names = (
        "energy_kwh",
        "revenue_usd",
        "energy_cost_usd",
        "avoided_loss_usd",
        "forgone_profit_usd",
        "known_h",
    )
    return [sum(getattr(each, name) for each in sums) for name in names]


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """Three weeks with a retarget, a price correction and two restarts."""
    made = Month(tmp_path_factory.mktemp("month") / "hashcost.db")

    async def live():
        await made.run(500)
        made.restart()
        await made.run(500, difficulty=160e12)
        corrected = START.replace(minute=0) + timedelta(hours=30)
        made.final = [
            IntervalPrice(
                start=made.clock() - timedelta(hours=30) + quarter * timedelta(minutes=15),
                end=made.clock() - timedelta(hours=30) + (quarter + 1) * timedelta(minutes=15),
                usd_per_kwh=0.5 if quarter % 7 else -0.1,
            )
            for quarter in range(80)
        ]
        assert corrected < made.final[0].start
        await made.run(100, difficulty=160e12)
        made.restart()
        await made.run(400, difficulty=160e12)

    loops.run(live())
    made.store.close()
    return made


def test_a_month_is_what_the_site_did(month):
    start, end = START, month.clock()
    found, truth = added(month.path, [(start, end)]), month.totals(start, end)
    for got, want in zip(found, truth, strict=True):
        assert got == pytest.approx(want, rel=1e-6)
    assert abs(found[2] - truth[2]) < 0.005  # to the cent


@pytest.mark.parametrize("by", [Period.HOUR, Period.DAY, Period.MONTH])
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("America/Chicago"), ZoneInfo("Asia/Kolkata")], ids=str)
def test_however_it_is_cut_it_adds_up_to_the_whole(month, by, zone):
    start, end = START + timedelta(minutes=11), month.clock() - timedelta(minutes=7)
    whole = added(month.path, [(start, end)])
    assert added(month.path, list(split(start, end, by, zone))) == pytest.approx(whole, rel=1e-9)


def test_days_are_days_where_clocks_change():
    zone = ZoneInfo("America/Chicago")
    days = list(
        split(datetime(2026, 3, 7, 6, tzinfo=UTC), datetime(2026, 3, 10, 5, tzinfo=UTC), Period.DAY, zone)
    )
    assert [(until - since) / timedelta(hours=1) for since, until in days] == [24, 23, 24]
    months = list(
        split(datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC), Period.MONTH, zone)
    )
    assert [since for since, _ in months[1:]] == [
        datetime(2026, 3, 1, 6, tzinfo=UTC),
        datetime(2026, 4, 1, 5, tzinfo=UTC),
    ]


def test_the_hours_of_the_site_add_up_to_its_days_exactly(month):
    start, end = START, month.clock()
    with Reader(month.path) as reader:
        hours = list(site_rows(reader, start, end, Period.HOUR))
        days = list(site_rows(reader, start, end, Period.DAY))
    for name in ("energy_kwh", "revenue_usd", "energy_cost_usd", "avoided_loss_usd", "mining_hours"):
        for day in days:
            total = 0.0
            for hour in hours:
                if day["period_start"] <= hour["period_start"] < day["period_end"]:
                    total += hour[name] or 0.0
            assert total == (day[name] or 0.0), name


def test_every_hour_of_a_machine_is_known_or_unknown_and_energy_has_a_source(month):
    with Reader(month.path) as reader:
        rows = list(machine_rows(reader, START, month.clock(), Period.DAY))
    assert {tuple(row) for row in rows} == {COLUMNS}
    for row in rows:
        lasts = datetime.fromisoformat(row["period_end"]) - datetime.fromisoformat(row["period_start"])
        hours = row["mining_hours"] + row["asleep_hours"] + row["unknown_hours"]
        assert hours == pytest.approx(lasts / timedelta(hours=1))
        assert 0 <= row["low_power_hours"] <= row["mining_hours"]
        by_source = (row["metered_kwh"] or 0) + (row["reported_kwh"] or 0) + (row["estimated_kwh"] or 0)
        assert by_source == pytest.approx(row["energy_kwh"] or 0)
    assert any(row["unknown_hours"] for row in rows)
    assert any(row["low_power_hours"] for row in rows)
    assert any(row["estimated_kwh"] for row in rows)


def test_corrected_prices_leave_a_trace(month):
    with Reader(month.path) as reader:
        traces = [event for event in reader.events(10_000) if event.kind == "ledger_reappraised"]
        kept = reader.settlements(0, to_ms(month.clock()))
    assert len(kept) == 80
    assert len(traces) in (20, 21)
    assert all("prices of feed: the hour from 2026-03-" in event.detail for event in traces)


# -- booking ---------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashcost.db"


def booked(path):
    with Reader(path) as reader:
        until = reader.booked_until_ms()
        rows = [row for _, hours in reader.booked(0, 2**52) for row in hours]
    return [total([row], row[1], row[1] + MS_PER_HOUR) for row in rows], until


def books(path, store, clock, **changes):
    return Bookkeeper(path, store, direct, clock=clock, **changes)


async def test_an_hour_is_booked_once_it_is_over_and_prices_had_their_time(path):
    hour = NOW.replace(minute=0)
    with Store(path) as store:
        keeper = books(path, store, HandClock(), wait=timedelta(minutes=20))
        for minutes in (0, 30, 60, 79):
            at = hour + timedelta(minutes=minutes)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=1800)
            assert not await keeper.step()
        at = hour + timedelta(minutes=80)
        save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=1800)
        assert await keeper.step()
        assert not await keeper.step()
    (only,), until = booked(path)
    assert until == only.end_ms == to_ms(hour) + MS_PER_HOUR
    assert (only.mining_h, only.energy_kwh) == (pytest.approx(1.0), pytest.approx(3.5))


async def test_a_long_outage_is_skipped_and_not_booked(path):
    with Store(path) as store:
        for hours in (0, 1, 500, 501):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=900)
        keeper, steps = books(path, store, HandClock()), 0
        while await keeper.step():
            steps += 1
    rows, until = booked(path)
    assert [(each.start_ms - to_ms(NOW)) // MS_PER_HOUR for each in rows] == [0, 1, 500]
    assert until == to_ms(NOW) + 501 * MS_PER_HOUR
    assert steps <= 5


async def test_what_is_booked_is_not_booked_twice(path):
    with Store(path) as store:
        for hours in (0, 1):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=3600)
        await books(path, store, HandClock()).catch_up()
        before = booked(path)
        (hour,), until = before
        store.book([(machine(1).machine_id, replace(hour, energy_kwh=99.0))], until)
    assert booked(path) == before


async def test_a_crash_between_appraising_again_and_keeping_the_price_repeats_it(path):
    final = [IntervalPrice(start=NOW, end=NOW + timedelta(hours=1), usd_per_kwh=0.5)]
    with Store(path) as store:
        for hours in (0, 1):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=3600)
        await books(path, store, HandClock()).catch_up()

        async def crashing(function, *arguments):
            if function == store.settle:
                raise OSError("out of power")
            return function(*arguments)

        keeper = Bookkeeper(path, store, crashing, clock=HandClock(), settled=lambda _: (final, "feed"))
        with pytest.raises(OSError, match="power"):
            await keeper.step()
        await books(path, store, HandClock(), settled=lambda _: (final, "feed")).catch_up()
        with Reader(path) as reader:
            assert len(reader.settlements(0, 2**52)) == 1
            assert [event.kind for event in reader.events()].count("ledger_reappraised") == 1
    (hour,), _ = booked(path)
    assert hour.energy_cost_usd == pytest.approx(3.5 * 0.5)


async def test_machines_with_a_price_of_their_own_are_not_appraised_again(path):
    final = [IntervalPrice(start=NOW, end=NOW + timedelta(hours=1), usd_per_kwh=0.5)]
    with Store(path) as store:
        for hours in (0, 1):
            at = NOW + timedelta(hours=hours)
            terms = Terms(price_usd_per_kwh=0.03)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=3600, terms=terms)
        await books(path, store, HandClock(), settled=lambda _: (final, "feed")).catch_up()
    (hour,), _ = booked(path)
    assert hour.energy_cost_usd == pytest.approx(3.5 * 0.03)


async def test_a_price_that_was_missing_makes_the_hour_priced(path):
    final = [IntervalPrice(start=NOW, end=NOW + timedelta(hours=1), usd_per_kwh=0.5)]
    with Store(path) as store:
        for hours in (0, 1):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, reading(began_at=at)), market=market(None, at=at), valid_s=3600)
        await books(path, store, HandClock()).catch_up()
        assert booked(path)[0][0].priced_h == 0.0
        await books(path, store, HandClock(), settled=lambda _: (final, "feed")).catch_up()
    (hour,), _ = booked(path)
    assert (hour.priced_h, hour.energy_cost_usd) == (1.0, pytest.approx(1.75))


async def test_curtailments_and_what_switches_cost_are_in_their_hour(path):
    with Store(path) as store:
        for hours in (0, 1, 2):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, asleep(began_at=at)), market=market(at=at), valid_s=3600)
        direct_store = DirectStore(store)
        made = await direct_store.create(order(state=OrderState.APPROVED))
        confirmed = replace(made, state=OrderState.CONFIRMED, confirmed_at=NOW + timedelta(minutes=70))
        store.advance(made, confirmed)
        await books(path, store, HandClock()).catch_up()
    first, second = booked(path)[0]
    assert (first.curtailments, first.switching_cost_usd) == (0, 0.0)
    assert (second.curtailments, second.switching_cost_usd) == (
        1,
        pytest.approx(0.02),
    )  # half of an S21's 0.04


async def test_a_switch_stays_at_what_it_was_booked_at_though_more_was_learned_since(path):
    """In the hour when that is appraised again, and in its parts, whether those are added up from readings or steps."""
    half = timedelta(minutes=30)
    parts = [(NOW, NOW + half), (NOW + half, NOW + 2 * half)]
    final = [IntervalPrice(start=NOW, end=NOW + timedelta(hours=1), usd_per_kwh=0.5)]
    learned = DecisionRecord(
        machine_id=mac(1), action=None, target_mode=None, reason=Reason.MIN_ON_TIME, automatic=True,
        regret_usd=0.0, switching_cost_usd=0.04, since=NOW, snapshot={},
    )  # fmt: skip
    with Store(path) as store:
        for hours in range(5):
            at = NOW + timedelta(hours=hours)
            save(store, machine(1, asleep(began_at=at)), market=market(at=at), valid_s=3600)
        store.save_decisions([learned])
        for minutes, action in ((20, OrderAction.SLEEP), (40, OrderAction.WAKE)):
            made = store.create_order(order(action=action, state=OrderState.APPROVED))
            at = NOW + timedelta(minutes=minutes)
            store.advance(made, replace(made, state=OrderState.RELEASED, confirmed_at=at, settled_at=at))
        await books(path, store, HandClock()).catch_up()
        store.save_decisions([replace(learned, switching_cost_usd=0.6)])

        def costs():
            with Reader(path) as reader:
                ((_, sums),) = accounts(reader, parts)
            return [booked(path)[0][0].switching_cost_usd, *(each.switching_cost_usd for each in sums)]

        before = [pytest.approx(0.04), pytest.approx(0.02), pytest.approx(0.02)]
        assert costs() == before
        await books(path, store, HandClock(), settled=lambda _: (final, "feed")).catch_up()
        assert costs() == before
        await books(path, store, HandClock(), keep=timedelta(hours=1)).prune()
        assert costs() == before
        with Reader(path) as reader:
            assert reader.rolled_until_ms() > to_ms(NOW)


def test_what_is_booked_is_read_back_as_it_was(path):
    sums = accounts_of_an_hour()
    with Store(path) as store:
        save(store, machine(1, reading()))
        store.book([(machine(1).machine_id, sums)], sums.end_ms)
    (read,), _ = booked(path)
    assert read == sums


def accounts_of_an_hour():
    values = {name: 0.5 + index / 8 for index, name in enumerate(ADDITIVE)}
    values |= {"mining_h": 0.5, "asleep_h": 0.25, "curtailments": 3}
    start_ms = to_ms(NOW)
    sums = Sums(start_ms=start_ms, end_ms=start_ms + MS_PER_HOUR, power_source=PowerSource.CUSTOM, **values)
    sums.close()
    return sums


# -- corrections by hand -------------------------------------------------------------------------------


def corrections(tmp_path, *prices, unit="usd_per_kwh", start=NOW):
    file = tmp_path / "statement.csv"
    lines = [f"{(start + timedelta(hours=hour)).isoformat()},{price}" for hour, price in enumerate(prices)]
    file.write_text("\n".join([f"start,{unit}", *lines]) + "\n")
    return Corrections(file)


async def three_hours(store, **keeper):
    """One machine that ran for three hours at 6 cents, booked."""
    for hours in range(4):
        at = NOW + timedelta(hours=hours)
        save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=3600)
    await books(*keeper.pop("at"), **keeper).catch_up()


def costs(path):
    return [round(each.energy_cost_usd / each.energy_kwh, 6) for each in booked(path)[0]]


async def test_what_a_statement_says_is_booked_and_told(path, tmp_path):
    clock = HandClock(NOW + timedelta(days=40))  # long after what is published is looked at
    with Store(path) as store:
        await three_hours(store, at=(path, store, clock))
        assert costs(path) == [0.06] * 3
        statement = corrections(tmp_path, 0.04, 0.06)
        keeper = books(path, store, clock, corrections=statement)
        await keeper.catch_up()
        assert costs(path) == [0.04, 0.06, 0.06]
        await keeper.catch_up()
        with Reader(path) as reader:
            (event,) = [each for each in reader.events() if each.kind == "ledger_reappraised"]
            assert [each.corrected for each in reader.settlements(0, 2**52)] == [True, True]
    assert (
        "prices of corrections: the hour from 2026-02-01 12:00 UTC, 1 machines: energy cost -0.07"
        in event.detail
    )


async def test_a_statement_stands_above_what_is_published_whichever_comes_first(path, tmp_path):
    published = [IntervalPrice(start=NOW, end=NOW + timedelta(hours=3), usd_per_kwh=0.9)]
    clock = HandClock(NOW + timedelta(hours=5))
    with Store(path) as store:
        await three_hours(store, at=(path, store, clock), settled=lambda _: (published, "feed"))
        assert costs(path) == [0.9] * 3
        statement = corrections(tmp_path, 0.05, 0.07, start=NOW + timedelta(hours=1))
        keeper = books(path, store, clock, settled=lambda _: (published, "feed"), corrections=statement)
        for _ in range(3):
            await keeper.catch_up()
        assert costs(path)[1:] == [0.05, 0.07]
        with Reader(path) as reader:
            traces = len([each for each in reader.events() if each.kind == "ledger_reappraised"])
        await keeper.catch_up()
        with Reader(path) as reader:
            assert len([each for each in reader.events() if each.kind == "ledger_reappraised"]) == traces


async def test_a_statement_that_changes_is_read_again_and_a_bad_one_is_refused(path, tmp_path, lines):
    clock = HandClock(NOW + timedelta(days=2))
    with Store(path) as store:
        await three_hours(store, at=(path, store, clock))
        statement = corrections(tmp_path, 50, 50, 50, unit="usd_per_mwh")
        keeper = books(path, store, clock, corrections=statement)
        await keeper.catch_up()
        assert costs(path) == [0.05] * 3
        statement.path.write_text("start,usd_per_kwh\n2026-02-01T12:00:00Z,dear\n2026-02-01T13:00:00Z,1\n")
        await keeper.catch_up()
        await keeper.catch_up()
        assert "line 2: 'dear' is not a price" in statement.problem
        assert len(lines("event=corrections_refused")) == 1
        assert costs(path) == [0.05] * 3
        corrections(tmp_path, 0.04, 0.04, 0.04)
        await keeper.catch_up()
        await keeper.catch_up()
        assert (costs(path), statement.problem) == ([0.04] * 3, None)
        assert len(lines("event=corrections_taken")) == 1
        statement.path.unlink()
        await keeper.catch_up()
    assert costs(path) == [0.04] * 3


async def test_many_hours_are_appraised_a_few_at_a_time(path, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.bookkeeping.HOURS_AT_A_TIME", 1)
    clock = HandClock(NOW + timedelta(days=2))
    with Store(path) as store:
        await three_hours(store, at=(path, store, clock))
        keeper = books(path, store, clock, corrections=corrections(tmp_path, 0.05, 0.05, 0.05))
        seen = []
        for _ in range(3):
            await keeper.step()
            seen.append(costs(path))
    assert seen == [[0.05, 0.06, 0.06], [0.05, 0.05, 0.06], [0.05, 0.05, 0.05]]


async def test_a_price_of_many_hours_is_appraised_as_one(path, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.bookkeeping.HOURS_AT_A_TIME", 1)
    clock = HandClock(NOW + timedelta(days=3))
    with Store(path) as store:
        await three_hours(store, at=(path, store, clock))
        statement = tmp_path / "days.csv"
        days = [f"{(NOW.date() + timedelta(days=day)).isoformat()}T12:30:00Z,0.02" for day in (-1, 0)]
        statement.write_text("\n".join(["start,usd_per_kwh", *days]) + "\n")
        keeper = books(path, store, clock, corrections=Corrections(statement))
        for _ in range(2):
            await keeper.step()
        with Reader(path) as reader:
            assert len(reader.settlements(0, 2**52)) == 2
    assert costs(path) == [0.02] * 3


async def test_an_hour_whose_readings_are_gone_stays_as_it_was_booked(path, tmp_path):
    clock = HandClock(NOW + timedelta(days=2))
    with Store(path) as store:
        for minutes in range(0, 181, 30):
            at = NOW + timedelta(minutes=minutes)
            save(store, machine(1, reading(began_at=at)), market=market(at=at), valid_s=1800)
        await books(path, store, clock).catch_up()
        store.prune("readings", to_ms(NOW + timedelta(minutes=90)), 1000)  # in the middle of the second hour
        await books(path, store, clock, corrections=corrections(tmp_path, 0.05, 0.05, 0.05)).catch_up()
        with Reader(path) as reader:
            (told,) = [each for each in reader.events() if each.kind == "ledger_not_reappraised"]
    assert costs(path) == [0.06, 0.06, 0.05]
    assert [each.energy_kwh for each in booked(path)[0]] == pytest.approx([3.5] * 3)
    assert "2 booked hours stay as they are" in told.detail


# -- what is kept ----------------------------------------------------------------------------------------


async def kept(path, store, keep, rounds=40):
    for index in range(rounds):
        at = NOW + index * STEP
        save(
            store,
            machine(1, reading(began_at=at)),
            machine(2, reading(began_at=at)),
            market=market(at=at),
            valid_s=1200,
        )
    keeper = books(path, store, HandClock(), keep=keep)
    before = await keeper.prune()  # nothing is booked yet
    await keeper.catch_up()
    return before, await keeper.prune(), keeper


async def test_readings_that_are_booked_and_old_are_dropped_and_exports_of_full_hours_stay(path, monkeypatch):
    monkeypatch.setattr("agent.bookkeeping.PRUNE_ROWS", 5)
    span = [(NOW, NOW + timedelta(hours=13))]
    with Store(path) as store:
        before, dropped, keeper = await kept(path, store, timedelta(hours=6))
        assert (before, dropped) == (0, 2 * 3 * 7)  # the last round is at 13:00, seven full hours are older
        assert await keeper.prune() == 0
    assert added(path, span)[0] == pytest.approx(2 * 13 * 3.5)
    with Reader(path) as reader:
        assert reader.first_known_at() == NOW
        assert reader.readings_span()[0] == NOW + timedelta(hours=7)


async def test_what_is_not_booked_is_not_dropped_however_old(path):
    with Store(path) as store:
        _, dropped, _ = await kept(path, store, timedelta(seconds=1))
        assert dropped == 2 * 3 * 12  # but for the last booked hour, whose last reading reaches into the next
    assert added(path, [(NOW, NOW + timedelta(hours=13, minutes=20))])[0] == pytest.approx(2 * 3.5 * 40 / 3)


async def test_without_a_limit_all_is_kept(path):
    with Store(path) as store:
        _, dropped, _ = await kept(path, store, None)
    assert dropped == 0


# -- the command -----------------------------------------------------------------------------------------


def test_the_ledger_on_the_command_line(month):
    done = hashcost(
        "export",
        "ledger",
        "--by",
        "month",
        "--time-zone",
        "America/Chicago",
        "--to",
        "2026-03-10",
        "--database",
        month.path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + 3 * 2
    site = hashcost(
        "export", "ledger", "--site", "--by", "day", "--to", "2026-03-02", "--database", month.path
    )
    assert len(site.stdout.splitlines()) == 1 + 10


def test_a_time_zone_that_is_none_is_refused(month):
    done = hashcost("export", "ledger", "--time-zone", "Texas", "--database", month.path)
    assert done.returncode == 2
    assert "'Texas' is no time zone; write one such as America/Chicago" in done.stderr


def test_periods_of_an_export_touch():
    periods = list(split(START, START + timedelta(days=70), Period.MONTH, ZoneInfo("Asia/Kolkata")))
    assert all(one[1] == two[0] for one, two in pairwise(periods))
    assert from_ms(to_ms(periods[0][0])) == START
