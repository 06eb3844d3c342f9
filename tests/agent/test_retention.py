"""What becomes of readings that grow old: rolled up, dropped, and exported as before."""

import asyncio
import json
import os
import random
import resource
import sqlite3
import stat
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from agent import bookkeeping
from agent.accounts import accounts, cut_hours
from agent.appraisal import Terms
from agent.archive import MS_PER_DAY, TABLES, Archive, ArchiveError, day_file, write_day
from agent.bookkeeping import LOOK_BACK, Bookkeeper
from agent.books import CORRECTED
from agent.config.history import HistorySection
from agent.corrections import Corrections
from agent.export import Period, export_profitability, profitability, split
from agent.ledger import ADDITIVE, EXTREMES
from agent.ledger_export import export_ledger, machine_rows
from agent.orders import OrderState
from agent.reader import Reader
from agent.records import energy_rows, event_rows, export_energy, order_rows, price_rows
from agent.rows import Event, Settled, to_ms
from agent.store import Store, copy_database
from agent.terms import MachineTerms, TermsBook
from drivers.reading import MachineId
from tests.agent.builders import NOW, HandClock, asleep, mac, machine, market, order, reading, save
from tests.agent.processes import hashcost

STEP = timedelta(minutes=1)
VALID_S = 150.0
HALF = timezone(timedelta(hours=5, minutes=30))
HOURS = 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashcost.db"


async def direct(function, *arguments):
    return function(*arguments)


def live(path, store, hours=HOURS, *, machines=2, start=NOW, seed=1, price=None):
    """Rounds of a minute with gaps, sleeps and prices that change; no round falls on a full five minutes."""
    chance = random.Random(seed)
    at = start + timedelta(seconds=7)
    while at < start + timedelta(hours=hours, minutes=20):
        if chance.random() > 0.1:
            fleet = [
                machine(number, said(chance, at))
                for number in range(1, machines + 1)
                if chance.random() > 0.05
            ]
            if fleet:
                now = market(round(chance.uniform(0, 0.2), 3) if price is None else price, at=at)
                save(store, *fleet, market=now, valid_s=VALID_S)
        at += STEP


def said(chance, at):
    if chance.random() < 0.2:
        return asleep(began_at=at, ended_at=at)
    return reading(
        began_at=at, ended_at=at, hashrate_ths=chance.uniform(80, 120), power_w=chance.uniform(3000, 3600)
    )


def books(path, store, *, write=direct, keep=timedelta(hours=3)):
    return Bookkeeper(path, store, write, clock=HandClock(), keep=keep)


def told(path, periods):
    with Reader(path) as reader:
        return [
            [[getattr(each, name) for name in (*ADDITIVE, "unknown_h", *EXTREMES)] for each in sums]
            for _, sums in accounts(reader, periods)
        ]


def energy(path, minutes):
    with Reader(path) as reader:
        return list(energy_rows(reader, NOW, NOW + timedelta(hours=HOURS), timedelta(minutes=minutes)))


