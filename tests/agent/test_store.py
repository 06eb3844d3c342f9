"""What outlives the process: everything comes back as it was, and no file is touched that is not ours."""

import os
import socket
import sqlite3
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlite_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import notify
from agent.appraisal import Terms
from agent.baseline import SAMPLES_NEEDED
from agent.fleet import Fleet
from agent.migrations import migrations
from agent.orders import OPEN_STATES, OrderAction, OrderState
from agent.rows import Event, from_ms, to_ms
from agent.store import Reader, Store, StoreError
from agent.view import by_margin
from drivers.driver import RestorePoint
from drivers.reading import Address, MachineId, PowerMode, PowerSource, RunState
from tests.agent.builders import (
    NOW,
    asleep,
    failure,
    identity,
    mac,
    machine,
    market,
    order,
    picture,
    reading,
    restore_point,
    round_row,
    save,
    stored_site,
)
from tests.agent.processes import open_directory, python


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashcost.db"


def sql(path, statement, *values):
    """What another program sees in, or does to, the file."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def reloaded(path):
    with Store(path) as store:
        return {each.machine_id: each for each in store.load_machines()}


def latest(path):
    with Reader(path) as reader:
        return {view.machine_id: view for view in reader.latest()}


MACHINES = [
    machine(1, reading()),
    machine(
        2,
        asleep(),
        identity=identity(2, mac=None, serial="SN-7", firmware=None),
        address=Address(host="10.9.8.7", port=14028),
        group="hall 2",
    ),
    machine(3, failure()),
]


def test_machines_come_back_as_they_were(path):
    stored_site(path, *MACHINES)
    after = reloaded(path)
    for before in MACHINES:
        same = after[before.machine_id]
        assert same.identity == before.identity
        assert (same.address, same.group) == (before.address, before.group)
        assert same.first_seen_at == before.first_seen_at
        assert (same.reading, same.failure) == (None, None)


def test_a_machine_that_moved_keeps_one_row_and_the_time_it_was_first_seen(path):
    stored_site(path, machine(1, reading()))
    moved = machine(1, address=Address(host="10.0.0.99"), first_seen_at=NOW + timedelta(days=9), group="b")
    with Store(path) as store:
        store.save_machines([moved], Terms())
    (after,) = reloaded(path).values()
    assert (after.address.host, after.group) == ("10.0.0.99", "b")
    assert after.first_seen_at == NOW


def test_a_restart_does_not_make_a_machine_be_seen_earlier(path):
    stored_site(path, machine(1, reading(began_at=NOW + timedelta(days=3)), first_seen_at=NOW))
    with Store(path) as store:
        store.save_machines(store.load_machines(), Terms())
    assert sql(path, "select last_seen_ms from machines") == [(to_ms(NOW + timedelta(days=3)),)]


@pytest.mark.parametrize("outcome", [reading(), asleep(), failure(), reading(implausible="no")], ids=str)
def test_the_latest_picture_comes_back_as_it_was_shown(path, outcome):
    shown = stored_site(path, machine(1, outcome))
    assert list(latest(path).values()) == shown.views


everything = st.builds(
    reading,
    run_state=st.sampled_from(RunState),
    hashrate_ths=st.none() | st.floats(0, 2000),
    power_w=st.none() | st.floats(0, 20_000),
    power_source=st.sampled_from(PowerSource),
    power_mode=st.none() | st.sampled_from(PowerMode),
    implausible=st.none() | st.text(max_size=20),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(everything, min_size=1, max_size=4), st.none() | st.floats(-0.5, 0.9))
def test_any_picture_comes_back_as_it_was_shown(tmp_path_factory, outcomes, price):
    path = tmp_path_factory.mktemp("any") / "db"
    machines = [machine(number, outcome) for number, outcome in enumerate(outcomes, start=1)]
    shown = stored_site(path, *machines, market=market(price))
    assert by_margin(latest(path).values()) == shown.views


def test_what_was_wrong_with_a_machine_and_its_payback_leave_the_picture_when_they_are_over(path):
    fleet = Fleet([machine(1, reading(implausible="no"))])
    with Store(path) as store:
        store.save_machines(fleet, Terms())
        for outcome, terms in (
            (reading(), Terms(machine_price_usd_per_ths=15.0)),
            (failure(), Terms()),
            (reading(implausible="no"), Terms()),
            (reading(), Terms()),
        ):
            fleet[MachineId(mac(1))].apply(outcome)
            shown = picture(fleet, terms=terms)
            store.save_round(shown, round_row(), fleet, [], valid_s=75)
            assert list(latest(path).values()) == shown.views


def test_the_latest_picture_is_that_of_the_last_round(path):
    later = NOW + timedelta(seconds=30)
    with Store(path) as store:
        save(store, machine(1, reading()), machine(2, reading()))
        shown = save(
            store,
            machine(1, asleep(began_at=later)),
            machine(2, failure(at=later)),
            market=market(at=later),
        )
    assert by_margin(latest(path).values()) == shown.views
    with Reader(path) as reader:
        assert reader.last_round_at() == later


def test_prices_and_terms_of_the_last_round_come_back(path):
    terms = Terms(fee=0.02, reject=0.01, overhead=1.1)
    shown = stored_site(path, machine(1, reading()), terms=terms)
    with Reader(path) as reader:
        prices, known_terms = reader.conditions()
    assert prices.hashprice_usd_per_ph_day == shown.market.hashprice_usd_per_ph_day
    assert prices.price_usd_per_kwh == 0.06
    assert (prices.hashprice.source, prices.power.source) == ("test", "test")
    assert (known_terms.fee, known_terms.reject, known_terms.overhead) == (0.02, 0.01, 1.1)


def test_a_round_without_prices_comes_back_without_prices(path):
    stored_site(path, machine(1, reading()), market=market(None, hashprice=None))
    with Reader(path) as reader:
        prices, _ = reader.conditions()
    assert (prices.hashprice, prices.power) == (None, None)


def test_same_prices_share_a_row_and_a_change_makes_a_new_one(path):
    with Store(path) as store:
        for round_number, price in enumerate([0.06, 0.06, 0.07, 0.07, 0.06]):
            at = NOW + timedelta(seconds=30 * round_number)
            save(store, machine(1, reading(began_at=at)), market=market(price, at=at))
    prices = sql(
        path,
        "select price_usd_per_kwh, count(*) from readings join quotes using (quote_id) group by quote_id",
    )
    assert prices == [(0.06, 2), (0.07, 2), (0.06, 1)]
    with Reader(path) as reader:
        prices, _ = reader.conditions()
    assert prices.price_usd_per_kwh == 0.06


def test_a_change_of_terms_makes_a_new_row_of_prices(path):
    with Store(path) as store:
        save(store, machine(1, reading()))
        save(store, machine(1, reading(began_at=NOW + timedelta(seconds=30))), terms=Terms(fee=0.02))
    assert sql(path, "select fee from quotes order by quote_id") == [(0.0,), (0.02,)]


def test_readings_come_back_oldest_first_machine_by_machine(path):
    with Store(path) as store:
        for seconds in (0, 30, 60):
            at = NOW + timedelta(seconds=seconds)
            save(
                store, machine(2, asleep(began_at=at)), machine(1, reading(began_at=at)), market=market(at=at)
            )
    with Reader(path) as reader:
        found = dict(reader.readings(NOW, NOW + timedelta(hours=1)))
        assert reader.readings_span() == (NOW, NOW + timedelta(seconds=60))
    assert list(found) == [mac(1), mac(2)]
    assert [each.began_ms - to_ms(NOW) for each in found[MachineId(mac(1))]] == [0, 30_000, 60_000]
    first, *_ = found[MachineId(mac(2))]
    assert (first.run_state, first.power_w, first.valid_ms) == (RunState.ASLEEP, 25.0, 75_000)
    assert (first.price_usd_per_kwh, first.overhead) == (0.06, 1.0)


def test_a_failed_read_is_stored_as_unknown_with_its_kind(path):
    stored_site(path, machine(1, reading(), failure("refused", at=NOW + timedelta(seconds=3))))
    stored = sql(path, "select run_state, failure, hashrate_ths, power_w, power_source from readings")
    assert stored == [("unknown", "refused", None, None, "unknown")]


def test_a_reading_that_is_stored_twice_counts_once(path):
    with Store(path) as store:
        save(store, machine(1, reading()))
        save(store, machine(1, reading()))
    assert sql(path, "select count(*) from readings") == [(1,)]


def test_a_round_that_cannot_be_written_leaves_nothing_and_hinders_nothing(path):
    stranger, known = machine(2, reading()), machine(1, reading())
    with Store(path) as store:
        store.save_machines([known], Terms())
        with pytest.raises(sqlite3.IntegrityError):
            store.save_round(
                picture(Fleet([stranger])), round_row(), Fleet([stranger]), [stranger.machine_id], valid_s=75
            )
        assert sql(path, "select count(*) from quotes") == [(0,)]
        save(store, known)
    assert list(latest(path)) == [known.machine_id]


def test_rounds_are_stored_with_what_became_of_their_machines(path):
    row = replace(round_row(), took_s=1.25, machines=9, answered=5, failed=3, backed_off=1, skipped_rounds=2)
    fleet = Fleet([machine(1, reading())])
    with Store(path) as store:
        store.save_machines(fleet, Terms())
        store.save_round(picture(fleet), row, fleet, [], valid_s=75)
    columns = "began_ms, took_ms, machines, answered, failed, backed_off, skipped_rounds"
    assert sql(path, f"select {columns} from rounds") == [(to_ms(NOW), 1250, 9, 5, 3, 1, 2)]


def test_events_come_back_newest_first(path):
    events = [
        Event(at=NOW, kind="machine_new", detail="=x'; drop table events", machine_id=MachineId(mac(1))),
        Event(at=NOW + timedelta(seconds=1), kind="scan_failure", detail="10.0.0.9: refused"),
    ]
    with Store(path) as store:
        store.save_events(events)
    with Reader(path) as reader:
        assert reader.events() == events[::-1]
        assert reader.events(limit=1) == events[1:]


def test_baselines_of_several_modes_come_back(path):
    before = machine(
        1,
        *[reading()] * SAMPLES_NEEDED,
        *[reading(power_mode=None, power_source=PowerSource.NAMEPLATE, firmware=None)] * SAMPLES_NEEDED,
    )
    with Store(path) as store:
        store.save_machines([before], Terms())
        store.save_baselines([before])
        store.save_baselines([before])
    after = reloaded(path)[before.machine_id]
    assert sorted(after.baselines.all(), key=repr) == sorted(before.baselines.all(), key=repr)


@given(st.datetimes(datetime(2009, 1, 1), datetime(2140, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_times_keep_their_millisecond(moment):
    whole = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert from_ms(to_ms(whole)) == whole


def test_a_new_store_has_no_picture_and_no_readings(path):
    with Store(path):
        pass
    with Reader(path) as reader:
        assert reader.latest() == []
        assert reader.conditions() is None
        assert reader.last_round_at() is None
        assert reader.readings_span() is None
        assert reader.machines() == []
        assert list(reader.readings(NOW, NOW + timedelta(days=1))) == []


def test_every_table_is_strict(path):
    with Store(path):
        pass
    tables = sql(path, "select name, strict from pragma_table_list where type = 'table' and schema = 'main'")
    ours = {name: strict for name, strict in tables if not name.startswith(("sqlite_", "_sqlite"))}
    assert {"machines", "readings", "quotes", "baselines", "latest", "rounds", "events"} <= set(ours)
    assert set(ours.values()) == {1}


def test_the_writer_uses_a_log_so_that_readers_do_not_wait(path):
    with Store(path):
        assert sql(path, "pragma journal_mode") == [("wal",)]


def test_directories_on_the_way_are_made(tmp_path):
    with Store(tmp_path / "a" / "b" / "db"):
        pass
    assert (tmp_path / "a" / "b" / "db").is_file()


def schema(path):
    return sql(path, "select name, sql from sqlite_master order by name")


def test_migrations_are_applied_once(path):
    stored_site(path, machine(1, reading()))
    before = schema(path)
    stored_site(path, machine(1, reading()))
    assert schema(path) == before
    assert sql(path, "select count(*) from _sqlite_migrations") == [(10,)]


def newer(path):
    stored_site(path, machine(1, reading()))
    sql(
        path,
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('hashcost', 'm999_future', 'x')",
    )


@pytest.mark.parametrize("opened", [Store, Reader])
def test_a_newer_database_is_refused_by_the_name_of_what_is_new(path, opened):
    newer(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"written by a newer hashcost.*m999_future.*upgrade"):
        opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("opened", [Store, Reader])
@pytest.mark.parametrize("content", [b"These are my notes.\n" * 100, b"x" * 5000], ids=["notes", "xs"])
def test_a_file_that_is_no_database_is_refused_and_not_changed(path, opened, content):
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"hashcost\.db.*not a database"):
        opened(path)
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["hashcost.db"]


@pytest.mark.parametrize("opened", [Store, Reader])
def test_the_database_of_another_program_is_refused_and_not_changed(path, opened):
    sql(path, "create table bookmarks (url text)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a hashcost database"):
        opened(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(path):
    path.touch()
    stored_site(path, machine(1, reading()))
    assert len(latest(path)) == 1


def test_a_path_that_is_a_directory_is_refused(tmp_path):
    for opened in (Store, Reader):
        with pytest.raises(StoreError, match=str(tmp_path)):
            opened(tmp_path)


def test_a_reader_makes_no_file(path):
    with pytest.raises(StoreError, match=r"no such database.*hashcost run"):
        Reader(path)
    assert not path.exists()


def test_a_reader_cannot_write(path):
    stored_site(path, machine(1, reading()))
    with Reader(path) as reader, pytest.raises(sqlite3.OperationalError):
        reader._db.conn.execute("delete from machines")


def test_a_damaged_database_is_an_error_that_names_the_file(path):
    stored_site(path, *[machine(number, reading()) for number in range(1, 200)])
    content = bytearray(path.read_bytes())
    (root,) = sql(path, "select rootpage from sqlite_master where name = 'latest'")[0]
    (page_size,) = sql(path, "pragma page_size")[0]
    content[(root - 1) * page_size : root * page_size] = b"\xff" * page_size
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=str(path)), Reader(path) as reader:
        reader.latest()


def test_a_reader_works_beside_a_writer_in_the_middle_of_a_transaction(path):
    with Store(path) as store:
        save(store, machine(1, reading()))
        with store._db.atomic():
            store._db.conn.execute("update latest set power_w = 1")
            assert latest(path)[MachineId(mac(1))].power_w == 3500.0
        assert latest(path)[MachineId(mac(1))].power_w == 1.0


def test_an_open_reader_sees_each_committed_round(path):
    with Store(path) as store:
        save(store, machine(1, reading()))
        with Reader(path) as reader:
            assert reader.last_round_at() == NOW
            later = NOW + timedelta(seconds=30)
            save(store, machine(1, reading(began_at=later)), market=market(at=later))
            assert reader.last_round_at() == later


def test_a_reader_works_while_the_agent_is_down(path):
    stored_site(path, machine(1, reading()))
    assert len(latest(path)) == 1


def test_a_reader_sees_what_an_agent_wrote_that_was_killed(path):
    ran = python(
        "import os, sys; from pathlib import Path; from agent.store import Store;"
        "from tests.agent.builders import save, machine, reading;"
        "save(Store(Path(sys.argv[1])), machine(1, reading())); os._exit(9)",
        str(path),
    )
    assert (ran.returncode, ran.stderr) == (9, "")
    assert path.with_name("hashcost.db-wal").exists()
    assert len(latest(path)) == 1


def test_a_reader_without_rights_works_in_a_directory_that_it_may_not_write():
    with open_directory() as directory:
        path = directory / "hashcost.db"
        stored_site(path, machine(1, reading()))
        path.chmod(0o444)
        directory.chmod(0o555)
        ran = python(f"print(len(Reader(agent.export.Path({str(path)!r})).latest()))", nobody=True)
        assert (ran.stdout, ran.stderr) == ("1\n", "")
        assert sorted(each.name for each in directory.iterdir()) == ["hashcost.db", "hashcost.db.lock"]


def test_a_second_agent_on_one_database_is_refused_and_told_who_has_it(path):
    with Store(path), pytest.raises(StoreError, match=rf"in use by another agent \(process {os.getpid()}\)"):
        Store(path)
    Store(path).close()


def test_a_reader_without_rights_works_beside_the_agent():
    with open_directory() as directory:
        path = directory / "hashcost.db"
        with Store(path) as store:
            save(store, machine(1, reading()))
            for each in directory.iterdir():
                each.chmod(0o644)
            directory.chmod(0o555)
            ran = python(f"print(len(Reader(agent.export.Path({str(path)!r})).latest()))", nobody=True)
        assert (ran.stdout, ran.stderr) == ("1\n", "")


def test_a_reader_without_rights_to_the_directory_says_so():
    with open_directory() as directory:
        path = directory / "hashcost.db"
        stored_site(path, machine(1, reading()))
        directory.chmod(0o700 if os.geteuid() == 0 else 0o000)
        ran = python(f"Reader(agent.export.Path({str(path)!r}))", nobody=True)
        assert "agent.database.StoreError" in ran.stderr.splitlines()[-1]
        assert "Permission denied" in ran.stderr.splitlines()[-1]


def test_a_writer_without_rights_says_so():
    with open_directory(0o555) as directory:
        ran = python(f"Store(agent.export.Path({str(directory / 'db')!r}))", nobody=True)
        assert "agent.database.StoreError" in ran.stderr.splitlines()[-1]
        assert list(directory.iterdir()) == []


def test_names_of_files_may_contain_what_uris_reserve(tmp_path):
    path = tmp_path / "a ?b#c%20d" / "hash cost?.db"
    stored_site(path, machine(1, reading()))
    assert len(latest(path)) == 1


def test_a_round_leaves_out_what_a_scan_has_taken_out_of_the_fleet_meanwhile(tmp_path):
    stays, goes = machine(1, reading()), machine(2, reading())
    fleet = Fleet([stays, goes])
    shown = picture(fleet)
    with Store(tmp_path / "db") as store:
        store.save_machines([stays, goes], Terms())
        fleet.remove(goes.machine_id)
        store.save_round(shown, round_row(), fleet, [stays.machine_id, goes.machine_id], valid_s=75.0)
    with Reader(tmp_path / "db") as reader:
        assert [view.machine_id for view in reader.latest()] == [stays.machine_id]


# -- orders ---------------------------------------------------------------------------------------------


@pytest.fixture
def orders(path):
    """A store with the machines 1 and 2."""
    with Store(path) as store:
        store.save_machines([machine(1), machine(2)], Terms())
        yield store


def all_orders(store):
    return store.load_orders(NOW - timedelta(days=9))


FULL = order(
    action=OrderAction.SLEEP,
    state=OrderState.DISPATCHED,
    target_mode=PowerMode.LOW,
    dispatched_at=NOW + timedelta(milliseconds=1),
    confirmed_at=NOW + timedelta(seconds=2),
    settled_at=NOW + timedelta(seconds=3),
    attempts=2,
    drifts=1,
    restore=RestorePoint(power_mode=PowerMode.HIGH, settings={"freq-level": "100", "miner-mode": "0"}),
    failure="wrong_mode",
    detail="it said \N{DEGREE SIGN}",
    snapshot={"price_usd_per_kwh": 0.06, "hashprice_source": None, "nested": {"a": [1, 2]}},
)


@pytest.mark.parametrize(
    "wanted",
    [
        order(),
        FULL,
        order(restore=restore_point(None)),
        order(restore=RestorePoint(power_mode=None, settings={})),
    ],
    ids=["bare", "full", "without a mode", "without anything"],
)
def test_an_order_comes_back_as_it_was(orders, wanted):
    created = orders.create_order(wanted)
    assert created == replace(wanted, order_id=created.order_id)
    assert all_orders(orders) == [created]


@pytest.mark.parametrize("first", OPEN_STATES, ids=str)
@pytest.mark.parametrize("second", OPEN_STATES, ids=str)
def test_a_machine_has_one_open_order(orders, first, second):
    created = orders.create_order(order(state=first))
    assert orders.create_order(order(state=second, action=OrderAction.WAKE)) is None
    assert orders.create_order(order(state=second, machine_id=MachineId(mac(2)))) is not None
    assert created in all_orders(orders)


def test_the_database_itself_refuses_a_second_open_order(path, orders):
    orders.create_order(order())
    with pytest.raises(sqlite3.IntegrityError, match=r"orders\.machine_id"):
        sql(
            path,
            "insert into orders (machine_id, action, state, reason, ordered_by, created_ms, power_w, attempts, drifts)"
            " values (?, 'wake', 'dispatching', 'x', 'x', 0, 0, 0, 0)",
            mac(1),
        )


def test_the_database_itself_refuses_a_second_standing_sleep(path, orders):
    orders.create_order(order(state=OrderState.CONFIRMED))
    assert orders.create_order(order(state=OrderState.CONFIRMED)) is None
    assert orders.create_order(order(state=OrderState.CONFIRMED, action=OrderAction.WAKE)) is not None


def test_an_order_that_ended_makes_room_for_the_next(orders):
    for state in (OrderState.CONFIRMED, OrderState.FAILED, OrderState.EXPIRED, OrderState.RELEASED):
        created = orders.create_order(order())
        assert created is not None
        orders.advance(created, replace(created, state=state, settled_at=NOW))
    assert len(all_orders(orders)) == 4


@pytest.mark.parametrize(
    "changed",
    [{"state": OrderState.DISPATCHING}, {"attempts": 1}, {"state": OrderState.EXPIRED}],
    ids=["state", "attempts", "ended"],
)
def test_an_order_that_changed_meanwhile_is_not_overwritten(orders, changed):
    seen = orders.create_order(order())
    now = replace(seen, **changed)
    orders.advance(seen, now)
    with pytest.raises(StoreError, match=f"order {seen.order_id} is not approved any more"):
        orders.advance(seen, replace(seen, state=OrderState.DISPATCHED))
    assert all_orders(orders) == [now] or now.state is OrderState.EXPIRED


def test_an_order_advances_with_all_that_can_change_of_it(orders):
    before = orders.create_order(order(state=OrderState.PROPOSED))
    after = replace(
        before, state=OrderState.CONFIRMED, ordered_by="kim", dispatched_at=NOW, confirmed_at=NOW, settled_at=NOW,
        attempts=2, restore=restore_point(), failure="did_not_obey", detail="seen mining",
    )  # fmt: skip
    orders.advance(before, after)
    assert all_orders(orders) == [after]


def test_an_order_that_is_not_there_is_not_advanced(orders):
    with pytest.raises(StoreError, match="order 77"):
        orders.advance(order(order_id=77), order(order_id=77, state=OrderState.FAILED))


def standing_and_wake(store):
    asleep = store.create_order(order(state=OrderState.CONFIRMED, confirmed_at=NOW))
    waking = store.create_order(order(action=OrderAction.WAKE, state=OrderState.DISPATCHED))
    return asleep, waking


@pytest.mark.parametrize("stale", ["first", "second"])
def test_two_orders_advance_together_or_not_at_all(orders, stale):
    asleep, waking = standing_and_wake(orders)
    pairs = [
        (waking, replace(waking, state=OrderState.CONFIRMED)),
        (asleep, replace(asleep, state=OrderState.RELEASED)),
    ]
    index = 0 if stale == "first" else 1
    bad = list(pairs)
    bad[index] = (replace(pairs[index][0], attempts=9), pairs[index][1])
    with pytest.raises(StoreError):
        orders.advance_both(*bad)
    assert all_orders(orders) == [asleep, waking]
    orders.advance_both(*pairs)
    assert [each.state for each in orders.load_orders(NOW)] == []
    assert [each.state for each in all_orders(orders)] == []


def test_an_order_is_superseded_whole_or_not_at_all(orders):
    asleep, waking = standing_and_wake(orders)
    again = replace(asleep, state=OrderState.APPROVED)
    released = replace(asleep, state=OrderState.RELEASED, settled_at=NOW)
    with pytest.raises(sqlite3.IntegrityError):  # the wake is open
        orders.supersede(asleep, released, again)
    assert all_orders(orders) == [asleep, waking]
    orders.advance(waking, replace(waking, state=OrderState.FAILED, settled_at=NOW))
    created = orders.supersede(asleep, released, again)
    assert created.order_id not in {asleep.order_id, waking.order_id}
    assert {each.order_id: each.state for each in all_orders(orders)} == {
        asleep.order_id: OrderState.RELEASED,
        waking.order_id: OrderState.FAILED,
        created.order_id: OrderState.APPROVED,
    }


def test_what_is_open_or_stands_is_remembered_for_ever_and_what_ended_for_a_while(orders):
    long_ago = NOW - timedelta(days=400)
    open_one = orders.create_order(order(created_at=long_ago))
    standing = orders.create_order(
        order(state=OrderState.CONFIRMED, confirmed_at=long_ago, settled_at=long_ago)
    )
    old = orders.create_order(order(state=OrderState.FAILED, settled_at=NOW - timedelta(days=2)))
    new = orders.create_order(order(state=OrderState.FAILED, settled_at=NOW - timedelta(hours=2)))
    assert orders.load_orders(NOW - timedelta(days=1)) == [open_one, standing, new]
    assert old is not None


def test_when_our_sleeps_were_confirmed_is_told_also_of_those_released(path, orders):
    for state in (OrderState.CONFIRMED, OrderState.RELEASED):
        orders.create_order(order(state=state, confirmed_at=NOW))
    orders.create_order(order(action=OrderAction.WAKE, state=OrderState.CONFIRMED, confirmed_at=NOW))
    orders.create_order(order(state=OrderState.FAILED))
    with Reader(path) as reader:
        assert reader.sleeps() == {mac(1): [to_ms(NOW), to_ms(NOW)]}


def of_first_version(path):
    """A database as the first version left it, with a machine, prices and a reading."""
    database = sqlite_utils.Database(path)
    (first, *_) = migrations.pending(database)
    migrations.apply(database, stop_before="m002_orders")
    assert [each.name for each in migrations.applied(database)] == [first.name]
    database.table("machines").insert(
        {
            "machine_id": mac(1), "mac": mac(1), "family": "antminer", "make": "AntMiner", "model": "Antminer S21",
            "driver_class": "BMMinerS21", "host": "10.0.0.1", "machine_group": "site", "sleep_power_w": 40.0,
            "first_seen_ms": to_ms(NOW),
        }
    )  # fmt: skip
    database.table("quotes").insert(
        {
            "quote_id": 1,
            "at_ms": to_ms(NOW),
            "price_usd_per_kwh": 0.06,
            "fee": 0.0,
            "reject": 0.0,
            "overhead": 1.0,
        }
    )
    database.table("readings").insert(
        {
            "machine_id": mac(1), "began_ms": to_ms(NOW), "valid_ms": 75_000, "run_state": "mining",
            "hashrate_ths": 200.0, "power_w": 3500.0, "power_source": "reported", "quote_id": 1,
        }
    )  # fmt: skip
    database.close()


def test_a_database_of_the_first_version_keeps_its_history_and_takes_orders(path):
    of_first_version(path)
    with Store(path) as store:
        (known,) = store.load_machines()
        assert known.machine_id == mac(1)
        assert store.create_order(order()) is not None
        save(store, machine(1, reading(began_at=NOW + timedelta(seconds=30))))
    with Reader(path) as reader:
        ((_, stored),) = reader.readings(NOW, NOW + timedelta(hours=1))
    old, new = stored
    assert (old.hashrate_ths, old.power_w, old.price_usd_per_kwh) == (200.0, 3500.0, 0.06)
    assert (old.ours, old.decision_margin_usd_per_day) == (False, None)
    assert new.decision_margin_usd_per_day is not None


def test_the_service_manager_is_told_that_a_big_database_is_being_worked_on(path, tmp_path, monkeypatch):
    """It ends a start that it hears nothing of, and the next would be ended as well."""
    monkeypatch.setattr("agent.database.WORK_TOLD_EVERY_S", 0.0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        told = []
        listening = threading.Thread(target=lambda: told.extend(iter(lambda: manager.recv(4096), b"end")))
        listening.start()
        database = sqlite_utils.Database(path)
        migrations.apply(database, stop_before="m009_lean_rounds")
        database.execute("pragma foreign_keys=off")
        database.conn.executemany(
            "insert into readings (machine_id, began_ms, valid_ms, run_state, power_source, quote_id) "
            "values ('m', ?, 75000, 'mining', 'reported', 1)",
            [(each,) for each in range(20_000)],
        )
        database.conn.commit()
        database.close()
        Store(path).close()
        notify.tell("end")
        listening.join()
    more = "EXTEND_TIMEOUT_USEC=600000000\nWATCHDOG=1\nSTATUS="
    assert {each.decode() for each in told} == {
        f"{more}looking through {path}",
        f"{more}bringing {path} up to date",
    }


def test_a_migration_that_is_interrupted_leaves_the_database_as_it_was(path):
    of_first_version(path)
    database = sqlite_utils.Database(path)
    migrations.apply(database, stop_before="m009_lean_rounds")
    database.conn.set_authorizer(
        lambda action, name, *_: (
            sqlite3.SQLITE_DENY if (action, name) == (11, "readings_before") else sqlite3.SQLITE_OK
        )  # 11: to drop a table
    )
    with pytest.raises(sqlite3.DatabaseError):
        migrations.apply(database)
    database.close()
    with Store(path) as store:
        assert len(store.load_machines()) == 1
    with Reader(path) as reader:
        ((_, (only,)),) = reader.readings(NOW, NOW + timedelta(hours=1))
    assert only.hashrate_ths == 200.0


def test_a_reader_of_a_database_of_the_first_version_says_what_to_do(path):
    of_first_version(path)
    with pytest.raises(StoreError, match="of an older version; start the agent once"):
        Reader(path)


def test_a_setting_outlives_the_process(path):
    with Store(path) as store:
        assert store.setting("held") is None
        store.save_setting("held", "yes")
        store.save_setting("held", "no")
    with Store(path) as store:
        assert store.setting("held") == "no"
