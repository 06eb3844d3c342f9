"""The life of an order, rule by rule: what is done next follows from what a machine was last seen doing."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.orders import OrderAction, OrderState, Patience, Step, due_by, has_drifted, next_step
from drivers.driver import Timings
from drivers.reading import PowerMode, PowerSource, RunState
from tests.agent.builders import NOW, asleep, order, reading, restore_point

TIMINGS = Timings(sleep_within_s=60.0, wake_within_s=300.0)
PATIENCE = Patience()
SENT = NOW
WITHIN = NOW + timedelta(seconds=30)
AFTER_SLEEP = NOW + timedelta(seconds=61)
LAST_CALL_SLEEP = NOW + timedelta(seconds=120)
AFTER_WAKE = NOW + timedelta(seconds=301)
LAST_CALL_WAKE = NOW + timedelta(seconds=600)
ENDED = (OrderState.CONFIRMED, OrderState.FAILED, OrderState.EXPIRED, OrderState.RELEASED)


def step(an_order, seen=None, now=NOW, patience=PATIENCE):
    return next_step(an_order, seen, now=now, timings=TIMINGS, patience=patience)


def approved(**changes):
    return order(state=OrderState.APPROVED, **changes)


def sent(action=OrderAction.SLEEP, **changes):
    usual = {"dispatched_at": SENT, "attempts": 1, "restore": restore_point()}
    return order(action=action, state=OrderState.DISPATCHED, **usual | changes)


def wake(**changes):
    return sent(OrderAction.WAKE, **changes)


def seen(state=RunState.MINING, at=WITHIN, **changes):
    usual = asleep() if state is RunState.ASLEEP else reading(run_state=state)
    return reading(
        **{
            "run_state": state,
            "began_at": at,
            "ended_at": at,
            "hashrate_ths": usual.hashrate_ths,
            "power_w": usual.power_w,
        }
        | changes
    )


# -- before it is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ENDED, ids=str)
def test_an_order_that_ended_is_left_alone(state):
    assert step(order(state=state), seen(RunState.ASLEEP)).step is Step.WAIT


@pytest.mark.parametrize("what", [None, reading(), asleep()], ids=["unseen", "mining", "asleep"])
def test_a_proposal_waits_for_a_person_whatever_is_seen(what):
    assert step(order(state=OrderState.PROPOSED), what).step is Step.WAIT


def test_a_proposal_that_nobody_answers_expires_after_its_time():
    proposal = order(state=OrderState.PROPOSED)
    assert step(proposal, now=NOW + PATIENCE.proposal).step is Step.WAIT
    assert step(proposal, now=NOW + PATIENCE.proposal + timedelta(seconds=1)).step is Step.EXPIRE


def test_a_machine_that_was_just_seen_mining_is_put_to_sleep():
    assert step(approved(), reading()).step is Step.DISPATCH


def test_a_machine_that_was_just_seen_asleep_is_woken():
    assert step(approved(action=OrderAction.WAKE), asleep()).step is Step.DISPATCH


@pytest.mark.parametrize("action", list(OrderAction), ids=str)
@pytest.mark.parametrize("state", [RunState.RAMPING, RunState.STOPPED, RunState.UNKNOWN], ids=str)
def test_nothing_is_sent_to_a_machine_in_between(action, state):
    assert step(approved(action=action, target_mode=PowerMode.LOW), seen(state)).step is Step.WAIT


@pytest.mark.parametrize("action", list(OrderAction), ids=str)
def test_nothing_is_sent_to_a_machine_that_was_not_seen(action):
    assert step(approved(action=action)).step is Step.WAIT


def test_an_approval_that_could_not_be_carried_out_expires_after_its_time():
    assert step(approved(), now=NOW + PATIENCE.approval).step is Step.WAIT
    assert step(approved(), now=NOW + PATIENCE.approval + timedelta(seconds=1)).step is Step.EXPIRE


def test_a_machine_that_somebody_else_put_to_sleep_is_not_ours():
    verdict = step(approved(), asleep())
    assert (verdict.step, verdict.detail) == (Step.EXPIRE, "somebody else put it to sleep first")


def test_a_machine_that_is_awake_already_in_its_mode_needs_no_command():
    verdict = step(approved(action=OrderAction.WAKE, restore=restore_point()), reading())
    assert (verdict.step, verdict.detail) == (Step.CONFIRM, "it was awake already")


def test_a_machine_that_is_awake_already_in_another_mode_is_a_person_s():
    woken = approved(action=OrderAction.WAKE, restore=restore_point(PowerMode.HIGH))
    verdict = step(woken, reading(power_mode=PowerMode.LOW))
    assert (verdict.step, verdict.failure) == (Step.FAIL, "wrong_mode")


def test_a_machine_that_is_in_the_ordered_mode_already_needs_no_command():
    change = approved(action=OrderAction.SET_MODE, target_mode=PowerMode.LOW)
    assert step(change, reading(power_mode=PowerMode.LOW)).step is Step.CONFIRM
    assert step(change, reading(power_mode=PowerMode.NORMAL)).step is Step.DISPATCH


def test_a_mode_is_never_set_on_a_sleeping_machine():
    assert (
        step(approved(action=OrderAction.SET_MODE, target_mode=PowerMode.LOW), asleep()).step is Step.EXPIRE
    )


@pytest.mark.parametrize("what", [None, reading(), asleep()], ids=["unseen", "mining", "asleep"])
def test_an_order_that_a_crash_left_on_its_way_out_is_taken_for_sent(what):
    left = order(state=OrderState.DISPATCHING, dispatched_at=SENT, attempts=1)
    assert step(left, what).step is Step.VERIFY


# -- evidence -------------------------------------------------------------------------------------------


def test_a_sleep_is_confirmed_by_a_reading_that_began_after_it():
    assert step(sent(), seen(RunState.ASLEEP)).step is Step.CONFIRM


@pytest.mark.parametrize("before_s", [0.0, 0.001, 10.0])
@pytest.mark.parametrize(
    ("an_order", "state"), [(sent(), RunState.ASLEEP), (wake(), RunState.MINING)], ids=["sleep", "wake"]
)
def test_a_reading_that_began_with_the_command_or_before_it_is_no_evidence(an_order, state, before_s):
    early = seen(state, at=SENT - timedelta(seconds=before_s), ended_at=WITHIN)
    assert step(an_order, early, now=WITHIN).step is Step.WAIT


@pytest.mark.parametrize("source", [PowerSource.REPORTED, PowerSource.METERED], ids=str)
def test_measured_watts_must_fall(source):
    still = seen(RunState.ASLEEP, power_w=0.31 * 3500, power_source=source)
    assert step(sent(), still, now=WITHIN).step is Step.WAIT
    fallen = seen(RunState.ASLEEP, power_w=0.3 * 3500, power_source=source)
    assert step(sent(), fallen, now=WITHIN).step is Step.CONFIRM


@pytest.mark.parametrize("source", [PowerSource.NAMEPLATE, PowerSource.CUSTOM, PowerSource.UNKNOWN], ids=str)
def test_watts_that_nobody_measured_do_not_stand_against_a_sleep(source):
    assert step(sent(), seen(RunState.ASLEEP, power_source=source, power_w=3500.0)).step is Step.CONFIRM


def test_unknown_watts_do_not_stand_against_a_sleep():
    assert step(sent(), seen(RunState.ASLEEP, power_w=None)).step is Step.CONFIRM


def test_unknown_watts_before_the_sleep_leave_nothing_to_compare_with():
    assert step(sent(power_w=0.0), seen(RunState.ASLEEP, power_w=25.0)).step is Step.CONFIRM


@pytest.mark.parametrize("state", [RunState.STOPPED, RunState.UNKNOWN, RunState.RAMPING, RunState.MINING])
def test_only_a_machine_that_says_so_is_asleep(state):
    assert step(sent(), seen(state, hashrate_ths=0.0, power_w=0.0), now=WITHIN).step is Step.WAIT


def test_a_wake_is_confirmed_when_it_mines_in_the_mode_that_it_had():
    woken = wake(restore=restore_point(PowerMode.HIGH))
    assert step(woken, seen(power_mode=PowerMode.HIGH)).step is Step.CONFIRM
    assert step(woken, seen(power_mode=PowerMode.NORMAL), now=WITHIN).step is Step.WAIT


@pytest.mark.parametrize(
    ("had", "has"), [(None, PowerMode.LOW), (PowerMode.LOW, None)], ids=["no modes", "does not say"]
)
def test_a_mode_that_is_not_known_does_not_stand_against_a_wake(had, has):
    assert step(wake(restore=restore_point(had)), seen(power_mode=has)).step is Step.CONFIRM


def test_a_machine_that_powers_up_is_not_awake_yet():
    assert step(wake(), seen(RunState.RAMPING), now=WITHIN).step is Step.WAIT


def test_a_mode_is_confirmed_only_by_itself():
    change = sent(OrderAction.SET_MODE, target_mode=PowerMode.LOW)
    assert step(change, seen(power_mode=PowerMode.LOW)).step is Step.CONFIRM
    for mode in (PowerMode.NORMAL, None):
        assert step(change, seen(power_mode=mode), now=WITHIN).step is Step.WAIT


# -- trying again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [None, *(seen(state) for state in RunState if state is not RunState.ASLEEP)])
def test_within_the_family_s_time_nothing_is_sent_again(what):
    assert step(sent(), what, now=SENT + timedelta(seconds=59.9)).step is Step.WAIT


def test_a_machine_that_did_not_obey_is_told_once_more():
    assert step(sent(), seen(at=AFTER_SLEEP), now=AFTER_SLEEP).step is Step.DISPATCH
    assert step(wake(), seen(RunState.ASLEEP, at=AFTER_WAKE), now=AFTER_WAKE).step is Step.DISPATCH


def test_disobedience_that_was_seen_within_the_family_s_time_is_no_reason():
    assert step(sent(), seen(at=WITHIN), now=AFTER_SLEEP).step is Step.WAIT


def test_nothing_is_sent_again_to_a_machine_that_nobody_saw_since():
    assert step(sent(), None, now=AFTER_SLEEP).step is Step.WAIT


@pytest.mark.parametrize("state", [RunState.RAMPING, RunState.UNKNOWN], ids=str)
@pytest.mark.parametrize("an_order", [sent(), wake()], ids=["sleep", "wake"])
def test_nothing_is_sent_again_to_a_machine_that_ramps_or_does_not_say(an_order, state):
    late = SENT + timedelta(seconds=1.5 * (60 if an_order.action is OrderAction.SLEEP else 300))
    assert step(an_order, seen(state, at=late), now=late).step is Step.WAIT


def test_nothing_is_sent_again_to_a_machine_whose_watts_still_fall():
    falling = seen(RunState.ASLEEP, at=AFTER_SLEEP, power_w=2000.0)
    assert step(sent(), falling, now=AFTER_SLEEP).step is Step.WAIT


def test_a_machine_that_woke_in_another_mode_is_told_once_more():
    other = seen(at=AFTER_WAKE, power_mode=PowerMode.LOW)
    assert step(wake(), other, now=AFTER_WAKE).step is Step.DISPATCH


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_command_is_sent_no_more_often_than_patience_allows(attempts):
    verdict = step(
        sent(attempts=1), seen(at=AFTER_SLEEP), now=AFTER_SLEEP, patience=Patience(attempts=attempts)
    )
    assert verdict.step is (Step.DISPATCH if attempts > 1 else Step.FAIL)


# -- giving up ------------------------------------------------------------------------------------------


def failed(an_order, what, now):
    verdict = step(an_order, what, now=now)
    assert verdict.step is Step.FAIL
    return verdict


def test_a_machine_that_never_obeys_is_a_failure_that_says_what_was_seen():
    verdict = failed(sent(attempts=2), seen(at=AFTER_SLEEP), AFTER_SLEEP)
    assert verdict.failure == "did_not_obey"
    assert verdict.detail == "last seen mining at 200.0 TH/s, 3500 W (reported)"


def test_a_failure_does_not_invent_numbers():
    unknown = seen(at=AFTER_SLEEP, hashrate_ths=None, power_w=None)
    assert failed(sent(attempts=2), unknown, AFTER_SLEEP).detail == (
        "last seen mining at unknown hashrate, unknown watts"
    )


def test_a_machine_that_stays_in_another_mode_is_a_failure_by_that_name():
    other = seen(at=AFTER_WAKE, power_mode=PowerMode.LOW)
    assert failed(wake(attempts=2), other, AFTER_WAKE).failure == "wrong_mode"


def test_a_mode_that_was_not_taken_is_a_failure_by_that_name():
    change = sent(OrderAction.SET_MODE, target_mode=PowerMode.LOW, attempts=2)
    assert failed(change, seen(at=AFTER_WAKE), AFTER_WAKE).failure == "wrong_mode"


def test_watts_that_never_fall_are_a_failure_by_that_name():
    still = seen(RunState.ASLEEP, at=AFTER_SLEEP, power_w=2000.0)
    assert failed(sent(), still, LAST_CALL_SLEEP).failure == "watts_did_not_fall"


def test_a_machine_that_nobody_sees_again_is_a_failure_by_that_name():
    assert step(sent(), None, now=LAST_CALL_SLEEP - timedelta(seconds=1)).step is Step.WAIT
    verdict = failed(sent(), None, LAST_CALL_SLEEP)
    assert (verdict.failure, verdict.detail) == ("no_evidence", "no usable reading since the command")


def test_a_machine_that_ramps_for_ever_is_a_failure():
    assert failed(wake(), seen(RunState.RAMPING, at=AFTER_WAKE), LAST_CALL_WAKE).failure == "did_not_obey"


# -- drift ----------------------------------------------------------------------------------------------


def standing(**changes):
    return order(state=OrderState.CONFIRMED, confirmed_at=NOW, **changes)


def test_a_machine_that_mines_although_it_should_sleep_has_drifted():
    assert has_drifted(standing(), seen())


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.MINING], ids=str)
def test_any_other_state_is_no_drift(state):
    assert not has_drifted(standing(), seen(state))


def test_what_was_not_seen_has_not_drifted():
    assert not has_drifted(standing(), None)


def test_a_reading_from_before_the_sleep_was_confirmed_is_no_drift():
    assert not has_drifted(standing(), seen(at=NOW))


@pytest.mark.parametrize(
    "other",
    [
        standing(action=OrderAction.WAKE),
        *(order(state=state, confirmed_at=NOW) for state in OrderState if state is not OrderState.CONFIRMED),
    ],
    ids=lambda other: f"{other.action} {other.state}",
)
def test_only_a_standing_sleep_can_drift(other):
    assert not has_drifted(other, seen())


# -- whatever is seen -----------------------------------------------------------------------------------

anything = st.none() | st.builds(
    seen,
    state=st.sampled_from(RunState),
    at=st.integers(-600, 1200).map(lambda seconds: NOW + timedelta(seconds=seconds)),
    power_w=st.none() | st.floats(0, 9000),
    power_source=st.sampled_from(PowerSource),
    power_mode=st.none() | st.sampled_from(PowerMode),
)
any_order = st.builds(
    order,
    action=st.sampled_from([OrderAction.SLEEP, OrderAction.WAKE]),
    state=st.sampled_from(OrderState),
    attempts=st.integers(1, 4),
    dispatched_at=st.just(SENT),
    restore=st.none() | st.builds(restore_point, st.none() | st.sampled_from(PowerMode)),
)
moments = st.integers(0, 7200).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(any_order, anything, moments)
def test_a_command_follows_only_from_a_machine_in_the_state_that_it_is_to_leave(an_order, what, now):
    if step(an_order, what, now).step is Step.DISPATCH:
        assert what is not None
        assert what.run_state not in {RunState.RAMPING, RunState.UNKNOWN}
        if an_order.action is OrderAction.SLEEP:
            assert what.run_state is not RunState.ASLEEP


@given(any_order, anything, moments)
def test_a_second_command_follows_only_after_the_family_s_time_and_from_a_later_reading(an_order, what, now):
    verdict = step(an_order, what, now)
    if an_order.state is OrderState.DISPATCHED and verdict.step is Step.DISPATCH:
        within_s = 60 if an_order.action is OrderAction.SLEEP else 300
        assert now >= SENT + timedelta(seconds=within_s)
        assert what.began_at >= SENT + timedelta(seconds=within_s)
        assert an_order.attempts < PATIENCE.attempts


@given(any_order, anything)
def test_a_sent_order_comes_to_an_end_whatever_is_seen(an_order, what):
    if an_order.state is OrderState.DISPATCHED:
        verdict = step(an_order, what, NOW + timedelta(hours=2))
        assert verdict.step in {Step.CONFIRM, Step.FAIL, Step.DISPATCH}
        assert (verdict.failure is not None) == (verdict.step is Step.FAIL)


def test_a_sleep_that_is_seen_too_early_may_be_a_restart():
    """Firmware that only restarts hashes nothing for a while: what proves a sleep comes later."""
    timings = Timings(sleep_within_s=60.0, wake_within_s=300.0, sleep_from_s=40.0)
    for seconds, wanted in ((39, Step.WAIT), (40, Step.CONFIRM)):
        at = SENT + timedelta(seconds=seconds)
        verdict = next_step(sent(), seen(RunState.ASLEEP, at=at), now=at, timings=timings, patience=PATIENCE)
        assert verdict.step is wanted


def test_an_order_has_time_until_it_expires_or_must_have_been_obeyed():
    made = order(state=OrderState.PROPOSED)
    assert due_by(made, None, PATIENCE) == made.created_at + PATIENCE.proposal
    assert due_by(approved(), None, PATIENCE) == approved().created_at + PATIENCE.approval
    assert due_by(sent(), TIMINGS, PATIENCE) == SENT + timedelta(seconds=60)
    assert due_by(wake(), TIMINGS, PATIENCE) == SENT + timedelta(seconds=300)
    assert due_by(sent(), None, PATIENCE) is None
    assert [due_by(order(state=state), TIMINGS, PATIENCE) for state in ENDED] == [None] * len(ENDED)
