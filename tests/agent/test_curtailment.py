"""Who is put to sleep and who is woken: each reason by itself, and what holds whatever the site looks like."""

import math
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.curtailment import (
    AHEAD_AT_MOST_S,
    WAKE_AHEAD,
    WORTH_CYCLES,
    Candidate,
    CurtailmentPolicy,
    Memory,
    Mode,
    ModePoint,
    Obligation,
    Participation,
    Rule,
    Site,
    decide,
)
from agent.orders import OrderAction
from agent.policy import Action, Reason, Recommendation
from agent.terms import Economics
from drivers.reading import MachineId, PowerMode, RunState
from tests.agent.builders import NOW, mac

K = 0.02
POLICY = CurtailmentPolicy(mode=Mode.AUTO, switching_cost_usd=K)
RIPE = Memory(regret_usd=K, updated_at=NOW)
"""What waiting has cost is worth a switch."""
DAY = timedelta(days=1)
LOSES = Recommendation(action=Action.CURTAIL, reason=Reason.BELOW_BREAKEVEN)
WOULD_EARN = Recommendation(action=Action.RESTORE, reason=Reason.ABOVE_BREAKEVEN)


def candidate(number=1, **changes):
    """A machine of 3.5 kW that mines at a loss of 2 USD/day, and has done so for long enough."""
    usual = Candidate(
        machine_id=MachineId(mac(number)),
        group="site",
        run_state=RunState.MINING,
        recommendation=LOSES,
        decision_margin_usd_per_day=-2.0,
        energy_cost_usd_per_day=10.0,
        power_w=3500.0,
        efficiency_j_per_th=17.5,
        memory=RIPE,
    )
    return replace(usual, **changes)


def sleeper(number=1, **changes):
    """One that sleeps on our order and would earn 2 USD/day."""
    usual = {
        "run_state": RunState.ASLEEP,
        "recommendation": WOULD_EARN,
        "decision_margin_usd_per_day": 2.0,
        "ours": True,
    }
    return candidate(number, **usual | changes)


def held_by(reason, **changes):
    return candidate(recommendation=Recommendation(action=Action.HOLD, reason=reason), **changes)


def site(**changes):
    return replace(Site(now=NOW, load_kw=1000.0), **changes)


def decision(machine, at=None, **policy):
    (only,) = decide([machine], at or site(), replace(POLICY, **policy))
    return only


def verdict(machine, at=None, **policy):
    made = decision(machine, at, **policy)
    return made.action, made.reason


def machines(decisions, action):
    return [made.machine_id for made in decisions if made.action is action]


def test_prices_that_are_not_certain_only_propose():
    doubtful = site(prices_certain=False)
    made = decision(candidate(), doubtful)
    assert (made.action, made.automatic) == (OrderAction.SLEEP, False)
    assert not decision(sleeper(), doubtful).automatic
    owed = replace(doubtful, obligation=Obligation(target_kw=0.0))
    assert decision(candidate(), owed).automatic


def test_what_waiting_for_one_switch_cost_does_not_count_for_the_other():
    """A price that turns round right after a sleep must not wake the machine on the regret of that sleep."""
    asleep_since_just_now = Memory(regret_usd=K, wish=OrderAction.SLEEP, updated_at=NOW)
    made = decision(sleeper(memory=asleep_since_just_now))
    assert (made.action, made.reason) == (None, Reason.ACCUMULATING)
    assert (made.memory.regret_usd, made.memory.wish) == (0.0, OrderAction.WAKE)


@pytest.mark.parametrize(
    ("economics", "grid", "at", "made"),
    [
        (Economics.NONE, False, site(), (None, Reason.HOSTING_TERMS)),
        (Economics.OWNER, False, site(), (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)),
        (Economics.HOST, False, site(), (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)),
        (Economics.OWNER, False, site(obligation=Obligation(target_kw=0.0)), (None, Reason.HOSTING_TERMS)),
        (
            Economics.NONE,
            True,
            site(obligation=Obligation(target_kw=0.0)),
            (OrderAction.SLEEP, Reason.OBLIGATION),
        ),
        (Economics.NONE, False, site(closed=True), (OrderAction.SLEEP, Reason.OPERATOR)),
    ],
    ids=["nobody's", "the owner's", "the host's", "not for the grid", "for the grid", "an operator's"],
)
def test_a_customer_s_machine_is_curtailed_only_for_what_its_terms_name(economics, grid, at, made):
    assert verdict(candidate(economics=economics, grid=grid), at) == made


