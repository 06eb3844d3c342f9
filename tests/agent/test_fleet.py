"""A fleet's copies of sites: the same as the sites, whatever order, number and company their messages come in."""

import importlib
import json
import random
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, zip_longest

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from agent.bookkeeping import Bookkeeper
from agent.books import total
from agent.export import COLUMNS as CSV_COLUMNS
from agent.export import ExportError, Period, export_profitability
from agent.federation import fleet_database
from agent.federation.books import export_fleet
from agent.federation.fleet_database import Arrived, FleetDatabase, is_fleet, read_state
from agent.federation.messages import COLUMNS, Kind, Message, Place, encode, subject
from agent.federation.metrics import fleet_metrics_text
from agent.federation.overview import draw_fleet, fleet_as_data, notes, site_views
from agent.federation.sequence import InOrder
from agent.opened import MARKER, open_store
from agent.orders import OrderState
from agent.policy import Reason
from agent.reader import Reader
from agent.rows import Event, to_ms
from agent.store import StoreError
from drivers.reading import RunState
from tests.agent.builders import (
    NOW,
    Site,
    asleep,
    at,
    failure,
    mac,
    machine,
    market,
    order,
    reading,
    save,
)
from tests.agent.processes import hashcost_here

OLDEST = {
    "hours": ("ledger", "hour_ms"),
    "events": ("events", "at_ms"),
    "rounds": ("rounds", "began_ms"),
    "prices": ("quotes", "at_ms"),
}


@pytest.fixture
def site(start_site):
    return start_site()


@pytest.fixture(params=["files", "postgres"])
def directory(request, tmp_path):
    """A fleet that is kept in files, or in PostgreSQL."""
    if request.param == "files":
        return tmp_path / "fleet"
    return request.getfixturevalue("in_postgres")(tmp_path / "fleet")


def delivered(directory, *batches, heard_at=NOW):
    fleet = FleetDatabase(directory, now=lambda: heard_at)
    try:
        for batch in batches:
            fleet.take(batch)
        return fleet.state
    finally:
        fleet.close()


def everything(path):
    """All that both a site and its copy have, of machines as shown and of what happened."""
    with Reader(path) as reader:
        views = {view.machine_id: replace(view, at=NOW, seen_at=None) for view in reader.latest()}
        return (
            views,
            reader.decisions(),
            reader.orders(),
            reader.events(),
            reader.terms(),
            reader.conditions(),
        )


def busy_day(site, seed=1, rounds=12, machines=8):
    """Rounds in which machines come, go, fall silent, are ordered about; and a restart in the middle."""
    rng = random.Random(seed)
    fleet = {number: machine(number, reading()) for number in range(1, machines + 1)}
    for turn in range(rounds):
        now = NOW + timedelta(seconds=30 * turn)
        for each in fleet.values():
            what = rng.random()
            if what < 0.2:
                each.apply(failure(at=now))
            elif what < 0.4:
                each.apply(asleep(began_at=now))
            else:
                each.apply(reading(began_at=now, power_w=3000.0 + rng.randrange(600)))
        save(site.store, *fleet.values(), market=market(rng.choice([0.05, 0.07]), at=now))
        if (created := site.store.create_order(order(machine_id=mac(rng.randint(1, 3))))) is not None:
            after = rng.choice([OrderState.FAILED, OrderState.DISPATCHING])
            site.store.advance(created, replace(created, state=after, settled_at=now))
        site.store.save_events([Event(at=now, kind="noted", detail=str(turn))])
        if turn == rounds // 2:
            site.stop()
            site.start()
            gone = fleet.pop(machines)
            site.store.retire([gone.machine_id], now)


def test_a_copy_shows_what_the_site_shows(site, directory):
    busy_day(site)
    state = delivered(directory, site.flush())
    assert everything(directory / "denver.db") == everything(site.path)
    assert (state.refused, state.doubles, state.holes) == ({}, 0, 0)
    assert state.taken == len(site.told)


def windows(arrived, size):
    """What is on its way at once: never of two epochs."""
    for _, epoch in groupby(arrived, key=lambda each: each.place.epoch):
        told = list(epoch)
        for start in range(0, len(told), size):
            yield told[start : start + size]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), data=st.data())
