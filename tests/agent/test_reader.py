"""What a terminal that is open all night asks of the store: changes, the past, and one machine's insides."""

import os
import time
from dataclasses import replace
from datetime import timedelta
from threading import Thread

import pytest
import sqlite_utils

from agent.appraisal import Terms
from agent.baseline import SAMPLES_KEPT, SAMPLES_NEEDED
from agent.database import StoreError
from agent.decisions import DecisionRecord
from agent.detail import REFRESH_EVERY
from agent.fleet import Failure
from agent.migrations import migrations
from agent.orders import OrderState
from agent.policy import Reason
from agent.reader import Reader
from agent.store import Store
from agent.view import totals
from drivers.reading import Address, MachineId, Pool, PowerMode, PowerSource, RunState
from tests.agent.builders import (
    NOW,
    asleep,
    at,
    boards,
    failure,
    mac,
    machine,
    market,
    order,
    reading,
    save,
    stored_site,
)
from tests.agent.processes import open_directory, python

ROUND = timedelta(seconds=30)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashcost.db"


@pytest.fixture
def store(path):
    with Store(path) as opened:
        yield opened


@pytest.fixture
def reader(path, store):
    with Reader(path) as opened:
        yield opened


def decided(number, reason=Reason.ABOVE_BREAKEVEN):
    return DecisionRecord(
        machine_id=MachineId(mac(number)),
        action=None,
        target_mode=None,
        reason=reason,
        automatic=False,
        regret_usd=0.0,
        switching_cost_usd=1.0,
        since=NOW,
        snapshot={"hashrate_ths": 200.0},
    )


def addresses(changes):
    return sorted(view.address for view in changes.views)


# -- changes --------------------------------------------------------------------------------------------


def test_who_asks_first_gets_everything(store, reader):
    shown = save(store, machine(1, reading()), machine(2, failure()))
    store.save_decisions([decided(1)])
    changes = reader.changes()
    assert changes.whole
    assert sorted(changes.views, key=lambda view: view.address) == sorted(
        shown.views, key=lambda v: v.address
    )
    assert changes.decisions == [decided(1)]
    assert changes.gone == frozenset()


def test_who_asks_again_gets_nothing_until_something_is_written(store, reader):
    save(store, machine(1, reading()))
    mark = reader.changes().mark
    again = reader.changes(mark)
    assert (again.mark, again.whole, again.views, again.decisions) == (mark, False, [], [])
    store.save_setting("held", "yes")
    assert reader.changes(mark).mark == mark


def test_only_the_machines_of_a_later_round_are_changed(store, reader):
    save(store, machine(1, reading()), machine(2, reading()))
    mark = reader.changes().mark
    later = NOW + ROUND
    save(store, machine(2, reading(began_at=later, power_w=3600.0)), market=market(at=later))
    changes = reader.changes(mark)
    assert (changes.whole, addresses(changes)) == (False, ["10.0.0.2"])
    assert changes.views[0].power_w == 3600.0
    assert reader.changes(changes.mark).views == []
    assert len(reader.changes(mark).views) == 1, "a mark may be used twice"


def test_decisions_change_by_themselves(store, reader):
    save(store, machine(1, reading()), machine(2, reading()))
    store.save_decisions([decided(1), decided(2)])
    mark = reader.changes().mark
    store.save_decisions([decided(2, Reason.OPERATOR_HOLD)])
    changes = reader.changes(mark)
    assert (changes.views, changes.decisions) == ([], [decided(2, Reason.OPERATOR_HOLD)])
    store.save_decisions([])
    assert reader.changes(changes.mark).mark == changes.mark


def test_a_machine_that_was_retired_is_gone_and_one_that_comes_back_is_there(store, reader):
    first, second = machine(1, reading()), machine(2, reading())
    save(store, first, second)
    before = reader.changes().mark
    store.retire([second.machine_id], NOW)
    gone = reader.changes(before)
    assert (gone.views, gone.gone) == ([], {second.machine_id})
    save(store, second)
    back = reader.changes(gone.mark)
    assert (addresses(back), back.gone) == (["10.0.0.2"], frozenset())
    assert reader.changes(before).gone == frozenset()


def test_a_machine_that_moved_is_changed_with_the_next_round(store, reader):
    save(store, machine(1, reading()))
    mark = reader.changes().mark
    save(store, machine(1, reading(), address=Address(host="10.9.9.9"), group="hydro"))
    (view,) = reader.changes(mark).views
    assert (view.address, view.group) == ("10.9.9.9", "hydro")