# -- what a machine wants -------------------------------------------------------------------------------


def test_a_machine_that_loses_is_put_to_sleep():
    assert verdict(candidate()) == (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)


def test_a_machine_of_ours_that_would_earn_is_woken():
    assert verdict(sleeper()) == (OrderAction.WAKE, Reason.ABOVE_BREAKEVEN)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.UNREACHABLE, Reason.STALE_READING, Reason.IMPLAUSIBLE_READING, Reason.STALE_MARKET,
        Reason.HASHRATE_UNKNOWN, Reason.POWER_UNKNOWN, Reason.STATE_UNKNOWN, Reason.RAMPING, Reason.STOPPED,
        Reason.NOT_OURS_TO_WAKE,
    ],
    ids=str,
)  # fmt: skip
def test_what_a_recommendation_holds_is_held_for_its_reason(reason):
    assert verdict(held_by(reason)) == (None, reason)


@pytest.mark.parametrize(
    ("action", "reason"),
    [(Action.RUN, Reason.ABOVE_BREAKEVEN), (Action.STAY_ASLEEP, Reason.BELOW_BREAKEVEN)],
    ids=str,
)
def test_a_machine_that_does_what_it_should_is_left_alone(action, reason):
    assert verdict(candidate(recommendation=Recommendation(action=action, reason=reason))) == (None, reason)


def in_other_mode(margin, power_w=2500.0):
    return [ModePoint(power_mode=PowerMode.LOW, power_w=power_w, decision_margin_usd_per_day=margin)]


def test_a_mode_that_earns_more_than_this_one_and_than_sleep_is_chosen():
    made = decision(candidate(other_modes=in_other_mode(0.5)))
    assert (made.action, made.reason, made.target_mode) == (
        OrderAction.SET_MODE,
        Reason.BETTER_MODE,
        PowerMode.LOW,
    )


def test_sleep_is_better_than_a_mode_that_loses_less():
    assert verdict(candidate(other_modes=in_other_mode(-0.5)))[0] is OrderAction.SLEEP


# -- when a wish becomes a switch -----------------------------------------------------------------------


def after(machine, days, policy=POLICY):
    (made,) = decide([machine], site(now=NOW + days * DAY), policy)
    return made


def wishing(action=OrderAction.SLEEP, **changes):
    """It has only just become right."""
    return Memory(wish=action, updated_at=NOW, **changes)


@pytest.mark.parametrize(
    ("make", "action"), [(candidate, OrderAction.SLEEP), (sleeper, OrderAction.WAKE)], ids=["sleep", "wake"]
)
def test_a_switch_comes_exactly_when_waiting_has_cost_its_part_of_a_cycle(make, action):
    fresh = make(memory=wishing(action))
    due = K * WORTH_CYCLES / 2.0  # days at 2 USD/day
    assert after(fresh, due * 0.999).reason is Reason.ACCUMULATING
    assert after(fresh, due * 1.001).action is not None


def test_waiting_adds_up_over_rounds_with_the_margin_of_each():
    memory = wishing()
    for hour, margin in enumerate((-0.024, -0.048, -0.024), start=1):
        made = decide(
            [candidate(memory=memory, decision_margin_usd_per_day=margin)],
            site(now=NOW + timedelta(hours=hour)),
            POLICY,
        )[0]
        memory = made.memory
    assert memory.regret_usd == pytest.approx((0.024 + 0.048 + 0.024) / 24)


def test_a_first_look_costs_nothing():
    assert decision(candidate(memory=Memory())).memory.regret_usd == 0.0


def test_what_was_before_a_switch_became_right_costs_nothing():
    """The last round was at another price, at which not switching was right."""
    made = after(candidate(memory=Memory(updated_at=NOW)), 0.5)
    assert (made.memory.regret_usd, made.memory.wish) == (0.0, OrderAction.SLEEP)


AHEAD_DAYS = K * WORTH_CYCLES / 2.0
"""At 2 USD/day a price that stands for so long makes a switch worth it at once."""