def test_order_doubles_and_restarts_make_no_difference(tmp_path_factory, seed, data):
    home = tmp_path_factory.mktemp("any")
    site = Site(home / "site")
    try:
        busy_day(site, seed, rounds=6, machines=4)
        arrived = site.flush()
        window = data.draw(st.integers(1, 20))
        mixed = []
        for part in windows(arrived, window):
            doubles = data.draw(st.lists(st.sampled_from(part), max_size=5))
            mixed += data.draw(st.permutations(part + doubles))
        mixed = [replace(each, stream_sequence=number) for number, each in enumerate(mixed, 1)]
        cuts = sorted(data.draw(st.lists(st.integers(0, len(mixed)), max_size=4)))
        for since, until in zip([0, *cuts], [*cuts, len(mixed)], strict=True):
            position = read_state(home / "fleet").position
            again = [each for each in mixed[:since] if each.stream_sequence > position]
            delivered(home / "fleet", again + mixed[since:until])  # as a service that was killed begins again
        assert everything(home / "fleet" / "denver.db") == everything(site.path)
        assert read_state(home / "fleet").position == len(mixed)
    finally:
        site.stop()


def test_a_copy_can_be_made_anew_from_a_stream_that_lost_its_beginning(site, directory, monkeypatch):
    monkeypatch.setattr(fleet_database, "PATIENCE_S", -1.0)
    busy_day(site)
    arrived = site.flush()
    site.stop()
    site.start()  # tells everything that stands
    save(
        site.store, *[machine(n, reading()) for n in range(1, 8)], market=market(at=NOW + timedelta(hours=1))
    )
    kept = site.flush()[len(arrived) - 5 :]
    delivered(directory, kept, [])
    ours, theirs = everything(directory / "denver.db"), everything(site.path)
    assert ours[0] == theirs[0]
    assert ours[4:] == theirs[4:]


def test_a_site_that_let_go_what_it_could_not_keep_is_shown_as_it_is_and_the_gap_is_told(
    start_site, directory
):
    site = start_site(limit_bytes=8_000)
    busy_day(site, rounds=60)
    delivered(directory, site.flush())
    ours, theirs = everything(directory / "denver.db"), everything(site.path)
    assert ours[0] == theirs[0]
    assert any(event.kind == "fleet_gap" for event in ours[3])


def test_machines_that_are_not_told_of_were_seen_in_every_round_and_silent_ones_were_not(site, directory):
    steady, dead = machine(1, reading()), machine(2, reading())
    for turn in range(5):
        now = NOW + timedelta(seconds=30 * turn)
        at(now, [steady])
        if turn >= 2:
            dead.apply(failure(at=now))
        else:
            at(now, [dead])
        save(site.store, steady, dead, market=market(at=now))
    delivered(directory, site.flush(), heard_at=NOW + timedelta(seconds=121))
    (shown,) = site_views(directory, NOW + timedelta(seconds=150))
    states = {view.machine_id: (view.run_state, view.reason) for view in shown.stored.picture.views}
    assert shown.health == "ok"
    assert states[mac(1)][0] is RunState.MINING
    assert states[mac(2)] == (RunState.UNKNOWN, Reason.UNREACHABLE)
    (later,) = site_views(directory, NOW + timedelta(seconds=400))
    assert later.health == "silent"
    assert {view.run_state for view in later.stored.picture.views} == {RunState.UNKNOWN}


def test_one_that_was_merely_not_reached_grows_old(site, directory):
    steady, skipped = machine(1, reading()), machine(2, reading())
    for turn in range(3):
        now = NOW + timedelta(seconds=30 * turn)
        at(now, [steady])
        save(site.store, steady, skipped, market=market(at=now))
    delivered(directory, site.flush())
    with Reader(site.path) as ours, Reader(directory / "denver.db") as theirs:
        (before,) = [view.seen_at for view in ours.latest() if view.machine_id == mac(2)]
        (after,) = [view.seen_at for view in theirs.latest() if view.machine_id == mac(2)]
    assert before == after == NOW