def test_changes_are_numbered_on_after_a_restart(path):
    stored_site(path, machine(1, reading()))
    with Reader(path) as reader:
        mark = reader.changes().mark
    stored_site(path, machine(2, reading()))
    with Reader(path) as reader:
        changes = reader.changes(mark)
    assert (changes.whole, addresses(changes)) == (False, ["10.0.0.2"])


def test_a_round_that_could_not_be_written_changes_nothing(store, reader):
    save(store, machine(1, reading()))
    mark = reader.changes().mark
    store._db.execute("create trigger full before insert on rounds begin select raise(abort, 'disk'); end")
    with pytest.raises(Exception, match="disk"):
        save(store, machine(1, reading(began_at=NOW + ROUND)))
    store._db.execute("drop trigger full")
    assert reader.changes(mark).mark == mark
    save(store, machine(1, reading(began_at=NOW + ROUND)))
    assert len(reader.changes(mark).views) == 1


def test_a_database_that_is_put_back_is_everything_anew(path, tmp_path):
    stored_site(path, machine(1, reading()))
    with Reader(path) as reader:
        mark = reader.changes().mark
        assert not reader.outdated
        stored_site(tmp_path / "copy", machine(7, reading()))
        (tmp_path / "copy").replace(path)
        assert reader.outdated
    with Reader(path) as reader:
        changes = reader.changes(mark)
    assert (changes.whole, addresses(changes)) == (True, ["10.0.0.7"])
    path.unlink()
    assert reader.outdated


def test_an_open_reader_stays_good_while_the_agent_stops_and_starts(path):
    stored_site(path, machine(1, reading()))
    with Reader(path) as reader:
        mark = reader.changes().mark
        for number in (2, 3):
            stored_site(path, machine(number, reading()))
            assert not reader.outdated
            changes = reader.changes(mark)
            assert addresses(changes) == [f"10.0.0.{number}"]
            mark = changes.mark


WATCHED_BY_NOBODY = """
import time
path, seen = agent.export.Path({path!r}), agent.export.Path({seen!r})
with Reader(path) as reader:
    print(len(reader.changes().views), reader.outdated)
    seen.touch()
    while path.stat().st_mtime < {written}:
        time.sleep(0.02)
    print(reader.outdated)
"""


def test_without_rights_after_a_clean_close_changes_are_told_and_the_next_start_is_noticed():
    with open_directory() as directory, open_directory(0o777) as outside:
        path, seen = directory / "hashcost.db", outside / "seen"
        stored_site(path, machine(1, reading()))
        path.chmod(0o444)
        directory.chmod(0o555)

        def write_once_it_was_seen():
            until = time.monotonic() + 50
            while not seen.exists() and time.monotonic() < until:
                time.sleep(0.02)
            os.utime(path, (2e9, 2e9))

        writer = Thread(target=write_once_it_was_seen)
        writer.start()
        code = WATCHED_BY_NOBODY.format(path=str(path), seen=str(seen), written=2e9)
        ran = python(code, nobody=True)
        writer.join()
        assert (ran.stdout, ran.stderr) == ("1 False\nTrue\n", "")


def test_what_is_read_in_one_moment_is_of_one_moment(store, reader):
    save(store, machine(1, reading()))
    later = NOW + ROUND
    with reader.one_moment():
        assert reader.last_round_at() == NOW
        save(store, machine(1, reading(began_at=later)), market=market(at=later))
        assert (reader.last_round_at(), reader.latest()[0].seen_at) == (NOW, NOW)
    assert reader.last_round_at() == later


def test_what_a_machine_should_do_is_what_it_said_else_its_nameplate(store, reader):
    save(
        store,
        machine(1, reading(expected_hashrate_ths=195.0)),
        machine(2, reading(expected_hashrate_ths=None)),
        machine(3, failure()),
    )
    assert [view.expected_hashrate_ths for view in sorted(reader.latest(), key=lambda v: v.address)] == [
        195.0,
        200.0,
        200.0,
    ]


# -- one machine's insides ------------------------------------------------------------------------------

POOLS = (Pool(url="stratum+tcp://pool.example:3333", user="site.1", alive=True, active=True),)
INSIDES = reading(
    boards=boards(), fans_rpm=(4200, 0), inlet_temp_c=24.5, pools=POOLS, uptime_s=77, errors=("E1",)
)


def later(number_of_rounds, **changes):
    moment = NOW + ROUND * number_of_rounds
    return replace(INSIDES, began_at=moment, ended_at=moment, **changes)


def detail(reader, number=1):
    return reader.detail(MachineId(mac(number)))


