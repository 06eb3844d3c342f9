"""What a site keeps for its fleet: in the transaction that it tells of, in order, within bounds."""

import json
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms
from agent.decisions import DecisionRecord
from agent.federation.messages import (
    COLUMNS,
    LIMIT_BYTES,
    LIMIT_INFLATED_BYTES,
    VERSION,
    Kind,
    Message,
    MessageError,
    decode,
    encode,
    subject,
)
from agent.federation.outbox import Outbox
from agent.federation.outlet import waiting
from agent.orders import OrderState
from agent.policy import Reason
from agent.rows import Event
from agent.store import Store, StoreError
from drivers.reading import MachineId, RunState
from tests.agent.builders import NOW, asleep, failure, mac, machine, market, order, reading, save

MUCH = 64 * 1024 * 1024


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashcost.db"


def opened(path, *, limit_bytes=MUCH, threshold=0.02):
    return Store(path, partial(Outbox, site="denver", threshold=threshold, limit_bytes=limit_bytes))


@pytest.fixture
def store(path):
    with opened(path) as store:
        yield store


def told(path, kind=None):
    """Every row that waits, with its kind, as a mapping."""
    found = []
    for message in waiting(path, 10_000):
        rows = decode(message.payload, told_on=subject("acme", "denver", message.kind)).rows
        found += [(message.kind, dict(zip(COLUMNS[message.kind], row, strict=True))) for row in rows]
    return [row for each, row in found if each is kind] if kind else found


def taken(store, path):
    """Whatever waits is taken."""
    for message in waiting(path, 10_000):
        store.take_out(message.place.epoch, message.place.sequence)


def later(seconds, *machines):
    for each in machines:
        if each.failure is None:
            each.reading = replace(
                each.reading,
                began_at=each.reading.began_at + timedelta(seconds=seconds),
                ended_at=each.reading.ended_at + timedelta(seconds=seconds),
            )
    return machines


def test_the_first_round_tells_of_every_machine_its_prices_and_its_sums(store, path):
    save(store, machine(1, reading()), machine(2, asleep()))
    assert {row["machine_id"] for row in told(path, Kind.MACHINES)} == {mac(1), mac(2)}
    assert {row["machine_id"]: row["run_state"] for row in told(path, Kind.APPRAISALS)} == {
        mac(1): "mining",
        mac(2): "asleep",
    }
    (price,) = told(path, Kind.PRICES)
    assert (price["price_usd_per_kwh"], price["own"]) == (0.06, 0)
    assert {row["quote_id"] for row in told(path, Kind.APPRAISALS)} == {price["quote_id"]}
    (ended,) = told(path, Kind.ROUNDS)
    assert (ended["machines"], ended["power_kw"]) == (2, 3.525)
    assert told(path)[-1][0] is Kind.ROUNDS


def test_a_round_in_which_nothing_changed_tells_its_sums_alone(store, path):
    fleet = [machine(1, reading()), machine(2, reading())]
    save(store, *fleet)
    taken(store, path)
    save(store, *later(30, *fleet), market=market(at=NOW + timedelta(seconds=30)))
    assert [kind for kind, _ in told(path)] == [Kind.ROUNDS]


@pytest.mark.parametrize(
    ("after", "is_told"),
    [
        (reading(power_w=3500.0 * 1.019), False),
        (reading(power_w=3500.0 * 1.03), True),
        (reading(hashrate_ths=150.0), True),
        (reading(run_state=RunState.RAMPING), True),
        (asleep(), True),
        (failure(), True),
        (reading(began_at=NOW - timedelta(seconds=40)), True),  # of before this round: not seen in it
    ],
)
def test_a_machine_is_told_of_when_it_changed_enough(store, path, after, is_told):
    first, other = machine(1, reading()), machine(2, reading())
    save(store, first, other)
    taken(store, path)
    first.apply(after)
    save(store, first, other)
    assert [row["machine_id"] for row in told(path, Kind.APPRAISALS)] == [mac(1)] * is_told


def test_what_creeps_is_told_when_it_has_crept_far_enough(store, path):
    only = machine(1, reading())
    save(store, only)
    taken(store, path)
    for watts in (3550.0, 3600.0, 3650.0, 3700.0):
        only.apply(reading(power_w=watts))
        save(store, only)
    assert [row["power_w"] for row in told(path, Kind.APPRAISALS)] == [3600.0, 3700.0]