@pytest.mark.parametrize(
    ("skew_s", "health"), [(0, "ok"), (40, "ok"), (-40, "ok"), (3600, "ok"), (-3600, "silent")]
)
def test_a_site_whose_clock_is_wrong_is_not_taken_for_alive_when_it_has_fallen_silent(
    site, directory, skew_s, health
):
    theirs = NOW + timedelta(seconds=skew_s)
    save(site.store, *at(theirs, [machine(1, reading())]), market=market(at=theirs))
    delivered(directory, site.flush(), heard_at=NOW)
    (shown,) = site_views(directory, NOW + timedelta(seconds=10))
    assert shown.health == health
    (later,) = site_views(directory, NOW + timedelta(seconds=200))
    assert later.health == "silent"
    assert later.stored.age >= timedelta(seconds=200)
    assert {view.run_state for view in later.stored.picture.views} == {RunState.UNKNOWN}
    assert {view.power_w for view in later.stored.picture.views} == {None}


FORGED = [
    (Kind.EVENTS, [[1, "noted", "no such machine", {"a": 1}]]),
    (Kind.APPRAISALS, [[mac(1), *["x"] * (len(COLUMNS[Kind.APPRAISALS]) - 1)]]),
    (Kind.ORDERS, [[7, "nobody", "explode", *[None] * (len(COLUMNS[Kind.ORDERS]) - 3)]]),
    (Kind.MACHINES, [["m", *[None] * (len(COLUMNS[Kind.MACHINES]) - 1)]]),
    (Kind.PRICES, [[10**30, *[0] * (len(COLUMNS[Kind.PRICES]) - 1)]]),
    (Kind.EVENTS, [[1, "noted", None, "\ud800"]]),
    (Kind.LEDGER, [[mac(1), *["much"] * (len(COLUMNS[Kind.LEDGER]) - 1)]]),
]


@pytest.mark.parametrize(("kind", "rows"), FORGED)
def test_a_message_that_makes_no_sense_is_refused_and_changes_nothing(site, directory, kind, rows, lines):
    save(site.store, machine(1, reading()))
    good = site.flush()
    delivered(directory, good)
    before = everything(directory / "denver.db")
    last = site.told[-1][1]
    bad = Arrived(
        stream_sequence=len(good) + 1,
        subject=subject("acme", "denver", kind),
        place=Place(epoch=last.epoch, sequence=last.sequence + 1, previous=last.sequence),
        payload=encode(Message(kind=kind, site="denver", rows=rows)),
    )
    state = delivered(directory, [bad])
    assert everything(directory / "denver.db") == before
    assert state.refused == {"denver": 1}
    assert len(lines("event=message_refused")) == 1
    assert state.position == len(good) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": b"noise"},
        {"place": None},
        {"subject": "hashcost.acme.denver"},
        {"subject": "hashcost.acme...rounds"},
        {"subject": "hashcost.acme.tulsa.rounds"},
        {"subject": "hashcost.acme.../../etc.rounds"},
    ],
)
def test_what_is_no_message_of_its_subject_is_refused(site, directory, changes):
    save(site.store, machine(1, reading()))
    last = replace(site.flush()[-1], **changes)
    state = delivered(directory, [last])
    assert sum(state.refused.values()) == 1
    assert [path.name for path in directory.glob("*.db")] == []


def test_a_replayed_message_changes_nothing(site, directory):
    busy_day(site)
    arrived = site.flush()
    delivered(directory, arrived)
    before = everything(directory / "denver.db")
    again = [replace(each, stream_sequence=each.stream_sequence + 1000) for each in arrived]
    state = delivered(directory, again)
    assert everything(directory / "denver.db") == before
    assert state.doubles == len(arrived)


def test_what_waits_for_another_is_given_out_in_order_or_after_a_while():
    order = InOrder[int]({}, patience_s=10.0, most=3)
    places = [Place(epoch="e", sequence=n, previous=n - 1) for n in range(20)]
    assert order.offer(places[1], 1, 0.0) == [1]
    assert order.offer(places[3], 3, 1.0) == []
    assert order.offer(places[4], 4, 9.0) == []
    assert list(order.waiting()) == [3, 4]
    assert order.overdue(10.0) == []
    assert order.overdue(11.5) == [3, 4]
    assert order.offer(places[2], 2, 12.0) == []
    assert (order.holes, order.doubles, order.last) == (1, 1, {"e": 4})
    for number in (6, 7, 8):
        assert order.offer(places[number], number, 13.0) == []
    assert order.offer(places[9], 9, 13.0) == [6, 7, 8, 9]