@pytest.mark.parametrize(
    ("make", "action", "times"),
    [(candidate, OrderAction.SLEEP, 1.0), (sleeper, OrderAction.WAKE, WAKE_AHEAD)],
    ids=["sleep", "wake"],
)
def test_a_price_that_is_known_to_stand_makes_a_switch_worth_it_at_once(make, action, times):
    def at_once(days, **changes):
        usual = 2.0 if action is OrderAction.WAKE else -2.0
        known = {"usual_margin_usd_per_day": usual, "price_stands_s": days * 86_400 / times}
        return verdict(make(memory=Memory(), **known | changes), switching_cost_usd=K / 10)[0]

    days = AHEAD_DAYS / 10
    assert at_once(days * 1.001) is action
    assert at_once(days * 0.999) is None
    assert at_once(days * 1.001, price_stands_s=-1.0) is None
    assert at_once(days * 1.001, usual_margin_usd_per_day=None) is None


def test_what_waiting_cost_and_what_it_will_cost_add_up():
    half = {"usual_margin_usd_per_day": -2.0, "price_stands_s": AHEAD_DAYS / 10 / 2 * 86_400}
    memory = wishing(regret_usd=K / 10 * WORTH_CYCLES / 2 * 1.01)
    assert verdict(candidate(memory=memory, **half), switching_cost_usd=K / 10)[0] is OrderAction.SLEEP
    memory = wishing(regret_usd=K / 10 * WORTH_CYCLES / 2 * 0.99)
    assert verdict(candidate(memory=memory, **half), switching_cost_usd=K / 10)[0] is None


def test_what_a_price_cost_before_it_was_told_counts_twice():
    third_s = AHEAD_DAYS / 10 / 3 * 86_400
    known = {"usual_margin_usd_per_day": -2.0, "price_stands_s": third_s, "memory": Memory()}
    assert verdict(candidate(price_late_s=third_s * 1.01, **known), switching_cost_usd=K / 10)[0] is not None
    assert verdict(candidate(price_late_s=third_s * 0.99, **known), switching_cost_usd=K / 10)[0] is None


def test_one_odd_reading_foretells_nothing():
    """A machine that hashes little for a minute loses much, and will not for as long as the price stands."""
    odd = {"decision_margin_usd_per_day": -9.0, "price_stands_s": math.inf, "memory": Memory()}
    assert verdict(candidate(usual_margin_usd_per_day=1.0, **odd)) == (None, Reason.ACCUMULATING)
    assert verdict(candidate(usual_margin_usd_per_day=-0.01, **odd)) == (None, Reason.ACCUMULATING)
    assert verdict(candidate(usual_margin_usd_per_day=-9.0, **odd))[0] is OrderAction.SLEEP


def test_nobody_is_asked_on_the_expectation_of_a_marginal_margin():
    """It comes and goes with every reading; what waiting really cost still counts."""
    known = {"usual_margin_usd_per_day": -2.0, "price_stands_s": math.inf}
    doubtful = replace(LOSES, marginal=True)
    waits = candidate(recommendation=doubtful, memory=Memory(), **known)
    assert verdict(waits) == (None, Reason.ACCUMULATING)
    assert verdict(candidate(recommendation=doubtful, **known))[0] is OrderAction.SLEEP


def test_however_long_a_price_stands_no_more_than_an_hour_is_counted_on():
    slow = {"decision_margin_usd_per_day": -0.2, "usual_margin_usd_per_day": -0.2, "memory": Memory()}
    assert AHEAD_AT_MOST_S == 3600.0
    assert (
        verdict(
            candidate(price_stands_s=math.inf, **slow), switching_cost_usd=0.2 / 24 / WORTH_CYCLES * 1.01
        )[0]
        is None
    )
    asleep = verdict(
        candidate(price_stands_s=math.inf, **slow), switching_cost_usd=0.2 / 24 / WORTH_CYCLES * 0.99
    )[0]
    assert asleep is OrderAction.SLEEP


def test_a_power_mode_is_never_switched_on_expectation():
    point = in_other_mode(-0.5)[0]
    better = [replace(point, decision_margin_usd_per_day=0.5)]
    eager = candidate(
        other_modes=better, usual_margin_usd_per_day=-2.0, price_stands_s=math.inf, memory=Memory()
    )
    assert verdict(eager) == (None, Reason.ACCUMULATING)