def test_other_prices_are_told_once_and_with_what_they_make_of_machines(store, path):
    only = machine(1, reading())
    save(store, only)
    taken(store, path)
    save(store, only, market=market(0.09))
    save(store, only, market=market(0.09))
    assert [row["price_usd_per_kwh"] for row in told(path, Kind.PRICES)] == [0.09]
    assert len(told(path, Kind.APPRAISALS)) == 1


def test_every_state_of_an_order_is_told_in_order_and_one_that_is_refused_is_not(store, path):
    save(store, machine(1, reading()))
    created = store.create_order(order())
    dispatching = replace(created, state=OrderState.DISPATCHING, attempts=1)
    store.advance(created, dispatching)
    with pytest.raises(StoreError):
        store.advance(created, dispatching)
    assert [(row["order_id"], row["state"]) for row in told(path, Kind.ORDERS)] == [
        (created.order_id, "approved"),
        (created.order_id, "dispatching"),
    ]


def test_a_decision_is_told_when_it_is_another_and_not_when_waiting_costs_more(store, path):
    save(store, machine(1, reading()))
    record = DecisionRecord(
        machine_id=MachineId(mac(1)), action=None, target_mode=None, reason=Reason.ABOVE_BREAKEVEN, automatic=True,
        regret_usd=0.0, switching_cost_usd=1.0, since=NOW, snapshot={},
    )  # fmt: skip
    for each in (record, replace(record, regret_usd=0.2), replace(record, reason=Reason.OPERATOR_HOLD)):
        store.save_decisions([each])
    told_of = [(row["reason"], row["regret_usd"]) for row in told(path, Kind.DECISIONS)]
    assert told_of == [("above_breakeven", 0.0), ("operator_hold", 0.0)]


def test_events_and_machines_that_are_gone_are_told(store, path):
    store.save_machines([machine(1)], Terms())
    store.save_events([Event(at=NOW, kind="scanned", detail="1 address")])
    store.retire([mac(1)], NOW)
    assert [row["detail"] for row in told(path, Kind.EVENTS)] == ["1 address"]
    assert [row["machine_id"] for row in told(path, Kind.GONE)] == [mac(1)]


def test_machines_are_told_of_again_only_when_something_changed(store, path):
    store.save_machines([machine(1)], Terms())
    store.save_machines([machine(1)], Terms())
    assert len(told(path, Kind.MACHINES)) == 1
    store.save_machines([machine(1, group="hydro")], Terms())
    assert [row["machine_group"] for row in told(path, Kind.MACHINES)] == ["site", "hydro"]


def test_a_round_that_could_not_be_written_is_not_told_and_the_next_tells_of_everything(store, path):
    only = machine(1, reading())
    save(store, only)
    taken(store, path)
    store._db.execute(
        "create trigger full before insert on settings begin select raise(abort, 'disk full'); end"
    )
    only.apply(asleep())
    with pytest.raises(sqlite3.IntegrityError):
        save(store, only)
    assert told(path) == []
    store._db.execute("drop trigger full")
    save(store, only)
    assert [row["run_state"] for row in told(path, Kind.APPRAISALS)] == ["asleep"]
    assert len(told(path, Kind.MACHINES)) == 1


def test_what_waits_survives_the_agent_and_comes_before_what_its_successor_tells(path):
    with opened(path) as store:
        save(store, machine(1, reading()))
    before = waiting(path, 100)
    with opened(path) as store:
        save(store, machine(1, asleep()))
        assert waiting(path, 100) == before
        assert before[0].place.previous == 0
        taken(store, path)
        after = waiting(path, 100)
    assert after[0].place.epoch != before[0].place.epoch
    assert (after[0].place.sequence, after[0].place.previous) == (1, 0)


def test_each_message_names_the_one_before_it_also_when_that_was_taken(store, path):
    save(store, machine(1, reading()))
    first, *rest = waiting(path, 100)
    assert [each.place.previous for each in rest] == [
        each.place.sequence for each in (first, *rest)[: len(rest)]
    ]
    store.take_out(first.place.epoch, first.place.sequence)
    assert waiting(path, 100) == rest