def hours_of_readings(site, start, hours, machines=3):
    fleet = [machine(number, reading()) for number in range(1, machines + 1)]
    for step in range(hours * 12):
        now = start + timedelta(minutes=5 * step)
        for number, each in enumerate(fleet):
            power = 3000.0 + 37 * ((step * 7 + number) % 11)
            if (step + number) % 10:
                each.apply(reading(began_at=now, power_w=power))
            else:
                each.apply(failure(at=now))
        save(site.store, *fleet, valid_s=400.0, market=market(0.05 + 0.001 * (step % 7), at=now))


async def book(site):
    """The site's ledger, as its agent books it."""

    async def write(function, *arguments):
        return function(*arguments)

    await Bookkeeper(site.path, site.store, write, clock=lambda: NOW).catch_up()


def table(text):
    header, *rows = [line.split(",") for line in text.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("by", list(Period))
async def test_the_fleets_ledger_is_the_sum_of_the_sites(start_site, directory, by):
    start = NOW.replace(minute=0)
    sites = [start_site(name) for name in ("denver", "tulsa")]
    for number, each in enumerate(sites):
        hours_of_readings(each, start, 5, machines=2 + number)
        await book(each)
    delivered(directory, *[each.flush() for each in sites])
    end = start + timedelta(hours=4)
    fleet = table(export_fleet(directory, None, end, by, None))
    expected = []
    for each in sites:
        rows = table(export_profitability(each.path, start, end, by, None))
        expected += [{"site": each.name, **row} for row in rows]
    assert fleet == expected
    assert list(fleet[0]) == ["site", *CSV_COLUMNS]
    assert sum(float(row["energy_kwh"]) for row in fleet) > 0


async def test_a_fleet_that_is_only_told_whole_hours_says_where_periods_cut_them(site, directory):
    start = NOW.replace(minute=0)
    hours_of_readings(site, start, 5, machines=1)
    await book(site)
    delivered(directory, site.flush())
    heard = []
    end = start + timedelta(hours=2)
    export_fleet(directory, start, end, Period.MACHINE, None, tell=heard.append)
    assert heard == []
    export_fleet(directory, start + timedelta(minutes=30), end, Period.MACHINE, None, tell=heard.append)
    (line,) = heard
    assert "of 1 of the hours" in line


async def test_an_hour_that_is_booked_again_is_so_in_the_fleet_too(site, directory):
    start = NOW.replace(minute=0)
    hours_of_readings(site, start, 2, machines=1)
    await book(site)
    (first, *_) = table(export_profitability(site.path, start, None, Period.HOUR, None))
    with Reader(site.path) as reader:
        ((machine_id, (hour, *_)),) = reader.booked(to_ms(start), to_ms(start + timedelta(hours=1)))
    sums = replace(total([hour], to_ms(start), to_ms(start + timedelta(hours=1))), energy_cost_usd=99.0)
    site.store.rebook([(machine_id, sums)], Event(at=NOW, kind="ledger_reappraised", detail="dearer"))
    delivered(directory, site.flush())
    (again, *_) = table(export_fleet(directory, start, None, Period.HOUR, None))
    assert (again["energy_cost_usd"], again["energy_kwh"]) == ("99", first["energy_kwh"])


async def test_what_is_older_than_it_is_kept_for_is_dropped_some_at_a_time(site, directory, monkeypatch):
    monkeypatch.setattr(fleet_database, "PRUNE_EVERY_S", 0.0)
    monkeypatch.setattr(fleet_database, "PRUNE_ROWS", 7)
    start = NOW.replace(minute=0)
    hours_of_readings(site, start, 5, machines=2)
    site.store.save_events(
        [Event(at=start + timedelta(hours=each), kind="noted", detail="") for each in range(5)]
    )
    await book(site)
    delivered(directory, site.flush())
    path, boundary = directory / "denver.db", start + timedelta(hours=3)

    def first_ms():
        with closing(open_store(path)) as copy:
            return {
                what: copy.db.execute(f"select min({column}), count(*) from {table}").fetchone()
                for what, (table, column) in OLDEST.items()
            }

    before = first_ms()
    assert all(oldest < to_ms(boundary) for oldest, _ in before.values())
    fleet = FleetDatabase(directory, now=lambda: boundary + timedelta(days=2), keep=timedelta(days=2))
    with closing(fleet):
        fleet.take(site.flush()[-1:])  # so that the site is known here
        once = first_ms()
        assert all(before[what][1] - once[what][1] <= 7 for what in OLDEST)
        for _ in range(500):
            fleet.take([])
    after = first_ms()
    assert all(oldest >= to_ms(boundary) for oldest, _ in after.values())
    assert all(0 < count < before[what][1] for what, (_, count) in after.items())
    with Reader(path) as reader:
        assert len(reader.latest()) == 2
    delivered(directory, site.flush())  # what comes again is known, and does not come back
    assert first_ms() == after


def test_an_empty_fleet_has_nothing_to_export(directory):
    delivered(directory, [])
    with pytest.raises(ExportError, match="no site"):
        export_fleet(directory, None, None, Period.HOUR, None)


def test_the_overview_counts_no_silent_site_and_says_so(tmp_path, start_site, directory):
    sites = [start_site(name) for name in ("denver", "tulsa")]
    for number, each in enumerate(sites):
        now = NOW - timedelta(hours=number)
        save(each.store, *at(now, [machine(1, reading()), machine(2, reading())]), market=market(at=now))
    state = delivered(directory, *[each.flush() for each in sites])
    unreadable(directory, "boise")
    views = site_views(directory, NOW + timedelta(seconds=20))
    data = fleet_as_data(views, state, NOW)
    assert {each["site"]: each["health"] for each in data["sites"]} == {
        "boise": "unreadable",
        "denver": "ok",
        "tulsa": "silent",
    }
    assert data["totals"]["machines"] == 2
    assert data["totals"]["power_kw"] == 7.0
    assert {each["site"] for each in data["machines"]} == {"denver", "tulsa"}
    assert is_fleet(directory)
    assert not is_fleet(tmp_path)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(draw_fleet(views, state))
    text = captured.get()
    assert "not in the sums, since nothing is known of them now: tulsa" in text


def test_status_export_and_explain_work_on_a_fleet_from_the_command_line(site, directory):
    save(site.store, machine(1, reading()))
    delivered(directory, site.flush())
    shown = hashcost_here("status", "--database", str(directory), "--json")
    assert shown.returncode == 0, shown.stderr
    assert [each["site"] for each in json.loads(shown.stdout)["sites"]] == ["denver"]
    assert "denver" in hashcost_here("status", "--database", str(directory)).stdout
    copy = str(directory / "denver.db")
    assert hashcost_here("explain", mac(1), "--database", copy).returncode == 0
    for command in ("status", "recommend", "whatif"):
        assert hashcost_here(command, "--database", copy).returncode == 0
    exported = hashcost_here("export", "profitability", "--database", str(directory))
    assert exported.stdout.startswith("site,machine_id,")


def unreadable(directory, name):
    """A site of which there is nothing that could be shown."""
    if not (directory / MARKER).exists():
        (directory / f"{name}.db").write_bytes(b"no database")
        return
    copies = importlib.import_module("agent.federation.postgres_copy").PostgresCopies(directory / MARKER)
    copies.open_site(name, lambda: NOW)
    copies.close()


def several(start_site, directory, **sites):
    """Sites that told of their machines just now, at these power prices; it holds for longer than any test takes."""
    for number, (name, price) in enumerate(sites.items()):
        now = datetime.now(UTC)
        made = start_site(name)
        machines = [machine(2 * number, reading()), machine(2 * number + 1, reading(power_w=6000.0))]
        save(made.store, *at(now, machines), market=market(price, at=now), valid_s=900.0)
        delivered(directory, made.flush(), heard_at=now)


def test_whatif_of_a_fleet_is_the_sum_of_its_sites_each_at_its_own_prices(start_site, directory):
    several(start_site, directory, denver=0.05, tulsa=0.09)
    unreadable(directory, "boise")
    silent = start_site("akron")
    save(silent.store, machine(9, reading()))
    delivered(directory, silent.flush())
    asked = ("whatif", "--btc", "-10%", "--power", "+10%", "--json")
    whole = json.loads(hashcost_here(*asked, "--database", str(directory)).stdout)
    alone = [
        json.loads(hashcost_here(*asked, "--database", str(directory / f"{name}.db")).stdout)
        for name in ("denver", "tulsa")
    ]
    for name in (
        "machines",
        "under_breakeven",
        "running_usd_per_day",
        "curtailed_usd_per_day",
        "saved_usd_per_day",
    ):
        assert whole["now"][name] == pytest.approx(sum(each["now"][name] for each in alone))
        assert whole["scenarios"][0][name] == pytest.approx(sum(each["scenarios"][0][name] for each in alone))
    assert whole["sites"]["tulsa"]["now"] == alone[1]["now"]
    assert whole["left_out"] == dict.fromkeys(("akron", "boise"), "nothing is known of it now")
    shown = hashcost_here("whatif", "--database", str(directory))
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()[-4:]] == ["denver", "tulsa", "left", "left"]
    assert hashcost_here("whatif", "--database", str(directory), "--inventory", "x.csv").returncode == 2