def test_what_waiting_cost_is_forgotten_when_the_wish_goes():
    runs = Recommendation(action=Action.RUN, reason=Reason.ABOVE_BREAKEVEN)
    assert after(candidate(recommendation=runs, decision_margin_usd_per_day=1.0), 0.1).memory.regret_usd == 0


def test_what_waiting_cost_stands_still_while_nothing_is_known():
    memory = Memory(regret_usd=0.004, updated_at=NOW)
    blind = held_by(Reason.STALE_MARKET, decision_margin_usd_per_day=None, memory=memory)
    made = after(blind, 0.5)
    assert made.memory.regret_usd == 0.004
    assert after(candidate(memory=made.memory), 0.5).memory.regret_usd == pytest.approx(0.004)


def test_a_clock_that_was_set_back_costs_nothing():
    assert after(candidate(memory=RIPE), -1).memory.regret_usd == RIPE.regret_usd


@pytest.mark.parametrize(("margin", "switches"), [(-1.2, False), (-1.21, True), (-9.0, True)])
def test_the_dead_band_switches_beyond_a_share_of_the_energy_cost(margin, switches):
    machine = candidate(decision_margin_usd_per_day=margin, memory=Memory())
    expected = (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN) if switches else (None, Reason.ACCUMULATING)
    assert verdict(machine, rule=Rule.DEAD_BAND, dead_band=0.12) == expected


# -- too soon, too often --------------------------------------------------------------------------------


def switched(seconds_ago, **changes):
    return replace(RIPE, switched_at=NOW - timedelta(seconds=seconds_ago), **changes)


@pytest.mark.parametrize(
    ("make", "reason"), [(candidate, Reason.MIN_ON_TIME), (sleeper, Reason.MIN_OFF_TIME)]
)
def test_a_machine_that_just_switched_stays_for_a_minimum_time(make, reason):
    policy = {"min_on_s": 600.0, "min_off_s": 600.0}
    assert verdict(make(memory=switched(599)), **policy) == (None, reason)
    assert verdict(make(memory=switched(600)), **policy)[0] is not None


@pytest.mark.parametrize("make", [candidate, sleeper], ids=["sleep", "wake"])
def test_a_large_price_overrides_the_minimum_times(make):
    regret = 5 * K
    assert verdict(make(memory=switched(1, regret_usd=regret)), override_cycles=5.0)[0] is not None
    assert verdict(make(memory=switched(1, regret_usd=regret * 0.99)), override_cycles=5.0)[0] is None


def slept(*hours_ago, **changes):
    return replace(RIPE, sleeps=tuple(NOW - timedelta(hours=hours) for hours in hours_ago), **changes)


def test_a_machine_sleeps_so_often_a_day_and_no_oftener():
    assert verdict(candidate(memory=slept(1, 2)), cycles_per_day=2) == (None, Reason.CYCLE_CAP)
    assert verdict(candidate(memory=slept(1, 24)), cycles_per_day=2)[0] is OrderAction.SLEEP


def test_no_price_overrides_the_cap_on_cycles():
    ripe = slept(1, 2, regret_usd=1000 * K)
    assert verdict(candidate(memory=ripe), cycles_per_day=2) == (None, Reason.CYCLE_CAP)


def test_a_machine_is_woken_however_often_it_slept():
    assert verdict(sleeper(memory=slept(1, 2, 3)), cycles_per_day=2)[0] is OrderAction.WAKE


# -- who may be touched ---------------------------------------------------------------------------------


def test_a_protected_machine_is_left_alone():
    protected = {mac(1): Participation.NEVER}
    assert verdict(candidate(), participation=protected) == (None, Reason.PROTECTED)


def test_a_group_s_participation_counts_for_its_machines():
    assert verdict(candidate(group="hydro"), participation={"hydro": Participation.NEVER})[0] is None
    assert verdict(candidate(group="air"), participation={"hydro": Participation.NEVER})[0] is not None


def test_a_machine_s_own_participation_counts_before_its_group_s():
    settings = {"hydro": Participation.NEVER, mac(1): Participation.AUTO}
    assert verdict(candidate(group="hydro"), participation=settings)[0] is OrderAction.SLEEP