def near(rows):
    return [{k: pytest.approx(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def count(path, what):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"select count(*) from {what}").fetchone()[0]


@pytest.mark.parametrize("minutes", [5, 15, 30, 60])
async def test_energy_is_told_by_steps_as_it_was_by_readings(path, minutes):
    with Store(path) as store:
        live(path, store)
        keeper = books(path, store)
        await keeper.catch_up()
        before = energy(path, minutes)
        assert await keeper.prune() > 0
        assert energy(path, minutes) == near(before)
        assert count(path, "readings") < count(path, "steps") * 5


async def test_any_period_of_full_steps_is_what_it_was_with_its_extremes(path):
    start, end = NOW + timedelta(minutes=25), NOW + timedelta(hours=HOURS, minutes=-35)
    periods = list(split(start, end, Period.HOUR))
    with Store(path) as store:
        live(path, store)
        keeper = books(path, store)
        await keeper.catch_up()
        before = told(path, periods)
        await keeper.prune()
        assert told(path, periods) == [[pytest.approx(sums) for sums in each] for each in before]


async def test_what_is_less_than_a_step_is_unknown_once_readings_are_gone(path):
    with Store(path) as store:
        live(path, store)
        keeper = books(path, store)
        await keeper.catch_up()
        await keeper.prune()
        ((sums,), _) = told(path, [(NOW + timedelta(minutes=4), NOW + timedelta(minutes=11))])
        known = dict(zip((*ADDITIVE, "unknown_h"), sums, strict=False))
        assert known["mining_h"] + known["asleep_h"] <= 5 / 60 + 1e-9
        assert known["unknown_h"] == pytest.approx(7 / 60 - known["mining_h"] - known["asleep_h"])


@pytest.mark.parametrize("export", [export_ledger, export_profitability])
def test_an_export_is_of_one_moment_though_readings_are_rolled_up_and_dropped_meanwhile(
    path, monkeypatch, export
):
    start, end = NOW + timedelta(minutes=25), NOW + timedelta(minutes=50)
    with Store(path) as store:
        live(path, store)
        keeper = books(path, store)
        asyncio.run(keeper.catch_up())
        before = export(path, start, end, Period.MACHINE, None)
        settlements = Reader.settlements

        def racing(reader, *span):
            monkeypatch.undo()  # the keeper has readers of its own
            asyncio.run(keeper.prune())
            return settlements(reader, *span)

        monkeypatch.setattr(Reader, "settlements", racing)
        assert export(path, start, end, Period.MACHINE, None) == before
        assert count(path, "steps") > 0


async def test_a_crash_while_rolling_up_repeats_it_and_loses_nothing(path, monkeypatch):
    monkeypatch.setattr("agent.bookkeeping.PRUNE_ROWS", 7)
    with Store(path) as store:
        live(path, store)
        keeper = books(path, store)
        await keeper.catch_up()
        before = energy(path, 5)
        writes = 0

        async def crashing(function, *arguments):
            nonlocal writes
            writes += 1
            if writes == 9:
                raise OSError("out of power")
            return function(*arguments)

        with pytest.raises(OSError, match="power"):
            await books(path, store, write=crashing).prune()
        assert energy(path, 5) == near(before)
        keeper = books(path, store)
        while await keeper.prune():
            pass
        assert energy(path, 5) == near(before)
        with Reader(path) as reader:
            kept_from = NOW + timedelta(hours=HOURS, minutes=18) - timedelta(hours=3)
            assert reader.rolled_until_ms() == to_ms(kept_from.replace(minute=0))


async def test_no_transaction_writes_or_drops_many_rows(path, monkeypatch):
    monkeypatch.setattr("agent.bookkeeping.PRUNE_ROWS", 20)
    sizes = []
    with Store(path) as store:
        live(path, store, machines=4)

        async def counting(function, *arguments):
            before = count(path, "readings"), count(path, "steps")
            done = function(*arguments)
            after = count(path, "readings"), count(path, "steps")
            sizes.append(max(abs(one - other) for one, other in zip(before, after, strict=True)))
            return done

        await books(path, store).catch_up()
        await books(path, store, write=counting).prune()
    assert max(sizes) <= 20 + 12  # a machine's hour is not cut
    assert sum(sizes) > 500


async def test_the_file_stays_as_big_as_what_is_kept(path):
    """Two and a half days of which six hours are kept: the file ends no bigger than it was after one."""
    sizes = []
    with Store(path) as store:
        keeper = books(path, store, keep=timedelta(hours=6))
        for day in range(5):
            live(path, store, 12, machines=6, start=NOW + timedelta(hours=12 * day), seed=day, price=0.06)
            await keeper.catch_up()
            while await keeper.prune():
                pass
            store.prune("steps", to_ms(NOW + timedelta(hours=12 * day)), 10**6)
            sizes.append(path.stat().st_size)
    assert max(sizes[2:]) <= sizes[1] * 1.2


async def test_what_is_freed_is_given_back_to_the_disk_a_bit_at_a_time(path):
    with Store(path) as store:
        live(path, store, machines=10)
        before = pages(path)
        store.prune("readings", to_ms(NOW + timedelta(days=1)), 10**6)
        assert store.shrink(10) == 10
        assert pages(path) == before - 10
        while store.shrink(10):
            pass
        assert pages(path) < before * 0.6
        store.prune("readings", to_ms(NOW + timedelta(days=1)), 10**6)


def pages(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("pragma page_count").fetchone()[0]


def test_a_copy_of_an_older_file_can_shrink(path, tmp_path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table machines (machine_id text)")
        assert connection.execute("pragma auto_vacuum").fetchone() == (0,)
    copy_database(path, tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("pragma auto_vacuum").fetchone() == (2,)


# -- old days ----------------------------------------------------------------------------------------------


DAYS = 3


TERMS = TermsBook(own={mac(2): MachineTerms(terms=Terms(fee=0.02))})


async def archived(path, store, directory, *, days=DAYS, keep_steps=timedelta(days=1)):
    """Three days of quarter hours, of which the first are put away; the keeper."""
    for index in range(days * 96 + 8):
        at = NOW.replace(hour=0) + index * timedelta(minutes=15)
        save(
            store,
            machine(1, reading(began_at=at, power_w=3000.0 + index)),
            machine(2, reading(began_at=at, power_w=2000.0 + index)),
            market=market(0.05 + index % 7 / 100, at=at),
            terms=TERMS,
            valid_s=900,
        )
    happen(store, days)
    keeper = Bookkeeper(
        path,
        store,
        direct,
        clock=HandClock(NOW + timedelta(days=days)),
        keep=timedelta(hours=6),
        keep_steps=keep_steps,
        archive=directory,
    )
    await keeper.catch_up()
    return keeper


def happen(store, days):
    """Events, and orders that end on the day after the one that they were made on; one is open, one sleep stands."""
    first = NOW.replace(hour=0)
    store.create_order(order(created_at=first, state=OrderState.PROPOSED, settled_at=first))
    standing = order(created_at=first, state=OrderState.CONFIRMED, confirmed_at=first, settled_at=first)
    store.create_order(replace(standing, machine_id=MachineId(mac(2))))
    for hours in range(1, days * 24, 5):
        made = first + timedelta(hours=hours)
        store.save_events([Event(at=made, kind="noted", detail=f"hour {hours}")])
        sleep = order(state=OrderState.RELEASED, created_at=made, settled_at=made + timedelta(hours=23))
        store.create_order(replace(sleep, detail="it is over"))


def everything(path, since=timedelta(), until=timedelta(days=DAYS)):
    """All that is told of the three days, by hours and by five minutes."""
    start, end = (NOW.replace(hour=0) + each for each in (since, until))
    with Reader(path) as reader:
        return [
            *order_rows(reader, start, end),
            *event_rows(reader, start, end),
            *price_rows(reader, start, end),
            *energy_rows(reader, start, end, timedelta(minutes=5)),
            *machine_rows(reader, start, end, Period.HOUR),
            *profitability(reader, start, end, Period.DAY),
        ]


async def settle(keeper):
    for _ in range(10):
        await keeper.prune()


async def test_days_in_the_archive_are_told_as_if_nothing_had_moved(path, tmp_path):
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")
        before = everything(path)
        await settle(keeper)
        assert everything(path) == near(before)
        with Reader(path) as reader:
            assert reader.first_known_at() == NOW.replace(hour=0)
            since_ms = reader.archive().until_ms
    assert sorted(file.name for file in (tmp_path / "old").iterdir()) == [
        f"{table}-{NOW + timedelta(days=day):%Y-%m-%d}.parquet"
        for table in ("events", "ledger", "orders", "prices", "steps")
        for day in (0, 1)
    ]
    assert count(path, f"ledger where hour_ms < {since_ms}") == 0
    assert count(path, f"steps where step_ms < {since_ms}") == 0
    assert count(path, "ledger") == 2 * 25
    assert count(path, f"events where at_ms < {since_ms}") == 0
    assert count(path, f"rounds where began_ms < {since_ms}") == 0
    assert count(path, f"orders where settled_ms < {since_ms} and state = 'released'") == 0
    assert count(path, "orders where state in ('proposed', 'confirmed')") == 2
    assert count(path, "quotes") <= 2 * 4 * 28  # of a day, two hours, and one for safety


@pytest.mark.parametrize(
    ("since", "until"), [(0.25, 72), (5, 20), (5, 24), (23.75, 48.25), (24, 48), (30, 72), (47, 49), (48, 60)]
)
async def test_a_part_of_the_time_is_told_as_before_wherever_it_begins(path, tmp_path, since, until):
    part = timedelta(hours=since), timedelta(hours=until)
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")
        before = everything(path, *part)
        await settle(keeper)
        assert everything(path, *part) == near(before)


async def test_prices_that_stood_since_before_the_archive_are_found_over_days_without_any(path, tmp_path):
    first = NOW.replace(hour=0)
    with Store(path) as store:
        for hours in (*range(1, 6), *range(80, 120)):
            at = first + timedelta(hours=hours)
            save(store, machine(1, reading(began_at=at)), market=market(hours / 1000, at=at), valid_s=3600)
        keeper = books(path, store)
        keeper._keep_steps, keeper._archive = timedelta(hours=6), tmp_path / "old"
        await keeper.catch_up()
        start, end = first + timedelta(hours=60), first + timedelta(hours=82)
        with Reader(path) as reader:
            before = list(price_rows(reader, start, end))
        assert [row["power_price_usd_per_kwh"] for row in before] == [0.005, 0.08, 0.081]
        await settle(keeper)
        with Reader(path) as reader:
            assert reader.archive().until_ms == to_ms(first + timedelta(days=4))
            assert list(price_rows(reader, start, end)) == before


async def test_a_backtest_replays_the_prices_of_old_days_as_before(path, tmp_path):
    asked = "backtest", "--json", "--delays", "", "--switching-cost", "0.01", "--database", path
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")
        before = await asyncio.to_thread(hashcost, *asked)
        await settle(keeper)
        after = await asyncio.to_thread(hashcost, *asked)
    told = json.loads(after.stdout)
    assert told == json.loads(before.stdout)
    assert told["hours"] == DAYS * 24 + 1.75
    assert told["gap_hours"] == 0


async def test_every_reading_that_is_kept_has_its_prices_also_those_of_machines_with_their_own(path):
    with Store(path) as store:
        keeper = await archived(path, store, None)
        before = count(path, "readings join quotes using (quote_id)")
        await keeper.prune()
        await settle(keeper)
        kept = count(path, "readings")
        assert 0 < kept < before
        assert count(path, "readings join quotes using (quote_id)") == kept
        assert count(path, "rounds join quotes using (quote_id)") == count(path, "rounds")


async def test_numbers_of_orders_and_events_go_on_where_all_of_them_are_old(path):
    with Store(path) as store:
        keeper = await archived(path, store, None)
        store.save_events([Event(at=NOW - timedelta(days=900), kind="late", detail="its clock was wrong")])
        late = store.create_order(order(state=OrderState.EXPIRED, settled_at=NOW))
        await settle(keeper)
        assert count(path, f"orders where order_id = {late.order_id}") == 1
        assert count(path, "events where kind = 'late'") == 1


async def test_a_crash_between_writing_a_day_and_dropping_it_counts_nothing_twice(path, tmp_path):
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")
        before = everything(path)

        async def crashing(function, *arguments):
            if function == store.prune and arguments[0] != "readings":
                raise OSError("out of power")
            return function(*arguments)

        keeper._write = crashing
        with pytest.raises(OSError, match="power"):
            await settle(keeper)
        with Reader(path) as reader:
            assert reader.archive() is not None
        assert everything(path) == near(before)


async def test_a_file_that_is_missing_from_the_archive_is_told_and_not_taken_for_a_gap(path, tmp_path):
    with Store(path) as store:
        await settle(await archived(path, store, tmp_path / "old"))
    (tmp_path / "old" / f"ledger-{NOW:%Y-%m-%d}.parquet").unlink()
    with pytest.raises(ArchiveError, match=f"ledger-{NOW:%Y-%m-%d}.parquet: is missing"):
        everything(path)


async def test_an_archive_that_was_moved_is_found_where_the_configuration_says(path, tmp_path):
    with Store(path) as store:
        await settle(await archived(path, store, tmp_path / "old"))
        before = everything(path)
        (tmp_path / "old").rename(tmp_path / "elsewhere")
        keeper = Bookkeeper(
            path,
            store,
            direct,
            clock=HandClock(),
            keep=timedelta(hours=6),
            keep_steps=timedelta(days=1),
            archive=tmp_path / "elsewhere",
        )
        await keeper.prune()
        assert everything(path) == before


async def test_without_an_archive_old_steps_are_dropped_and_the_ledger_stays(path):
    with Store(path) as store:
        keeper = await archived(path, store, None)
        await settle(keeper)
        assert count(path, "ledger") == 2 * (DAYS * 24 + 1)
        assert count(path, f"events where at_ms < {to_ms(NOW.replace(hour=0) + timedelta(days=2))}") == 0
        with Reader(path) as reader:
            ((_, (first, *_)), _) = reader.steps(0, 2**52)
        assert first[1] == to_ms(NOW.replace(hour=0) + timedelta(days=2))


async def test_hours_of_which_only_the_whole_is_kept_are_told_where_periods_cut_them(path):
    start, end = (NOW.replace(hour=0) + timedelta(days=days) for days in (0, 3))
    heard = []

    def asked():
        day = {"by": Period.DAY, "output": None, "tell": heard.append}
        yield 2, export_ledger(path, start, end, **day, zone=HALF)
        yield 2, export_profitability(path, start, end, **day, zone=ZoneInfo("Asia/Kathmandu"))
        yield 0, export_profitability(path, start, end, **day, zone=ZoneInfo("America/Chicago"))
        yield 0, export_ledger(path, start, end, **day | {"by": Period.HOUR}, site=True)
        yield 48, export_energy(path, start, end, timedelta(minutes=30), None, tell=heard.append)
        yield 0, export_energy(path, start, end, timedelta(minutes=60), None, tell=heard.append)

    with Store(path) as store:
        keeper = await archived(path, store, None)
        before = [text for _, text in asked()]
        assert heard == []
        await settle(keeper)
        for was, (hours, text) in zip(before, asked(), strict=True):
            assert (text == was) is (hours == 0)
            assert [f"of {hours} of the hours that these periods cut" in line for line in heard] == (
                [True] if hours else []
            )
            heard.clear()


async def test_the_command_tells_it_beside_the_rows(path):
    span = "--from", f"{NOW:%Y-%m-%d}T00:30:00Z", "--to", f"{NOW + timedelta(days=1):%Y-%m-%d}"
    with Store(path) as store:
        await settle(await archived(path, store, None))
        done = await asyncio.to_thread(hashcost, "export", "ledger", *span, "--database", path)
    assert done.returncode == 0
    assert done.stderr.startswith(f"hashcost: {path}: of 1 of the hours")
    assert done.stdout.count("\n") == 3


async def test_nothing_is_told_of_hours_that_are_in_the_archive_or_that_nobody_knew(path, tmp_path):
    first = NOW.replace(hour=0)
    halves = list(split(first - timedelta(days=9, minutes=30), first + timedelta(days=3), Period.DAY, HALF))
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")

        async def without_the_ledger(function, *arguments):
            return 0 if function == store.prune and arguments[0] == "ledger" else function(*arguments)

        keeper._write = without_the_ledger  # which is dropped last
        await settle(keeper)
    assert count(path, "ledger") == 2 * (DAYS * 24 + 1)
    with Reader(path) as reader:
        assert reader.archive().until_ms == to_ms(first + timedelta(days=2))
        assert reader.whole_hours(cut_hours(halves)) == 0


@pytest.mark.parametrize("directory", [None, "old"], ids=["dropped", "archived"])
async def test_published_prices_go_with_their_days_and_corrections_stay_known(path, tmp_path, directory):
    quarter = 900_000

    def published(day):
        start_ms = to_ms(NOW.replace(hour=0) + timedelta(days=day))
        return Settled(start_ms=start_ms, end_ms=start_ms + quarter, price_usd_per_kwh=0.05)

    with Store(path) as store:
        keeper = await archived(path, store, None if directory is None else tmp_path / directory)
        store.settle([published(day) for day in range(DAYS)], "feed", NOW)
        corrected = replace(published(0), start_ms=published(0).end_ms, end_ms=published(0).end_ms + quarter)
        store.settle([corrected], CORRECTED, NOW)
        kept_ms = to_ms(NOW.replace(hour=0) + timedelta(days=2))
        keeper._clock = HandClock(NOW.replace(hour=0) + timedelta(days=1) + LOOK_BACK)
        await settle(keeper)  # that of the second day ended less than LOOK_BACK ago, and is told again
        assert count(path, f"settlements where source = 'feed' and start_ms < {kept_ms}") == 1
        keeper._clock = HandClock(NOW + timedelta(days=DAYS + 3))
        await settle(keeper)
        assert count(path, f"settlements where source = 'feed' and start_ms < {kept_ms}") == 0
        assert count(path, f"settlements where source = 'feed' and start_ms >= {kept_ms}") == DAYS - 2
        assert count(path, "settlements where source <> 'feed'") == 1


async def test_a_price_that_is_corrected_too_late_is_told(path, tmp_path):
    with Store(path) as store:
        await settle(await archived(path, store, tmp_path / "old"))
        statement = tmp_path / "statement.csv"
        statement.write_text(
            f"start,usd_per_kwh\n{NOW:%Y-%m-%d}T01:00:00Z,0.5\n{NOW:%Y-%m-%d}T02:00:00Z,0.5\n"
        )
        keeper = Bookkeeper(
            path,
            store,
            direct,
            clock=HandClock(NOW + timedelta(days=DAYS)),
            corrections=Corrections(statement),
        )
        before = everything(path)
        await keeper.catch_up()
        assert everything(path) == before
        with Reader(path) as reader:
            assert "ledger_not_reappraised" in {event.kind for event in reader.events()}


async def test_a_price_that_is_corrected_too_late_is_told_with_the_archive_out_of_reach_too(path, tmp_path):
    """And what is over now is booked nevertheless."""
    with Store(path) as store:
        await settle(await archived(path, store, tmp_path / "old"))
        (tmp_path / "old").rename(tmp_path / "on a tape")
        (tmp_path / "statement.csv").write_text(
            f"start,usd_per_kwh\n{NOW:%Y-%m-%d}T01:00:00Z,0.5\n{NOW:%Y-%m-%d}T02:00:00Z,0.5\n"
        )
        late = NOW.replace(hour=0) + timedelta(days=DAYS, hours=3)
        save(store, machine(1, reading(began_at=late)), market=market(0.05, at=late))
        await Bookkeeper(
            path, store, direct, clock=HandClock(late), corrections=Corrections(tmp_path / "statement.csv")
        ).catch_up()
        with Reader(path) as reader:
            assert reader.booked_until_ms() == to_ms(late)
            assert "ledger_not_reappraised" in {event.kind for event in reader.events()}


async def test_a_day_in_the_archive_stays_as_it_is_though_its_readings_are_still_there(
    path, tmp_path, monkeypatch
):
    """What the ledger of the site tells, and what a fleet is told, must not part."""
    monkeypatch.setattr("agent.bookkeeping.PRUNE_STEPS", 0)  # nothing is dropped yet
    with Store(path) as store:
        await settle(await archived(path, store, tmp_path / "old"))
        before = everything(path)
        (tmp_path / "statement.csv").write_text(
            f"start,usd_per_kwh\n{NOW:%Y-%m-%d}T00:00:00Z,0.5\n{NOW:%Y-%m-%d}T02:00:00Z,0.5\n"
        )
        await Bookkeeper(
            path, store, direct, clock=HandClock(), corrections=Corrections(tmp_path / "statement.csv")
        ).catch_up()
        assert everything(path) == before
        with Reader(path) as reader:
            kinds = {event.kind for event in reader.events()}
        assert "ledger_not_reappraised" in kinds
        assert "ledger_reappraised" not in kinds


def test_without_pyarrow_an_archive_is_refused_where_it_is_configured(monkeypatch):
    monkeypatch.setattr("agent.archive.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'hashcost\[parquet\]'"):
        HistorySection(archive_directory="/tmp/old")
    assert HistorySection().archive_directory is None


async def test_what_cannot_be_put_away_stays_in_the_database_and_is_told_once(path, tmp_path, lines):
    (tmp_path / "old").write_text("in the way")
    with Store(path) as store:
        keeper = await archived(path, store, tmp_path / "old")
        before = everything(path)
        await settle(keeper)
        assert everything(path) == near(before)
        with Reader(path) as reader:
            assert [event.kind for event in reader.events()].count("archive_failed") == 1
        (tmp_path / "old").unlink()
        await settle(keeper)
        with Reader(path) as reader:
            assert reader.archive() is not None
        assert len(lines("event=archive_failed")) == len(lines("event=archive_recovered")) == 1


def test_a_day_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match="cannot be written"):
        write_day(tmp_path / "file", "steps", 0, [])


def test_a_day_has_its_name_on_the_disk_before_the_database_drops_it(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def watching(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), day_file(tmp_path, "steps", 0).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    write_day(tmp_path, "steps", 0, [])
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("table", ["steps", "prices", "events"])
def test_more_days_than_a_process_may_open_files_are_read_side_by_side(tmp_path, table):
    contents, days, machines = TABLES[table], 300, 600
    whole = [
        tuple(
            {"machine_id": f"{n:04}", contents.moment: 0, "event_id": n}.get(name)
            for name in contents.columns
        )
        for n in range(machines)
    ]
    place = contents.place(contents.moment)
    for day in range(days):
        rows = [(*row[:place], day * MS_PER_DAY + n, *row[place + 1 :]) for n, row in enumerate(whole)]
        if table == "events":
            first = contents.place("event_id")
            rows = [(*row[:first], day * machines + n, *row[first + 1 :]) for n, row in enumerate(rows)]
        write_day(tmp_path, table, day * MS_PER_DAY, rows)
    archive = Archive(directory=str(tmp_path), from_ms=0, until_ms=days * MS_PER_DAY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        read = list(archive.rows(table, 0, days * MS_PER_DAY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(read) == days * machines
    order = [tuple(row[contents.place(name)] for name in contents.order) for row in read]
    assert order == sorted(order)


async def test_steps_are_read_and_closed_in_threads_also_when_nobody_waits_any_more(path, monkeypatch):
    reads, goes_on, log = threading.Event(), threading.Event(), []

    class Watched(Reader):
        def __init__(self, database):
            log.append(("opened", threading.current_thread() is threading.main_thread()))
            super().__init__(database)

        def close(self):
            log.append(("closed", threading.current_thread() is threading.main_thread()))
            super().close()

    def slow(reader, hour_ms):
        reads.set()
        goes_on.wait()
        log.append(("read", reader.mode()))
        yield []

    with Store(path) as store:
        live(path, store, hours=1)
        monkeypatch.setattr(bookkeeping, "Reader", Watched)
        monkeypatch.setattr(bookkeeping, "step_rows", slow)
        rolling = asyncio.create_task(books(path, store)._roll_up(to_ms(NOW)))
        await asyncio.to_thread(reads.wait)
        rolling.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await rolling
    assert log == [("opened", False), ("read", None), ("closed", False)]


def test_a_damaged_day_is_told(tmp_path):
    day_file(tmp_path, "steps", 0).write_bytes(b"PAR1 no more")
    archive = Archive(directory=str(tmp_path), from_ms=0, until_ms=MS_PER_DAY)
    with pytest.raises(ArchiveError, match=r"steps-1970-01-01\.parquet: cannot be read"):
        list(archive.rows("steps", 0, MS_PER_DAY))