def test_metrics_of_a_fleet_are_those_of_its_sites_and_of_a_silent_one_only_that(start_site, directory):
    several(start_site, directory, denver=0.05, tulsa=0.09)
    now = datetime.now(UTC)
    views, state = site_views(directory, now), replace(read_state(directory), refused={"tulsa": 3})
    silent = [
        views[0],
        replace(views[1], stored=replace(views[1].stored, polled_at=now - timedelta(hours=1))),
    ]

    def samples(sites):
        families = text_string_to_metric_families(fleet_metrics_text(sites, state))
        return {
            (each.name, *each.labels.values()): each.value for family in families for each in family.samples
        }

    found = samples(views)
    assert found["hashcost_power_kw", "denver"] == 9.5
    assert found["hashcost_power_price_usd_per_kwh", "tulsa"] == 0.09
    assert found["hashcost_machines", "tulsa", "mining"] == 2
    assert found["hashcost_fleet_messages_refused_total", "tulsa"] == 3
    found = samples(silent)
    assert found["hashcost_site_up", "tulsa"] == 0
    assert ("hashcost_power_kw", "tulsa") not in found
    assert ("hashcost_machines", "tulsa", "mining") not in found


def test_two_sites_that_know_the_same_machine_are_told_of(start_site, directory):
    for name in ("denver", "tulsa"):
        now = datetime.now(UTC)
        made = start_site(name)
        save(
            made.store,
            *at(now, [machine(1, reading()), machine(len(name), reading())]),
            market=market(at=now),
            valid_s=900.0,
        )
        delivered(directory, made.flush(), heard_at=now)
    told = [note.plain for note in notes(site_views(directory, datetime.now(UTC)), read_state(directory))]
    assert told == ["denver and tulsa both have 1 machines"]