@pytest.mark.parametrize(
    ("mode", "own", "automatic"),
    [
        (Mode.AUTO, Participation.AUTO, True),
        (Mode.AUTO, Participation.RECOMMEND, False),
        (Mode.RECOMMEND, Participation.AUTO, False),
        (Mode.OBSERVE, Participation.AUTO, False),
    ],
    ids=str,
)
def test_only_auto_on_auto_needs_nobody_s_approval(mode, own, automatic):
    made = decision(candidate(), mode=mode, participation={mac(1): own})
    assert (made.action, made.automatic) == (OrderAction.SLEEP, automatic)


@pytest.mark.parametrize("make", [candidate, sleeper], ids=["sleep", "wake"])
def test_a_marginal_machine_is_only_ever_proposed(make):
    machine = make()
    marginal = replace(machine.recommendation, marginal=True)
    made = decision(replace(machine, recommendation=marginal))
    assert made.action is not None
    assert not made.automatic


def test_a_machine_with_an_open_order_gets_no_other():
    assert verdict(candidate(busy=True)) == (None, Reason.ORDER_OPEN)


def test_what_failed_lately_is_not_tried_again():
    assert verdict(candidate(gave_up=frozenset({OrderAction.SLEEP}))) == (None, Reason.GAVE_UP)


def test_what_a_person_ordered_is_left_alone_by_economics():
    assert verdict(candidate(in_hands=True)) == (None, Reason.OPERATOR)


@pytest.mark.parametrize("make", [candidate, sleeper], ids=["sleep", "wake"])
@pytest.mark.parametrize("at", [{}, {"obligation": Obligation(target_kw=0.0)}, {"closed": True}], ids=str)
def test_a_hold_holds_everything(make, at):
    assert decision(make(), site(held=True, **at)).action is None


def test_a_held_machine_says_so():
    assert verdict(candidate(), site(held=True)) == (None, Reason.OPERATOR_HOLD)


# -- a site that a person closed ------------------------------------------------------------------------


def test_a_closed_site_puts_to_sleep_what_comes_later_whatever_it_earns():
    runs = Recommendation(action=Action.RUN, reason=Reason.ABOVE_BREAKEVEN)
    late = candidate(recommendation=runs, decision_margin_usd_per_day=5.0, memory=switched(1))
    made = decision(late, site(closed=True), mode=Mode.RECOMMEND)
    assert (made.action, made.reason, made.automatic) == (OrderAction.SLEEP, Reason.OPERATOR, True)


# -- obligations ----------------------------------------------------------------------------------------


def owed(target_kw, load_kw=1000.0, **changes):
    return site(load_kw=load_kw, obligation=Obligation(target_kw=target_kw), **changes)


def earners(count, **changes):
    runs = Recommendation(action=Action.RUN, reason=Reason.ABOVE_BREAKEVEN)
    usual = {"recommendation": runs, "decision_margin_usd_per_day": 5.0, "memory": Memory()}
    return [
        candidate(number, efficiency_j_per_th=10.0 + number, **usual | changes)
        for number in range(1, count + 1)
    ]


def test_an_obligation_sheds_down_to_its_target_the_least_efficient_first():
    decisions = decide(earners(4), owed(target_kw=7.5, load_kw=14.0), POLICY)
    assert machines(decisions, OrderAction.SLEEP) == [mac(4), mac(3)]
    assert {made.reason for made in decisions} == {Reason.OBLIGATION}
    assert all(made.automatic for made in decisions if made.action)


def test_an_obligation_that_is_met_sheds_nothing_and_wakes_nothing():
    decisions = decide([*earners(2), sleeper(9)], owed(target_kw=7.0, load_kw=7.0), POLICY)
    assert [made.action for made in decisions] == [None] * 3
    reasons = {made.machine_id: made.reason for made in decisions}
    assert reasons == {
        mac(1): Reason.ABOVE_BREAKEVEN, mac(2): Reason.ABOVE_BREAKEVEN, mac(9): Reason.OBLIGATION,
    }  # fmt: skip