def test_a_full_outbox_lets_go_what_the_next_round_tells_anew_and_says_so(path, lines):
    with opened(path, limit_bytes=20_000) as store:
        fleet = [machine(number, reading()) for number in range(1, 60)]
        for turn in range(60):
            for each in fleet:
                each.apply(reading(power_w=3000.0 + 100 * turn))
            save(store, *fleet)
            if turn == 0:
                store.create_order(order())
        with closing(sqlite3.connect(path)) as connection:
            (size,) = connection.execute("select sum(bytes) from outbox").fetchone()
        assert size < 30_000  # the limit, and the round that follows
        gaps = {row["kind"] for row in told(path, Kind.GAPS)}
        assert gaps >= {"appraisals", "rounds"}
        assert "orders" not in gaps
        assert {row["state"] for row in told(path, Kind.ORDERS)} == {"approved"}
        last = {row["machine_id"]: row["power_w"] for row in told(path, Kind.APPRAISALS)}
        assert last == {mac(number): 3000.0 + 100 * 59 for number in range(1, 60)}
        assert len(told(path, Kind.GAPS)) > 3
        assert [line.split()[0] for line in lines("event=outbox_")] == ["event=outbox_full"]
        with store._db.conn as connection:
            connection.execute("delete from outbox")
        for _ in range(2):
            save(store, *fleet)
        assert [line.split()[0] for line in lines("event=outbox_")] == [
            "event=outbox_full",
            "event=outbox_emptied",
        ]


def test_the_oldest_go_where_that_makes_no_room(path):
    with opened(path, limit_bytes=20_000) as store:
        save(store, machine(1, reading()))
        for number in range(400):
            store.save_events([Event(at=NOW, kind="noted", detail=f"{number}: {number * 7919:x}" * 20)])
        save(store, machine(1, reading()))
        left = [row["detail"] for row in told(path, Kind.EVENTS)]
        (gap,) = [row for row in told(path, Kind.GAPS) if row["kind"] == "events"]
    assert left[-1].startswith("399:")
    assert gap["messages"] == 400 - len(left) > 0


def test_a_row_that_nobody_would_take_stops_no_other(store, path, lines):
    noise = "".join(f"{(number * 2654435761) % 2**32:08x}" for number in range(300_000))
    store.save_events([
        Event(at=NOW, kind="noted", detail=noise),
        Event(at=NOW, kind="noted", detail="small"),
    ])  # fmt: skip
    store.save_events([Event(at=NOW, kind="noted", detail=noise)])
    assert [row["detail"] for row in told(path, Kind.EVENTS)] == ["small"]
    assert len(lines("event=fleet_row_too_large")) == 1


def test_without_a_fleet_nothing_is_kept(path):
    with Store(path) as store:
        save(store, machine(1, reading()))
        store.create_order(order())
    assert waiting(path, 10) == []


SUBJECT = subject("acme", "denver", Kind.GONE)


def body(**changes):
    usual = {
        "v": VERSION,
        "kind": "gone",
        "site": "denver",
        "columns": ["machine_id", "at_ms"],
        "rows": [["a", 1]],
    }
    return zlib.compress(json.dumps(usual | changes).encode())


def test_a_message_of_ours_is_read_as_it_was_written():
    message = Message(kind=Kind.GONE, site="denver", rows=[["a", 1]])
    assert decode(encode(message), told_on=SUBJECT) == message
    assert decode(body(), told_on=SUBJECT) == message


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (body(v=2), "version 2"),
        (body(site="tulsa"), "another site"),
        (body(kind="orders"), "another site or kind"),
        (body(columns=["machine_id"]), "other columns"),
        (body(rows=[]), "rows"),
        (body(rows=[["a"]]), "another length"),
        (body(rows=[["a", [1]]]), "neither text nor number"),
        (body(rows=[["a", 1]] * 251), "1 to 250"),
        (body(rows=[["a", float("nan")]]), "not JSON"),
        (body()[:-3], "cut off"),
        (b"{}", "not compressed"),
        (bytes(LIMIT_BYTES + 1), "bytes, more than"),
        (zlib.compress(bytes(LIMIT_INFLATED_BYTES + 1)), "more than"),
        (zlib.compress(b"[" * 100_000), "not JSON"),
        (zlib.compress(b"[]"), "not a JSON object"),
    ],
)
def test_what_is_not_a_message_of_ours_is_refused(payload, why):
    with pytest.raises(MessageError, match=why):
        decode(payload, told_on=SUBJECT)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_more(noise):
    for payload in (noise, zlib.compress(noise)):
        with pytest.raises(MessageError):
            decode(payload, told_on=SUBJECT)