@contextmanager
def full(directory, name):
    """No room for what a site tells."""
    if not (directory / MARKER).exists():
        sql = "create trigger full before insert on settings begin select raise(fail, 'disk'); end"
        with closing(sqlite3.connect(directory / f"{name}.db")) as connection:
            connection.executescript(sql)
            yield
            connection.executescript("drop trigger full")
        return
    postgres = importlib.import_module("agent.federation.postgres")
    with postgres.connect(postgres.read_marker(directory / MARKER)) as connection:
        connection.execute(
            "create function no_room() returns trigger language plpgsql as "
            "$$ begin raise exception 'no room' using errcode = 'disk_full'; end $$"
        )
        connection.execute(
            f"create trigger no_room before insert on hashcost.settings for each row when (new.site = '{name}') "
            "execute function no_room()"
        )
        yield
        connection.execute("drop trigger no_room on hashcost.settings; drop function no_room")


def test_a_copy_that_cannot_be_written_is_tried_again_and_nothing_of_any_site_is_lost(start_site, directory):
    sites = [start_site(name) for name in ("denver", "tulsa")]
    for number, each in enumerate(sites):
        busy_day(each, seed=number)
    pairs = zip_longest(*(each.flush() for each in sites))
    mixed = [each for pair in pairs for each in pair if each is not None]
    arrived = [replace(each, stream_sequence=number) for number, each in enumerate(mixed, 1)]
    fleet = FleetDatabase(directory)
    fleet.take(arrived[:6])
    with full(directory, "denver"), pytest.raises((sqlite3.Error, StoreError), match=r"disk|no room"):
        fleet.take(arrived[6:])
    assert read_state(directory).position == 6
    fleet.take(arrived[6:])
    fleet.close()
    for each in sites:
        assert everything(directory / f"{each.name}.db") == everything(each.path)