def test_a_call_that_binds_nobody_leaves_economics_to_it():
    """A site's standing limit may hold for ever."""
    wide = owed(target_kw=1e6, load_kw=7.0)
    assert decision(candidate(1), wide).action is OrderAction.SLEEP
    earning = sleeper(2, memory=switched(86_400, regret_usd=1.0, wish=OrderAction.WAKE))
    assert decision(earning, wide).action is OrderAction.WAKE
    assert decision(earning, owed(target_kw=8.0, load_kw=7.0)).reason is Reason.OBLIGATION
    proposed = decide([earning], owed(target_kw=8.0, load_kw=7.0), replace(POLICY, mode=Mode.RECOMMEND))
    assert [made.action for made in proposed] == [None]


def test_what_a_milder_call_leaves_room_for_comes_back_with_a_margin():
    """Four machines of 3.5 kW slept for a call to 0; 7.7 kW are allowed now, of which a twentieth stays free."""
    slept = [sleeper(number, shed=True, efficiency_j_per_th=10.0 + number) for number in range(1, 5)]
    decisions = decide(slept, owed(7.7, load_kw=0.0), POLICY)
    assert machines(decisions, OrderAction.WAKE) == [mac(1), mac(2)]
    assert {made.reason for made in decisions if made.action} == {Reason.OBLIGATION_OVER}
    assert {made.reason for made in decisions if not made.action} == {Reason.OBLIGATION}
    assert machines(decide(slept, owed(7.3, load_kw=0.0), POLICY), OrderAction.WAKE) == [mac(1)]
    silent = owed(7.7, load_kw=0.0, doubtful_kw=3.5)
    assert machines(decide(slept, silent, POLICY), OrderAction.WAKE) == [mac(1)]


def test_a_machine_that_is_more_than_a_minute_s_ramp_goes_by_itself():
    big, small = candidate(1, power_w=60_000.0, efficiency_j_per_th=40.0), candidate(2)
    policy = replace(POLICY, ramp_kw_per_min=10.0)
    assert machines(decide([big, small], site(load_kw=90.0), policy), OrderAction.SLEEP) == [mac(1)]
    moved = site(load_kw=90.0, moved_machines={OrderAction.SLEEP: 1}, moved_kw={OrderAction.SLEEP: 3.5})
    assert machines(decide([big], moved, policy), OrderAction.SLEEP) == []


def test_an_obligation_counts_what_is_about_to_sleep_as_gone():
    assert decide(earners(1), owed(target_kw=7.0, load_kw=14.0, leaving_kw=7.0), POLICY)[0].action is None


def test_an_obligation_needs_no_price_and_knows_no_minimum():
    blind = held_by(Reason.STALE_MARKET, decision_margin_usd_per_day=None, memory=switched(1))
    assert decision(blind, owed(0.0, load_kw=3.5), min_site_kw=3.0).action is OrderAction.SLEEP


def test_an_obligation_does_not_touch_what_it_does_not_know():
    blind = held_by(Reason.IMPLAUSIBLE_READING, power_w=None)
    unseen = held_by(Reason.UNREACHABLE, run_state=RunState.UNKNOWN)
    for machine in (blind, unseen):
        assert decision(machine, owed(0.0)).action is None


def test_a_protected_machine_is_protected_from_obligations():
    decisions = decide(earners(2), owed(0.0), replace(POLICY, participation={mac(2): Participation.NEVER}))
    assert machines(decisions, OrderAction.SLEEP) == [mac(1)]


def test_a_marginal_machine_is_shed_without_asking():
    marginal = candidate(recommendation=replace(LOSES, marginal=True))
    assert decision(marginal, owed(0.0)).automatic


# -- the site's limits ----------------------------------------------------------------------------------


def losers(count, **changes):
    return [candidate(number, efficiency_j_per_th=10.0 + number, **changes) for number in range(1, count + 1)]


def sleepers(count):
    return [sleeper(number, efficiency_j_per_th=10.0 + number) for number in range(1, count + 1)]


def waiting(decisions):
    return {made.reason for made in decisions if made.action is None}


def test_the_least_efficient_sleeps_first():
    decisions = decide(losers(3), site(), POLICY)
    assert machines(decisions, OrderAction.SLEEP) == [mac(3), mac(2), mac(1)]


def test_the_least_efficient_wakes_last():
    decisions = decide(sleepers(3), site(), POLICY)
    assert machines(decisions, OrderAction.WAKE) == [mac(1), mac(2), mac(3)]


