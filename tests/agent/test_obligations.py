"""Calls of the grid: when they hold, what they come to, where they come from, and that they are answered."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import cli
from agent.clock import Clock
from agent.config import Config, CurtailmentSection, ObligationsSection, PollSection
from agent.curtailment import Mode, Obligation
from agent.fleet import Fleet
from agent.obligations import OPERATOR, Call, Obligations, ScheduleError, call_of, owed, read_schedule
from agent.orders import OrderAction
from agent.policy import Reason
from agent.store import Store
from agent.view import site_load_kw
from tests.agent.builders import NOW, FakeDriver, HandClock, asleep, failure, mac, machine, picture, reading
from tests.agent.test_curtailer import AT_ONCE, CHEAP, Rounds
from tests.agent.test_service import SiteOfFakes, known

HOUR = timedelta(hours=1)


def call(**changes):
    usual = {"call_id": "c", "source": OPERATOR, "by": "anna", "start": NOW, "to_kw": 5.0}
    return Call(**{**usual, **changes})


# -- when they hold, and what they come to -----------------------------------------------------------------------


def test_a_call_holds_from_its_start_and_not_at_its_end():
    each = call(end=NOW + HOUR)
    assert [each.holds_at(NOW + after) for after in (-HOUR, timedelta(), HOUR)] == [False, True, False]
    assert call().holds_at(NOW + 1000 * HOUR)


def test_shedding_by_so_much_is_from_what_the_site_drew_when_it_began():
    calls = Obligations([call(to_kw=None, by_kw=30.0)])
    assert calls.step(NOW - HOUR, 500.0) is None
    assert calls.step(NOW, 100.0).target_kw == 70.0
    assert calls.step(NOW + HOUR, 70.0).target_kw == 70.0
    assert Obligations([call(to_kw=None, by_kw=300.0)]).step(NOW, 100.0).target_kw == 0.0


def test_calls_in_a_row_shed_by_so_much_of_what_was_drawn_before_the_first():
    """Four quarters of an hour by 100 kW of 1000 are 900 kW, an hour long."""
    quarter = HOUR / 4
    rows = [
        call(call_id=str(n), to_kw=None, by_kw=100.0, start=NOW + n * quarter, end=NOW + (n + 1) * quarter)
        for n in range(4)
    ]
    calls, load_kw = Obligations(rows), 1000.0
    for n in range(4):
        told = calls.step(NOW + n * quarter, load_kw)
        load_kw = told.target_kw
        assert told.target_kw == 900.0
    assert calls.step(NOW + HOUR, load_kw) is None
    later = call(call_id="late", to_kw=None, by_kw=100.0, start=NOW + 2 * HOUR)
    calls.add(later)
    assert calls.step(NOW + 2 * HOUR, 1000.0).target_kw == 900.0


def test_calls_that_a_source_tells_one_by_one_are_in_a_row_too():
    quarter = HOUR / 4
    calls = Obligations()
    for n in range(3):
        one = call(call_id=str(n), source="openadr", to_kw=None, by_kw=100.0,
                   start=NOW + n * quarter, end=NOW + (n + 1) * quarter)  # fmt: skip
        calls.take("openadr", [one])
        assert calls.step(NOW + n * quarter, 1000.0 - 100.0 * bool(n)).target_kw == 900.0


def test_nothing_is_shed_by_so_much_of_a_load_that_nobody_knows():
    """A partition at the moment when a call begins must not make the whole site sleep."""
    calls = Obligations([call(to_kw=None, by_kw=30.0)])
    assert calls.step(NOW, None) is None
    assert calls.step(NOW + HOUR, 100.0).target_kw == 70.0


@pytest.mark.parametrize(("known", "load_kw"), [(10, 35.0), (9, 31.5), (8, None), (0, None)])
def test_a_site_s_load_is_known_when_nearly_all_of_its_machines_are(known, load_kw):
    machines = [machine(n, reading() if n <= known else failure()) for n in range(1, 11)]
    assert site_load_kw(picture(Fleet(machines)).views) == load_kw
    sleeping = [machine(n, asleep(power_w=None)) for n in range(11, 40)]
    assert site_load_kw(picture(Fleet([*machines[:known], *sleeping])).views) == 3.5 * known


def test_of_several_the_one_that_lets_the_site_draw_least_counts():
    calls = [
        call(call_id="a", to_kw=9.0),
        call(call_id="b", to_kw=4.0, end=NOW + HOUR),
        call(call_id="c", to_kw=6.0),
    ]
    assert owed(calls, NOW).call_id == "b"
    assert owed(calls, NOW + HOUR).call_id == "c"
    assert owed(calls, NOW - HOUR) is None


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(-5, 5), st.integers(1, 9)), max_size=5),
    st.integers(-9, 15),
)
def test_what_is_owed_is_never_more_than_any_call_in_force_allows(calls, hour):
    now = NOW + hour * HOUR
    made = [
        call(call_id=str(index), to_kw=kw, start=NOW + start * HOUR, end=NOW + (start + length) * HOUR)
        for index, (kw, start, length) in enumerate(calls)
    ]
    holding = [each.to_kw for each in made if each.holds_at(now)]
    told = owed(made, now)
    assert (told.target_kw if told else None) == min(holding, default=None)


def test_a_call_comes_back_from_what_was_stored_as_it_was():
    for each in (call(), call(to_kw=None, by_kw=3.0, reference_kw=9.0, end=NOW + HOUR)):
        assert call_of(each.as_data()) == each


# -- the schedule ---------------------------------------------------------------------------------------------------

HEAD = "start,end,to_kw,by_kw\n"


def test_a_schedule_gives_calls_in_any_zone(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text(
        HEAD
        + "2026-02-01T06:00-06:00,2026-02-01T08:00-06:00,2000,\n2026-03-01T00:00Z,2026-03-01T01:00Z,,500\n"
    )
    first, second = read_schedule(path)
    assert (first.start, first.end, first.to_kw, first.by_kw) == (NOW, NOW + 2 * HOUR, 2000.0, None)
    assert second.by_kw == 500.0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2026-02-01T06:00,2026-02-01T08:00Z,5,", "line 2: '2026-02-01T06:00' has no offset"),
        ("soon,2026-02-01T08:00Z,5,", "line 2: 'soon' is no time"),
        (
            "0001-01-01T00:00+14:00,2026-02-01T08:00Z,5,",
            "line 2: .* there are no bitcoins to be mined in that year",
        ),
        (
            "2026-02-01T06:00Z,9999-12-31T23:59-14:00,5,",
            "line 2: .* there are no bitcoins to be mined in that year",
        ),
        ("2026-02-01T09:00Z,2026-02-01T08:00Z,5,", "line 2: it ends before it begins"),
        ("2026-02-01T06:00Z,2026-02-01T08:00Z,5,5", "line 2: give either"),
        ("2026-02-01T06:00Z,2026-02-01T08:00Z,,", "line 2: give either"),
        ("2026-02-01T06:00Z,2026-02-01T08:00Z,-5,", "line 2: -5.0 kW is no load"),
        ("2026-02-01T06:00Z,2026-02-01T08:00Z,lots,", "line 2: could not convert"),
    ],
)
def test_a_mistake_in_a_schedule_is_told_with_its_line(tmp_path, row, said):
    path = tmp_path / "calls.csv"
    path.write_text(HEAD + row + "\n")
    with pytest.raises(ScheduleError, match=said):
        read_schedule(path)


def test_a_schedule_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text(HEAD + "2026-02-01T12:00Z,2026-02-01T14:00Z,,30\n")
    calls = Obligations([call(to_kw=90.0)], path)
    calls.read_schedule()
    assert calls.step(NOW, 100.0).target_kw == 70.0
    good = path.rename(tmp_path / "good.csv")
    path.write_text("nonsense\n")
    calls.read_schedule()
    assert "the first line must name" in calls.problem
    assert calls.step(NOW, 100.0).target_kw == 70.0
    good.replace(path)
    calls.read_schedule()
    assert calls.problem is None
    path.write_text(
        HEAD + "2026-02-01T12:00Z,2026-02-01T14:00Z,,30\n2026-02-01T12:00Z,2026-02-01T13:00Z,50,\n"
    )
    calls.read_schedule()
    assert calls.problem is None
    assert calls.step(NOW, 60.0).target_kw == 50.0
    assert calls.step(NOW + HOUR, 60.0).target_kw == 70.0  # from what it drew when that began


def test_a_call_that_has_begun_does_not_begin_again_when_its_line_moves(tmp_path):
    path, line = tmp_path / "calls.csv", "2026-02-01T12:00Z,2026-02-01T14:00Z,,30\n"
    path.write_text(HEAD + line)
    calls = Obligations([], path)
    calls.read_schedule()
    assert calls.step(NOW, 100.0).target_kw == 70.0
    path.write_text(HEAD + "# summer\n2026-02-01T08:00Z,2026-02-01T09:00Z,5,\n" + line)
    calls.read_schedule()
    assert calls.step(NOW, 70.0).target_kw == 70.0


@pytest.mark.parametrize("bad", ["soon,2026-02-01T08:00Z,5,", "x" * 200_000])
def test_lines_are_counted_with_comments(tmp_path, bad):
    path = tmp_path / "calls.csv"
    path.write_text(f"# ours\n{HEAD}# summer\n2026-02-01T08:00Z,2026-02-01T09:00Z,5,\n{bad}\n")
    with pytest.raises(ScheduleError, match="line 5: "):
        read_schedule(path)


@pytest.mark.parametrize("kw", ["nan", "-1", "inf", "1e9", "lots"])
def test_what_is_no_load_is_told_before_the_agent_is_asked(kw):
    told = CliRunner().invoke(cli, ["shed", "--by-kw", kw, "--socket", "/nowhere"])
    assert told.exit_code == 2
    assert "--by-kw" in told.output


# -- the agent ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "hashcost.db") as opened:
        yield opened


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.RECOMMEND])
async def test_the_least_efficient_machines_sleep_until_enough_is_shed(store, mode):
    worse, better = reading(hashrate_ths=150.0), reading()
    rounds = Rounds(store, replace(AT_ONCE, mode=mode), better, worse, better)
    async with rounds.reconciler:
        await rounds.round(CHEAP)
        would = await rounds.operations.shed(call(to_kw=8.0, start=rounds.clock()), dry_run=True)
        assert [each["machine_id"] for each in would if each["accepted"]] == [mac(2)]
        assert rounds.operations.obligations.calls == []
        await rounds.operations.shed(call(to_kw=8.0, start=rounds.clock()), dry_run=False)
        rounds.curtailer.obligation = Obligation(target_kw=8.0, approved=True)
        await rounds.round(CHEAP)
        assert [rounds.drivers[mac(n)].commands for n in (1, 2, 3)] == [[], [("sleep",)], []]
        assert {order.reason for order in rounds.orders()} == {Reason.OBLIGATION}


def agent_of(database, schedule=None):
    config = Config(
        poll=PollSection(interval_s=1.0, deadline_s=1.0),
        curtailment=CurtailmentSection(mode=Mode.AUTO, min_on_s=0.0, min_off_s=0.0),
        obligations=ObligationsSection(schedule_file=schedule),
    )
    agent = SiteOfFakes(config, database, clock=Clock(now=HandClock()))
    agent.fakes = {mac(n): FakeDriver(reading(), number=n) for n in (1, 2)}
    return agent


async def test_what_is_owed_outlives_the_agent_and_ends_when_it_is_released(tmp_path):
    database = tmp_path / "hashcost.db"
    known(database, machine(1), machine(2))
    async with agent_of(database) as agent:
        await agent.poll_once()
        await agent.operations.shed(call(to_kw=None, by_kw=3.0), dry_run=False)
        await agent.poll_once()
        assert agent.curtailer.obligation.target_kw == 4.0
    async with agent_of(database) as agent:
        await agent.poll_once()
        assert agent.curtailer.obligation.target_kw == 4.0
        assert (await agent.operations.calls())[0]["reference_kw"] == 7.0
        assert await agent.operations.release("c")
        assert not await agent.operations.release("c")
        await agent.poll_once()
        assert agent.curtailer.obligation is None
    async with agent_of(database) as agent:
        await agent.poll_once()
        assert agent.curtailer.obligation is None


async def test_a_schedule_is_answered_by_an_agent_that_acts_by_itself(tmp_path):
    database, schedule = tmp_path / "hashcost.db", tmp_path / "calls.csv"
    schedule.write_text(HEAD + "2026-02-01T12:00Z,2026-02-01T14:00Z,4,\n")
    known(database, machine(1), machine(2))
    async with agent_of(database, str(schedule)) as agent:
        await agent.poll_once()
        async with asyncio.timeout(60):
            while not any(driver.commands for driver in agent.fakes.values()):
                await asyncio.sleep(0.01)
        assert [order.action for order in agent.reconciler.all()] == [OrderAction.SLEEP]