def test_boards_fans_pools_and_errors_come_back(store, reader):
    save(store, machine(1, INSIDES))
    found = detail(reader)
    assert (found.as_of, found.boards, found.fans_rpm) == (NOW, INSIDES.boards, (4200, 0))
    assert (found.inlet_temp_c, found.pools, found.uptime_s, found.errors) == (24.5, POOLS, 77, ("E1",))
    assert detail(reader, 2) is None


def test_numbers_alone_are_not_written_each_round(store, reader):
    save(store, machine(1, INSIDES))
    hotter = tuple(replace(board, chip_temp_c=71.0) for board in INSIDES.boards)
    save(store, machine(1, later(1, boards=hotter, uptime_s=107, fans_rpm=(4300, 0))))
    assert detail(reader).as_of == NOW
    save(store, machine(1, later(1 + REFRESH_EVERY // ROUND, boards=hotter)))
    assert detail(reader).boards == hotter


@pytest.mark.parametrize(
    "changes",
    [
        {"boards": boards(dead=1)},
        {"boards": boards(2)},
        {"fans_rpm": (4200, 4200)},
        {"fans_rpm": (4200,)},
        {"pools": ()},
        {"pools": (replace(POOLS[0], alive=False),)},
        {"errors": ()},
    ],
    ids=str,
)
def test_what_comes_goes_or_fails_is_written_at_once(store, reader, changes):
    save(store, machine(1, INSIDES))
    save(store, machine(1, later(1, **changes)))
    assert detail(reader).as_of == NOW + ROUND
    assert {name: getattr(detail(reader), name) for name in changes} == changes


def test_a_machine_that_falls_silent_keeps_what_it_last_told(store, reader):
    silent = machine(1, INSIDES)
    save(store, silent)
    silent.apply(failure(at=NOW + timedelta(hours=1)))
    save(store, silent)
    assert detail(reader).as_of == NOW


def test_the_details_of_a_machine_that_left_and_came_back_are_written_again(store, reader):
    there = machine(1, INSIDES)
    save(store, there)
    store.retire([there.machine_id], NOW)
    assert detail(reader) is None
    save(store, there)
    assert detail(reader) is not None


def test_refreshes_of_many_machines_do_not_fall_due_together(store, path):
    site = [machine(number, INSIDES) for number in range(1, 101)]
    save(store, *site)
    rounds = REFRESH_EVERY // ROUND
    written = []
    for number in range(1, rounds + 2):
        moment = NOW + ROUND * number
        save(store, *at(moment, site))
        with Reader(path) as reader:
            written.append(sum(detail(reader, each).as_of == moment for each in range(1, 101)))
    assert max(written) < 40
    assert sum(written) >= 100


def test_baselines_come_with_the_number_of_their_samples(store, reader):
    for count, samples in ((SAMPLES_NEEDED, SAMPLES_NEEDED), (SAMPLES_KEPT + 5, SAMPLES_KEPT)):
        readings = [reading(power_mode=PowerMode.NORMAL) for _ in range(count)]
        known = machine(1, *readings)
        save(store, known)
        store.save_baselines([known])
        (found,) = reader.baselines(known.machine_id)
        assert (found.samples, found.power_mode, found.hashrate_ths) == (samples, PowerMode.NORMAL, 200.0)
    (again,) = store.load_machines()
    assert again.baselines.all() == [found]
    assert reader.baselines(MachineId(mac(2))) == []


# -- the past -------------------------------------------------------------------------------------------


def past(store, *steps, price=0.06):
    """One round each 30 s; a step is what machine 1 did then."""
    for index, outcome in enumerate(steps):
        moment = NOW + ROUND * index
        times = {"at": moment} if isinstance(outcome, Failure) else {"began_at": moment, "ended_at": moment}
        save(store, machine(1, replace(outcome, **times)), market=market(price, at=moment))


def history(reader, rounds, points):
    return reader.machine_history(MachineId(mac(1)), NOW, NOW + ROUND * rounds, points=points)


def test_a_machine_s_past_comes_in_even_steps(store, reader):
    past(
        store,
        reading(power_w=3000.0),
        reading(power_w=4000.0),
        reading(power_w=3500.0),
        reading(power_w=3500.0),
    )
    found = history(reader, 4, 2)
    assert (found.start, found.step) == (NOW, ROUND * 2)
    assert found.power_w == pytest.approx((3500.0, 3500.0))
    assert found.hashrate_ths == pytest.approx((200.0, 200.0))
    (view,) = reader.latest()
    assert found.margin_usd_per_day == pytest.approx((view.margin_usd_per_day,) * 2)


def test_the_hottest_chip_of_a_step_is_shown(store, reader):
    hot = tuple(replace(board, chip_temp_c=91.0) for board in boards())
    cool = tuple(replace(board, chip_temp_c=60.0) for board in boards())
    past(store, reading(boards=hot), reading(boards=cool), reading(boards=cool), reading(boards=()))
    assert history(reader, 4, 2).chip_temp_c == (91.0, 60.0)
    assert history(reader, 4, 4).chip_temp_c[-1] is None


def test_a_gap_is_a_gap_and_a_sleep_is_none(store, reader):
    past(store, reading(), failure(), failure(), asleep(power_w=15.0))
    found = history(reader, 8, 8)
    assert found.power_w == (3500.0, None, None, 15.0, 15.0, pytest.approx(15.0), None, None)
    assert found.hashrate_ths[3] == 0.0
    assert found.margin_usd_per_day[1] is None


def test_what_was_read_before_the_start_still_stands_in_it(store, reader):
    past(store, reading())
    start = NOW + timedelta(seconds=60)
    found = reader.machine_history(MachineId(mac(1)), start, start + ROUND, points=2)
    assert found.power_w == (3500.0, None)


def test_a_machine_without_a_past_has_an_empty_one(reader):
    found = history(reader, 4, 3)
    assert found.power_w == found.chip_temp_c == (None, None, None)


def site(reader, rounds, points, start=NOW):
    return reader.site_history(start, start + ROUND * rounds, points=points)


def test_the_site_s_past_has_prices_and_sums(store, reader):
    for index, price in enumerate((0.04, 0.06, 0.10, None)):
        moment = NOW + ROUND * index
        fleet = [machine(number, reading(began_at=moment)) for number in (1, 2)]
        shown = save(store, *fleet, market=market(price, at=moment))
    found = site(reader, 4, 2)
    assert (found.start, found.step) == (NOW, ROUND * 2)
    assert found.price_usd_per_kwh == pytest.approx((0.05, 0.10))
    assert found.power_kw == pytest.approx((7.0, 7.0))
    assert found.hashrate_phs == pytest.approx((0.4, 0.4))
    assert found.hashprice_usd_per_ph_day == pytest.approx((shown.market.hashprice_usd_per_ph_day,) * 2)
    assert found.breakeven_efficiency_j_per_th[0] > found.breakeven_efficiency_j_per_th[1]
    (latest,) = site(reader, 1, 1, NOW + ROUND).margin_usd_per_hour
    at_six_cents = save(store, *at(NOW, fleet), market=market(0.06))
    assert latest == pytest.approx(totals(at_six_cents.views).margin_usd_per_day / 24)


def test_a_site_of_which_too_much_is_unknown_has_no_sums(store, reader):
    save(store, machine(1, reading()), machine(2, failure()))
    found = site(reader, 1, 1)
    assert (found.power_kw, found.hashrate_phs, found.margin_usd_per_hour) == ((None,), (None,), (None,))
    assert found.price_usd_per_kwh == (0.06,)


def test_a_step_without_a_round_shows_the_last_as_long_as_that_stands(store, reader):
    save(store, machine(1, reading()))
    assert site(reader, 1, 6).power_kw == (3.5,) * 6
    assert site(reader, 8, 8).power_kw == (3.5, 3.5, 3.5, None, None, None, None, None)
    assert site(reader, 4, 4, NOW + ROUND).power_kw == (3.5, 3.5, None, None)


def test_rounds_of_an_older_version_have_prices_and_no_sums(path):
    stored_site(path, machine(1, reading()))
    with Store(path) as store:
        store._db.execute("update rounds set quote_id = null, power_kw = null, margin_usd_per_day = null")
    with Reader(path) as reader:
        found = site(reader, 1, 1)
    assert (found.price_usd_per_kwh, found.power_kw, found.margin_usd_per_hour) == ((None,), (None,), (None,))


# -- orders ---------------------------------------------------------------------------------------------


def test_an_order_comes_with_what_was_read_before_and_after_it(store, reader):
    past(
        store,
        reading(),
        reading(power_w=3400.0),
        asleep(power_w=900.0),
        asleep(power_w=15.0),
        asleep(power_w=14.0),
    )
    sent, confirmed = NOW + ROUND, NOW + ROUND * 3 + timedelta(seconds=5)
    store.create_order(
        order(
            state=OrderState.RELEASED,
            created_at=NOW,
            dispatched_at=sent,
            confirmed_at=confirmed,
            settled_at=NOW + ROUND * 9,
        )
    )
    (found,) = reader.orders_of(MachineId(mac(1)))
    assert found.order.state is OrderState.RELEASED
    assert (found.before.power_w, found.before.run_state) == (3400.0, RunState.MINING)
    assert (found.after.power_w, found.after.run_state) == (15.0, RunState.ASLEEP)


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({"state": OrderState.PROPOSED, "created_at": NOW + ROUND}, 3400.0, None),
        ({"state": OrderState.DISPATCHED, "dispatched_at": NOW}, 3500.0, 3300.0),
        ({"state": OrderState.DISPATCHED, "dispatched_at": NOW + ROUND * 2}, 3300.0, None),
        (
            {"state": OrderState.FAILED, "dispatched_at": NOW, "settled_at": NOW + ROUND},
            3500.0,
            3400.0,
        ),
        ({"state": OrderState.PROPOSED, "created_at": NOW - ROUND}, None, None),
    ],
    ids=["not sent", "sent", "sent just now", "failed", "before the first reading"],
)
def test_evidence_is_what_there_is(store, reader, changes, before, after):
    past(store, reading(), reading(power_w=3400.0), reading(power_w=3300.0))
    store.create_order(order(**changes))
    (found,) = reader.orders_of(MachineId(mac(1)))
    assert (found.before and found.before.power_w, found.after and found.after.power_w) == (before, after)


def test_open_orders_are_told_as_they_are_and_read_again_only_if_they_changed(store, reader):
    save(store, machine(1, reading()), machine(2, reading()))
    first, second = (store.create_order(order(machine_id=MachineId(mac(number)))) for number in (1, 2))
    assert [each.order_id for each in reader.open_orders()] == [first.order_id, second.order_id]
    before = reader.open_orders()
    sent = replace(second, state=OrderState.DISPATCHED, dispatched_at=NOW, attempts=1)
    store.advance(second, sent)
    now = reader.open_orders()
    assert now[0] is before[0]
    assert (now[1].state, now[1].attempts) == (OrderState.DISPATCHED, 1)
    store.advance(first, replace(first, state=OrderState.EXPIRED, settled_at=NOW))
    assert reader.open_orders() == [sent]


def test_the_orders_of_a_machine_are_its_own_newest_first(store, reader):
    save(store, machine(1, reading()), machine(2, reading()))
    for number, state in ((1, OrderState.FAILED), (2, OrderState.PROPOSED), (1, OrderState.PROPOSED)):
        store.create_order(order(machine_id=MachineId(mac(number)), state=state))
    states = [found.order.state for found in reader.orders_of(MachineId(mac(1)))]
    assert states == [OrderState.PROPOSED, OrderState.FAILED]
    assert len(reader.orders_of(MachineId(mac(1)), limit=1)) == 1
    assert [each.machine_id for each in reader.open_orders()] == [mac(2), mac(1)]


# -- the step from an older database --------------------------------------------------------------------


def test_what_machines_last_told_is_kept_by_the_migration(path):
    database = sqlite_utils.Database(path)
    migrations.apply(database, stop_before="m005_terminal")
    database.execute(
        "insert into machines (machine_id, family, make, model, driver_class, host, machine_group, first_seen_ms) "
        "values (?, 'antminer', 'AntMiner', 'Antminer S21', '', '10.0.0.1', 'site', 0)",
        [mac(1)],
    )
    told = (
        '{"boards": [], "fans_rpm": [4200], "inlet_temp_c": null, "pools": [], "uptime_s": 5, "errors": ["E7"], '
        '"expected_hashrate_ths": 200.0}'
    )
    database.execute(
        "insert into latest (machine_id, at_ms, seen_ms, run_state, power_source, action, reason, marginal, detail) "
        "values (?, 1000, 1000, 'mining', 'unknown', 'hold', 'stale_reading', 0, ?)",
        [mac(1), told],
    )
    database.conn.commit()
    database.close()
    with pytest.raises(StoreError, match="of an older version"):
        Reader(path)
    Store(path).close()
    with Reader(path) as reader:
        found = detail(reader)
        assert (found.fans_rpm, found.errors, found.uptime_s) == ((4200,), ("E7",), 5)
        (view,) = reader.changes().views
        assert (view.power_source, view.expected_hashrate_ths) == (PowerSource.UNKNOWN, None)


def test_terms_of_a_machine_count_for_its_sleep(store, reader):
    past(store, asleep(power_w=None))
    store.save_machines([machine(1, asleep())], Terms(sleep_power_w=33.0))
    assert history(reader, 1, 1).power_w == (pytest.approx(33.0),)