@pytest.mark.parametrize("make", [losers, sleepers])
def test_a_batch_has_so_many_machines(make):
    decisions = decide(make(5), site(), replace(POLICY, batch_machines=2))
    assert sum(made.action is not None for made in decisions) == 2
    assert waiting(decisions) == {Reason.RAMP_LIMIT}


@pytest.mark.parametrize("make", [losers, sleepers])
def test_a_minute_moves_so_many_kw(make):
    decisions = decide(make(5), site(), replace(POLICY, ramp_kw_per_min=7.0))
    assert sum(made.action is not None for made in decisions) == 2
    assert waiting(decisions) == {Reason.RAMP_LIMIT}


def test_what_the_last_minute_moved_counts_in_its_own_direction():
    moved = site(moved_machines={OrderAction.SLEEP: 2}, moved_kw={OrderAction.SLEEP: 7.0})
    policy = replace(POLICY, batch_machines=2, ramp_kw_per_min=7.0)
    assert machines(decide(losers(2), moved, policy), OrderAction.SLEEP) == []
    assert len(machines(decide(sleepers(2), moved, policy), OrderAction.WAKE)) == 2


def test_the_site_keeps_its_minimum_load():
    decisions = decide(losers(4), site(load_kw=14.0), replace(POLICY, min_site_kw=7.0))
    assert machines(decisions, OrderAction.SLEEP) == [mac(4), mac(3)]
    assert waiting(decisions) == {Reason.SITE_MINIMUM_LOAD}


def test_what_is_about_to_sleep_does_not_count_for_the_minimum():
    at = site(load_kw=14.0, leaving_kw=7.0, coming_kw=7.0)
    assert waiting(decide(losers(1), at, replace(POLICY, min_site_kw=7.0))) == {Reason.SITE_MINIMUM_LOAD}


def test_the_site_keeps_its_maximum_load():
    decisions = decide(sleepers(4), site(load_kw=7.0), replace(POLICY, max_site_kw=14.0))
    assert machines(decisions, OrderAction.WAKE) == [mac(1), mac(2)]
    assert waiting(decisions) == {Reason.SITE_MAXIMUM_LOAD}


def test_what_is_about_to_wake_counts_for_the_maximum():
    at = site(load_kw=7.0, leaving_kw=7.0, coming_kw=7.0)
    assert waiting(decide(sleepers(1), at, replace(POLICY, max_site_kw=14.0))) == {Reason.SITE_MAXIMUM_LOAD}


def test_proposals_use_no_limit_up():
    decisions = decide(losers(3), site(), replace(POLICY, mode=Mode.RECOMMEND, batch_machines=1))
    assert len(machines(decisions, OrderAction.SLEEP)) == 3


# -- whatever the site looks like -----------------------------------------------------------------------

recommendations = st.builds(
    Recommendation,
    action=st.sampled_from(Action),
    reason=st.sampled_from([Reason.BELOW_BREAKEVEN, Reason.ABOVE_BREAKEVEN]),
    marginal=st.booleans(),
)
watts = st.integers(100, 9000).map(float)
memories = st.builds(
    Memory,
    regret_usd=st.sampled_from([0.0, K, 100 * K]),
    updated_at=st.none() | st.just(NOW - timedelta(minutes=1)),
    switched_at=st.none() | st.just(NOW - timedelta(minutes=5)),
    sleeps=st.lists(st.just(NOW - timedelta(hours=3)), max_size=9).map(tuple),
)


@st.composite
def fleets(draw):
    return [
        candidate(
            number,
            run_state=draw(st.sampled_from([RunState.MINING, RunState.ASLEEP])),
            recommendation=draw(recommendations),
            decision_margin_usd_per_day=draw(st.floats(-20, 20)),
            power_w=draw(watts),
            efficiency_j_per_th=draw(st.sampled_from([15.0, 20.0, 20.0, 30.0])),
            ours=draw(st.booleans()),
            busy=draw(st.booleans()),
            memory=draw(memories),
        )
        for number in range(1, draw(st.integers(1, 12)) + 1)
    ]


