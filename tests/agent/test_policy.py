"""One recommendation with one reason; nothing is ever recommended on what is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms, appraise
from agent.policy import Action, Reason, Recommendation, Situation, recommend
from drivers.reading import RunState
from tests.agent.builders import market, point

PROFIT = appraise(point(), market(0.03), Terms())
LOSS = appraise(point(), market(0.20), Terms())
UNPRICED = appraise(point(), market(None), Terms())
NO_POINT = appraise(None, market(), Terms())

situations = st.builds(
    Situation,
    run_state=st.sampled_from(RunState),
    problem=st.none() | st.sampled_from(Reason),
    missing=st.none() | st.sampled_from(Reason),
    ours=st.booleans(),
)
appraisals = st.sampled_from([PROFIT, LOSS, UNPRICED, NO_POINT])


def asked(appraisal, state=RunState.MINING, **known):
    return recommend(Situation(run_state=state, **known), appraisal)


@pytest.mark.parametrize(
    ("situation", "appraisal", "action", "reason"),
    [
        (Situation(run_state=RunState.MINING), PROFIT, Action.RUN, Reason.ABOVE_BREAKEVEN),
        (Situation(run_state=RunState.MINING), LOSS, Action.CURTAIL, Reason.BELOW_BREAKEVEN),
        (Situation(run_state=RunState.ASLEEP), LOSS, Action.STAY_ASLEEP, Reason.BELOW_BREAKEVEN),
        (Situation(run_state=RunState.ASLEEP), PROFIT, Action.HOLD, Reason.NOT_OURS_TO_WAKE),
        (Situation(run_state=RunState.ASLEEP, ours=True), PROFIT, Action.RESTORE, Reason.ABOVE_BREAKEVEN),
        (Situation(run_state=RunState.ASLEEP, ours=True), LOSS, Action.STAY_ASLEEP, Reason.BELOW_BREAKEVEN),
        (Situation(run_state=RunState.RAMPING), LOSS, Action.HOLD, Reason.RAMPING),
        (Situation(run_state=RunState.STOPPED), LOSS, Action.HOLD, Reason.STOPPED),
        (Situation(run_state=RunState.UNKNOWN), LOSS, Action.HOLD, Reason.STATE_UNKNOWN),
        (Situation(run_state=RunState.MINING), UNPRICED, Action.HOLD, Reason.STALE_MARKET),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else "",
)
def test_each_state_of_a_machine_has_its_recommendation(situation, appraisal, action, reason):
    assert recommend(situation, appraisal) == Recommendation(action=action, reason=reason)


@pytest.mark.parametrize(
    "problem", [Reason.UNREACHABLE, Reason.STALE_READING, Reason.IMPLAUSIBLE_READING], ids=str
)
def test_an_unusable_reading_is_held_and_named(problem):
    assert asked(LOSS, problem=problem) == Recommendation(action=Action.HOLD, reason=problem)


@pytest.mark.parametrize("missing", [Reason.HASHRATE_UNKNOWN, Reason.POWER_UNKNOWN], ids=str)
def test_a_reading_without_what_a_margin_needs_is_held_and_named(missing):
    assert asked(NO_POINT, missing=missing) == Recommendation(action=Action.HOLD, reason=missing)


def test_every_reason_is_one_of_these():
    assert {reason.value for reason in Reason} == {
        "above_breakeven",
        "below_breakeven",
        "unreachable",
        "stale_reading",
        "implausible_reading",
        "stale_market",
        "hashrate_unknown",
        "power_unknown",
        "state_unknown",
        "ramping",
        "stopped",
        "rejected",
        "hosting_terms",
        "order_open",
        "not_ours_to_wake",
        "better_mode",
        "accumulating",
        "min_on_time",
        "min_off_time",
        "cycle_cap",
        "ramp_limit",
        "site_minimum_load",
        "site_maximum_load",
        "protected",
        "other_part",
        "unclaimed",
        "operator_hold",
        "obligation",
        "obligation_over",
        "gave_up",
        "operator",
        "drift",
    }


def test_a_machine_exactly_at_breakeven_does_not_run():
    at_strike = appraise(point(hashrate_ths=0.0, power_w=40.0), market(), Terms(sleep_power_w=40))
    assert at_strike.decision_margin_usd_per_day == 0
    assert asked(at_strike).action is Action.CURTAIL


def test_a_margin_inside_its_error_band_is_recommended_as_marginal():
    strike = appraise(point(), market(), Terms()).strike_price_usd_per_kwh
    slightly_losing = appraise(point(power_error=0.05), market(strike * 1.01), Terms())
    assert asked(slightly_losing) == Recommendation(
        action=Action.CURTAIL, reason=Reason.BELOW_BREAKEVEN, marginal=True
    )
    assert asked(slightly_losing, RunState.ASLEEP).marginal


def test_a_bad_reading_is_named_before_the_state_it_shows():
    assert asked(LOSS, RunState.RAMPING, problem=Reason.STALE_READING).reason is Reason.STALE_READING


def test_the_state_is_named_before_what_the_reading_lacks():
    assert asked(NO_POINT, RunState.STOPPED, missing=Reason.POWER_UNKNOWN).reason is Reason.STOPPED


def test_what_the_reading_lacks_is_named_before_the_missing_price():
    assert asked(UNPRICED, missing=Reason.POWER_UNKNOWN).reason is Reason.POWER_UNKNOWN


@given(situations, appraisals)
def test_unknown_stale_and_implausible_inputs_always_hold(situation, appraisal):
    uncertain = (
        situation.problem is not None
        or situation.missing is not None
        or situation.run_state not in {RunState.MINING, RunState.ASLEEP}
        or appraisal.decision_margin_usd_per_day is None
    )
    recommendation = recommend(situation, appraisal)
    if uncertain:
        assert recommendation.action is Action.HOLD
        assert not recommendation.marginal


@given(situations, appraisals)
def test_only_a_mining_machine_with_a_loss_is_curtailed(situation, appraisal):
    if recommend(situation, appraisal).action is Action.CURTAIL:
        assert situation.run_state is RunState.MINING
        assert appraisal.decision_margin_usd_per_day <= 0


@given(situations, appraisals)
def test_only_a_machine_that_sleeps_on_our_order_and_would_earn_is_woken(situation, appraisal):
    if recommend(situation, appraisal).action is Action.RESTORE:
        assert situation.run_state is RunState.ASLEEP
        assert situation.ours
        assert appraisal.decision_margin_usd_per_day > 0