policies = st.builds(
    CurtailmentPolicy,
    mode=st.just(Mode.AUTO),
    batch_machines=st.integers(1, 5),
    ramp_kw_per_min=st.sampled_from([5.0, 12.0, 1000.0]),
    min_site_kw=st.sampled_from([0.0, 10.0]),
    max_site_kw=st.none() | st.just(30.0),
    rule=st.sampled_from(Rule),
)
sites = st.builds(
    Site,
    now=st.just(NOW),
    load_kw=st.floats(0, 60),
    leaving_kw=st.floats(0, 20),
    coming_kw=st.floats(0, 20),
    moved_kw=st.fixed_dictionaries({action: st.sampled_from([0.0, 4.0]) for action in OrderAction}),
    moved_machines=st.fixed_dictionaries({action: st.integers(0, 2) for action in OrderAction}),
    obligation=st.none() | st.builds(Obligation, target_kw=st.floats(0, 60)),
)


def automatic(decisions, action):
    return [made for made in decisions if made.action is action and made.automatic]


@given(fleets(), sites, policies)
def test_the_same_site_gets_the_same_decisions(fleet, at, policy):
    assert decide(fleet, at, policy) == decide(fleet, at, policy)


@given(fleets(), sites, policies, st.randoms(use_true_random=False))
def test_the_order_in_which_machines_are_listed_does_not_matter(fleet, at, policy, dice):
    shuffled = list(fleet)
    dice.shuffle(shuffled)
    by_machine = {made.machine_id: made for made in decide(fleet, at, policy)}
    assert by_machine == {made.machine_id: made for made in decide(shuffled, at, policy)}


@given(fleets(), sites, policies)
def test_every_machine_gets_exactly_one_decision(fleet, at, policy):
    decided = [made.machine_id for made in decide(fleet, at, policy)]
    assert sorted(decided) == [machine.machine_id for machine in fleet]


@given(fleets(), sites, policies)
def test_no_limit_is_ever_exceeded(fleet, at, policy):
    decisions = decide(fleet, at, policy)
    power_kw = {machine.machine_id: machine.power_w / 1000 for machine in fleet}
    for action in OrderAction:
        mine = automatic(decisions, action)
        kw = sum(power_kw[made.machine_id] for made in mine)
        if mine:
            assert at.moved_machines[action] + len(mine) <= policy.batch_machines
            alone = len(mine) == 1 and not at.moved_machines[action]
            assert alone or at.moved_kw[action] + kw <= policy.ramp_kw_per_min + 1e-9
    shed = [made for made in automatic(decisions, OrderAction.SLEEP) if made.reason is not Reason.OBLIGATION]
    if shed:
        left = at.load_kw - at.leaving_kw - sum(power_kw[made.machine_id] for made in shed)
        assert left >= policy.min_site_kw - 1e-9
    woken = automatic(decisions, OrderAction.WAKE)
    if woken and policy.max_site_kw is not None:
        reached = at.load_kw + at.coming_kw + sum(power_kw[made.machine_id] for made in woken)
        assert reached <= policy.max_site_kw + 1e-9


@given(fleets(), sites, policies)
def test_an_obligation_sheds_no_more_than_one_machine_beyond_its_target(fleet, at, policy):
    power_kw = {machine.machine_id: machine.power_w / 1000 for machine in fleet}
    shed = [made for made in decide(fleet, at, policy) if made.action and made.reason is Reason.OBLIGATION]
    if shed:
        before_last = sum(power_kw[made.machine_id] for made in shed[:-1])
        assert at.load_kw - at.leaving_kw - before_last > at.obligation.target_kw


@given(
    st.sampled_from([Action.HOLD, Action.RUN, Action.STAY_ASLEEP]),
    st.sampled_from([reason for reason in Reason if reason is not Reason.OBLIGATION]),
    st.sampled_from(RunState),
    memories,
    policies,
)
def test_without_a_recommendation_to_switch_nothing_switches(action, reason, state, memory, policy):
    machine = candidate(
        recommendation=Recommendation(action=action, reason=reason), run_state=state, memory=memory
    )
    assert decide([machine], site(), policy)[0].action is None


def test_ties_are_broken_by_the_machine_s_id():
    fleet = [candidate(number) for number in range(1, 9)]
    random.Random(3).shuffle(fleet)
    decisions = decide(fleet, site(), replace(POLICY, batch_machines=2))
    assert machines(decisions, OrderAction.SLEEP) == [mac(1), mac(2)]
