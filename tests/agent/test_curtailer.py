"""From a picture to orders and to what is known of each decision, round after round."""

import math
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.appraisal import Terms
from agent.baseline import SAMPLES_NEEDED
from agent.curtailer import DOUBT, Curtailer, price_late_s, price_stands_s
from agent.curtailment import SWITCHING_COSTS_USD, CurtailmentPolicy, Mode, Obligation, Participation, Rule
from agent.fleet import Fleet
from agent.operations import Operations
from agent.orders import POLICY, OrderAction, OrderState, Patience
from agent.policy import Reason
from agent.reconciler import GIVE_UP_FOR, REJECTED, Ramp, Reconciler, Sighting
from agent.store import Reader, Store
from agent.tenure import Alone
from agent.terms import MachineTerms
from drivers.driver import Refused
from drivers.reading import PowerMode
from tests.agent.builders import (
    NOW,
    DirectStore,
    FakeDriver,
    HandClock,
    asleep,
    at,
    failure,
    hashprice_quote,
    mac,
    machine,
    market,
    picture,
    reading,
    restore_point,
)

LOSING, DEAR, CHEAP = {"hashrate_ths": 100.0}, 0.15, 0.01
AT_ONCE = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND, min_on_s=0.0, min_off_s=0.0)


class Rounds:
    """A site that is decided on round by round; machines do what they are set to."""

    def __init__(self, store, policy, *readings):
        self.store, self.clock = store, HandClock()
        self.stands: timedelta | None = None
        self.late_s = 0.0
        self.prices_certain = True
        self.fleet = Fleet([machine(number, one) for number, one in enumerate(readings, start=1)])
        self.store.save_machines(list(self.fleet), Terms())
        self.drivers = {mac(number): FakeDriver(number=number) for number in range(1, len(readings) + 1)}
        self.reconciler = Reconciler(
            DirectStore(store), [], clock=self.clock, patience=Patience(),
            ramp=Ramp(machines=50, kw_per_min=500.0),
        )  # fmt: skip
        self.curtailer = Curtailer(self.fleet, self.reconciler, policy, self.clock)
        self.operations = Operations(
            self.fleet,
            self.reconciler,
            self.curtailer,
            Terms(),
            clock=self.clock,
            record=_nothing,
            save=_nothing,
            told=Alone().told,
        )

    async def round(self, price=DEAR, *, seconds=30, **seen):
        """A round; `m1=asleep()` is what machine 1 does from now on."""
        self.clock.forward(seconds=seconds)
        for name, one in seen.items():
            self.fleet[mac(int(name[1:]))].reading = one
        at(self.clock(), self.fleet)
        self.curtailer.mark_ours()
        now = market(price, at=self.clock())
        if self.stands is not None:
            power = replace(now.power, valid_until=self.clock() + self.stands, late_s=self.late_s)
            now = replace(now, power=power)
        if not self.prices_certain:
            now = replace(now, power=replace(now.power, automatic=False))
        shown = picture(self.fleet, replace(now, hashprice=hashprice_quote(observed_at=self.clock())))
        self.operations.picture = shown
        await self.curtailer.decide(shown)
        await self.reconciler.tick(
            {
                each.machine_id: Sighting(driver=self.drivers[each.machine_id], reading=each.reading)
                for each in self.fleet
            }
        )
        for task in list(self.reconciler._sending.values()):
            await task
        return self.curtailer.decisions()

    def orders(self, *states):
        return [order for order in self.reconciler.all() if not states or order.state in states]


async def _nothing(*_):
    return None


@asynccontextmanager
async def site(store, *readings, policy=AT_ONCE):
    rounds = Rounds(store, policy, *readings)
    async with rounds.reconciler:
        yield rounds


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "hashcost.db") as opened:
        yield opened


# -- decisions are kept ------------------------------------------------------------------------------------


async def test_every_decision_and_every_refusal_is_known_with_what_it_was_made_from(store, tmp_path):
    losing, stale = reading(**LOSING), reading(implausible="9000 TH/s")
    policy = replace(AT_ONCE, participation={mac(2): Participation.NEVER})
    async with site(store, losing, losing, stale, policy=policy) as rounds:
        decided = await rounds.round()
        assert [(decided[mac(n)].action, decided[mac(n)].reason) for n in (1, 2, 3)] == [
            (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN),
            (None, Reason.PROTECTED),
            (None, Reason.IMPLAUSIBLE_READING),
        ]
        made_from = decided[mac(1)].snapshot
        assert made_from["price_usd_per_kwh"] == DEAR
        assert made_from["hashrate_ths"] == 100.0
        assert made_from["seen_at"] == made_from["hashprice_observed_at"] == rounds.clock().isoformat()
        changed = rounds.curtailer.changed()
        store.save_decisions(changed)
        rounds.curtailer.stored(changed)
        assert rounds.curtailer.changed() == []
        with Reader(tmp_path / "hashcost.db") as reader:
            assert reader.decisions() == decided


async def test_a_decision_keeps_its_beginning_until_it_says_something_else(store):
    async with site(store, reading()) as rounds:
        first = (await rounds.round(CHEAP))[mac(1)]
        await rounds.round(CHEAP)
        later = (await rounds.round(CHEAP))[mac(1)]
        assert later is first
        assert later.reason is Reason.ABOVE_BREAKEVEN
        rounds.curtailer.held = True
        held = (await rounds.round(DEAR))[mac(1)]
        assert (held.reason, held.since) == (Reason.OPERATOR_HOLD, rounds.clock())


async def test_what_waiting_costs_is_shown_while_a_machine_waits_for_that(store):
    policy = CurtailmentPolicy(mode=Mode.AUTO, switching_cost_usd=0.1)
    async with site(store, reading(**LOSING), policy=policy) as rounds:
        costs = [(await rounds.round())[mac(1)] for _ in range(3)]
        assert {each.reason for each in costs} == {Reason.ACCUMULATING}
        assert costs[0].regret_usd == 0.0 < costs[1].regret_usd < costs[2].regret_usd
        assert costs[2].since == costs[0].since
        assert "waiting cost 0.00" in costs[2].in_words()
        assert "a switch is due at 0.0700" in costs[2].in_words()
        for _ in range(60):
            if (last := (await rounds.round())[mac(1)]).reason is not Reason.ACCUMULATING:
                break
        assert (last.action, last.reason) == (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)
        assert last.regret_usd >= 0.07


async def test_a_dear_interval_is_slept_through_from_its_beginning_on(store):
    """Once the machine is known, a price that stands is worth the switch before it has cost anything."""
    policy = CurtailmentPolicy(mode=Mode.AUTO, switching_cost_usd=0.1)
    async with site(store, reading(), policy=policy) as rounds:
        for _ in range(SAMPLES_NEEDED):
            rounds.fleet[mac(1)].baselines.observe(reading())
        assert (await rounds.round(CHEAP))[mac(1)].reason is Reason.ABOVE_BREAKEVEN
        odd = (await rounds.round(CHEAP, m1=reading(hashrate_ths=10.0)))[mac(1)]
        assert (odd.action, odd.reason) == (None, Reason.ACCUMULATING)
        decided = (await rounds.round(0.2, m1=reading()))[
            mac(1)
        ]  # live, no end known: it may be over any moment
        assert (decided.action, decided.reason) == (None, Reason.ACCUMULATING)
        rounds.stands = timedelta(minutes=15)
        decided = (await rounds.round(0.2))[mac(1)]
        assert (decided.action, decided.reason) == (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)


async def test_a_price_that_was_told_late_is_believed_sooner(store):
    policy = CurtailmentPolicy(mode=Mode.AUTO, switching_cost_usd=0.1)
    async with site(store, reading(), policy=policy) as rounds:
        for _ in range(SAMPLES_NEEDED):
            rounds.fleet[mac(1)].baselines.observe(reading())
        rounds.stands = timedelta(minutes=5)
        decided = (await rounds.round(0.2))[mac(1)]
        assert (decided.action, decided.reason) == (None, Reason.ACCUMULATING)
        rounds.late_s = 600.0
        decided = (await rounds.round(0.2))[mac(1)]
        assert (decided.action, decided.reason) == (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)


@pytest.mark.parametrize(
    ("changes", "stands_s"),
    [
        ({}, 0.0),
        ({"valid_until": NOW + timedelta(minutes=10)}, 600.0),
        ({"valid_until": NOW + timedelta(minutes=10), "automatic": False}, 0.0),
        ({"valid_until": NOW + timedelta(minutes=10), "next_at": NOW + timedelta(minutes=15)}, 900.0),
        ({"fixed": True}, math.inf),
    ],
    ids=["live without an end", "an interval", "doubtful", "until the next is told", "written down"],
)
def test_how_long_a_price_stands(changes, stands_s):
    fleet = Fleet([machine(1, reading())])
    quote = replace(market().power, **changes)
    shown = picture(fleet, replace(market(), power=quote))
    assert price_stands_s(shown, mac(1)) == stands_s
    own = replace(shown, own_terms={mac(1): MachineTerms(terms=Terms(price_usd_per_kwh=0.03))})
    assert price_stands_s(own, mac(1)) == math.inf


def test_how_late_a_price_was_told_counts_where_it_may_be_acted_on():
    late = replace(market().power, late_s=300.0)
    for quote, late_s in ((late, 300.0), (replace(late, automatic=False), 0.0), (None, 0.0)):
        shown = picture(Fleet([machine(1, reading())]), replace(market(), power=quote))
        assert price_late_s(shown, mac(1)) == late_s
    own = replace(
        picture(Fleet([machine(1, reading())]), replace(market(), power=late)),
        own_terms={mac(1): MachineTerms(terms=Terms(price_usd_per_kwh=0.03))},
    )
    assert price_late_s(own, mac(1)) == 0.0


def test_without_a_price_none_stands():
    shown = picture(Fleet([machine(1, reading())]), market(None))
    assert price_stands_s(shown, mac(1)) == 0.0


async def test_a_decision_that_could_not_be_stored_is_stored_with_the_next(store):
    async with site(store, reading()) as rounds:
        await rounds.round(CHEAP)
        lost = rounds.curtailer.changed()
        await rounds.round(CHEAP)
        assert rounds.curtailer.changed() == lost != []


# -- switching costs -----------------------------------------------------------------------------------------


def test_a_switch_costs_what_was_said_of_the_model_or_of_all_or_what_is_known():
    assert CurtailmentPolicy().switching_cost_of("Antminer S21 Pro") == SWITCHING_COSTS_USD["Antminer S21"]
    assert CurtailmentPolicy().switching_cost_of("M60S_VK40") == SWITCHING_COSTS_USD[""]
    for_all = CurtailmentPolicy(switching_cost_usd=0.5, switching_cost_by_model={"Antminer S21 Pro": 0.7})
    assert for_all.switching_cost_of("Antminer S21") == 0.5
    assert for_all.switching_cost_of("Antminer S21 Pro") == 0.7
    longest = CurtailmentPolicy(switching_cost_by_model={"Antminer": 0.1, "Antminer S21": 0.2})
    assert longest.switching_cost_of("Antminer S21 XP") == 0.2
    assert longest.switching_cost_of("Antminer S19") == 0.1


async def test_a_model_that_is_dear_to_switch_waits_longer(store):
    policy = CurtailmentPolicy(mode=Mode.AUTO, switching_cost_by_model={"Antminer S21": 0.5})
    async with site(store, reading(**LOSING), reading(**LOSING), policy=policy) as rounds:
        rounds.fleet[mac(2)].identity = replace(rounds.fleet[mac(2)].identity, model="Antminer S19")
        for _ in range(6):
            decided = await rounds.round()
        assert decided[mac(1)].reason is Reason.ACCUMULATING
        assert {order.machine_id for order in rounds.orders()} == {mac(2)}


# -- what a person refused -------------------------------------------------------------------------------------


async def test_what_a_person_refused_is_not_asked_again_for_hours(store):
    policy = replace(AT_ONCE, mode=Mode.RECOMMEND)
    async with site(store, reading(**LOSING), policy=policy) as rounds:
        await rounds.round()
        (proposal,) = rounds.orders(OrderState.PROPOSED)
        await rounds.operations.reject([proposal.order_id], "anna")
        decided = await rounds.round()
        assert decided[mac(1)].reason is Reason.REJECTED
        assert [order.failure for order in rounds.orders()] == [REJECTED]
        await rounds.round(seconds=GIVE_UP_FOR.total_seconds())
        assert len(rounds.orders(OrderState.PROPOSED)) == 1


async def test_a_person_may_still_order_what_was_refused(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        await rounds.round()
        (proposal,) = rounds.orders(OrderState.PROPOSED)
        await rounds.operations.reject([proposal.order_id], "anna")
        (outcome,) = await rounds.operations.curtail([mac(1)], "ben", dry_run=False)
        assert outcome["accepted"]
        await rounds.round()
        assert rounds.drivers[mac(1)].commands == [("sleep",)]


async def test_what_a_person_orders_takes_the_place_of_what_the_agent_asked_for(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        await rounds.round()
        decided = await rounds.round()
        assert decided[mac(1)].reason is Reason.ORDER_OPEN
        (would,) = await rounds.operations.curtail([mac(1)], "ben", dry_run=True)
        assert would["accepted"]
        assert len(rounds.orders(OrderState.PROPOSED)) == 1
        await rounds.operations.curtail([mac(1)], "ben", dry_run=False)
        await rounds.round()
        assert [(o.state, o.reason, o.ordered_by) for o in rounds.orders()] == [
            (OrderState.EXPIRED, Reason.BELOW_BREAKEVEN, POLICY),
            (OrderState.DISPATCHED, Reason.OPERATOR, "ben"),
        ]
        (again,) = await rounds.operations.curtail([mac(1)], "ben", dry_run=False)
        assert again["reason"] == "order_open"


async def test_a_proposal_that_prices_overtook_was_refused_by_nobody(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        await rounds.round(DEAR)
        await rounds.round(CHEAP)
        assert [order.state for order in rounds.orders()] == [OrderState.EXPIRED]
        await rounds.round(DEAR)
        assert len(rounds.orders(OrderState.PROPOSED)) == 1


# -- obligations -------------------------------------------------------------------------------------------------


async def test_an_obligation_takes_a_machine_that_a_person_was_asked_for(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        await rounds.round()
        assert len(rounds.orders(OrderState.PROPOSED)) == 1
        rounds.curtailer.policy = AT_ONCE
        rounds.curtailer.obligation = Obligation(target_kw=0.0)
        await rounds.round()
        assert rounds.drivers[mac(1)].commands == [("sleep",)]
        assert [order.reason for order in rounds.orders() if order.is_open] == [Reason.OBLIGATION]


OWED = Obligation(target_kw=0.0, approved=True)


async def shed(rounds, *numbers):
    """The grid is owed all load, and what was told to sleep does."""
    await rounds.round(CHEAP)
    rounds.curtailer.obligation = OWED
    await rounds.round(CHEAP)
    await rounds.round(CHEAP, seconds=240, **{f"m{number}": asleep() for number in numbers})


def sent(rounds, number):
    return [command[0] for command in rounds.drivers[mac(number)].commands]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.RECOMMEND])
@pytest.mark.parametrize("price", [CHEAP, None])
async def test_what_slept_for_the_grid_is_put_back_whatever_is_known_of_prices(store, mode, price):
    async with site(store, reading(), policy=replace(AT_ONCE, mode=mode)) as rounds:
        await shed(rounds, 1)
        await rounds.round(CHEAP)
        assert sent(rounds, 1) == ["sleep"]
        rounds.curtailer.obligation = None
        await rounds.round(price)
        assert sent(rounds, 1) == ["sleep", "wake"]
        (woken,) = [order for order in rounds.orders() if order.action is OrderAction.WAKE]
        assert (woken.reason, woken.restore) == (Reason.OBLIGATION_OVER, restore_point())


async def test_what_is_put_back_keeps_to_the_ramp(store):
    async with site(store, reading(), reading(), reading()) as rounds:
        await shed(rounds, 1, 2, 3)
        rounds.curtailer.policy = replace(AT_ONCE, batch_machines=1)
        rounds.curtailer.obligation = None
        woken = []
        for _ in range(3):
            await rounds.round(None, seconds=70)
            woken.append(sum("wake" in sent(rounds, number) for number in (1, 2, 3)))
        assert woken == [1, 2, 3]


@pytest.mark.parametrize(("mode", "woken"), [(Mode.AUTO, False), (Mode.RECOMMEND, True)])
async def test_what_would_lose_stays_asleep_where_economics_may_act_alone(store, mode, woken):
    async with site(store, reading(), policy=replace(AT_ONCE, mode=mode)) as rounds:
        await shed(rounds, 1)
        rounds.curtailer.obligation = None
        await rounds.round(DEAR)
        assert ("wake" in sent(rounds, 1)) is woken


async def test_what_left_its_sleep_and_was_put_back_to_sleep_is_still_woken_at_the_end(store):
    async with site(store, reading()) as rounds:
        await shed(rounds, 1)
        await rounds.round(CHEAP, m1=reading())
        await rounds.round(CHEAP)
        await rounds.round(CHEAP, seconds=240, m1=asleep())
        assert sent(rounds, 1) == ["sleep", "sleep"]
        rounds.curtailer.obligation = None
        await rounds.round(None)
        assert sent(rounds, 1) == ["sleep", "sleep", "wake"]


async def test_a_milder_call_lets_back_what_it_has_room_for(store):
    async with site(store, reading(), reading()) as rounds:
        await shed(rounds, 1, 2)
        rounds.curtailer.obligation = Obligation(target_kw=4.0, approved=True)
        await rounds.round(CHEAP)
        assert sorted(sent(rounds, number) for number in (1, 2)) == [["sleep"], ["sleep", "wake"]]
        await rounds.round(CHEAP)  # the wake is on its way, and is not taken back
        assert [order.action for order in rounds.orders() if order.is_open] == [OrderAction.WAKE]


async def test_a_machine_that_draws_more_than_was_known_comes_back_under_a_call_once(store):
    """It would come and go for as long as the call holds."""
    async with site(store, reading()) as rounds:
        await shed(rounds, 1)
        rounds.curtailer.obligation = Obligation(target_kw=4.0, approved=True)
        await rounds.round(CHEAP)
        assert sent(rounds, 1) == ["sleep", "wake"]
        await rounds.round(CHEAP, seconds=240, m1=reading(power_w=6000.0))
        await rounds.round(CHEAP, seconds=60)
        assert sent(rounds, 1) == ["sleep", "wake", "sleep"]
        for _ in range(5):
            await rounds.round(CHEAP, seconds=240, m1=asleep())
        assert sent(rounds, 1) == ["sleep", "wake", "sleep"]
        rounds.curtailer.obligation = None
        await rounds.round(CHEAP)
        assert sent(rounds, 1) == ["sleep", "wake", "sleep", "wake"]


async def test_a_machine_that_says_nothing_while_it_goes_to_sleep_is_not_replaced_by_another(store):
    worse, better = reading(hashrate_ths=150.0), reading()
    async with site(store, worse, better, better, better) as rounds:
        await rounds.round(CHEAP)
        rounds.curtailer.obligation = Obligation(target_kw=10.6)
        await rounds.round(CHEAP)
        assert sent(rounds, 1) == ["sleep"]
        rounds.fleet[mac(1)].apply(failure())
        await rounds.round(CHEAP)
        assert [sent(rounds, number) for number in (2, 3, 4)] == [[], [], []]


async def test_a_wake_that_failed_is_not_tried_again_under_a_new_call(store):
    async with site(store, reading()) as rounds:
        await shed(rounds, 1)
        rounds.drivers[mac(1)].refuses = Refused("10.0.0.1", "nobody listens")
        rounds.curtailer.obligation = None
        await rounds.round(CHEAP)
        rounds.drivers[mac(1)].refuses = None
        tried = len(sent(rounds, 1))
        rounds.curtailer.obligation = OWED
        for _ in range(3):
            await rounds.round(CHEAP, seconds=70)
        assert len(sent(rounds, 1)) == tried


async def test_what_was_proposed_is_decided_anew_by_an_agent_that_may_act(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        await rounds.round()
        assert len(rounds.orders(OrderState.PROPOSED)) == 1
        reloaded = Curtailer(rounds.fleet, rounds.reconciler, AT_ONCE, rounds.clock)
        rounds.curtailer = reloaded
        await rounds.round()
        assert sent(rounds, 1) == ["sleep"]


async def test_what_was_proposed_while_prices_were_in_doubt_is_done_once_they_are_not(store):
    policy = replace(AT_ONCE, participation={mac(2): Participation.RECOMMEND})
    async with site(store, reading(**LOSING), reading(**LOSING), policy=policy) as rounds:
        rounds.prices_certain = False
        await rounds.round()
        asked = rounds.orders(OrderState.PROPOSED)
        await rounds.round()
        assert rounds.orders() == asked
        assert len(asked) == 2
        rounds.prices_certain = True
        await rounds.round()
        assert sent(rounds, 1) == ["sleep"]
        assert rounds.orders(OrderState.PROPOSED) == [each for each in asked if each.machine_id == mac(2)]


async def test_what_somebody_else_put_to_sleep_is_not_woken_after_an_obligation(store):
    async with site(store, asleep(), reading()) as rounds:
        await shed(rounds, 1, 2)
        rounds.curtailer.obligation = None
        await rounds.round(CHEAP)
        assert [sent(rounds, number) for number in (1, 2)] == [[], ["sleep", "wake"]]


async def test_a_site_that_a_person_closed_meanwhile_stays_asleep(store):
    async with site(store, reading()) as rounds:
        await shed(rounds, 1)
        rounds.curtailer.closed, rounds.curtailer.obligation = True, None
        await rounds.round(None)
        assert sent(rounds, 1) == ["sleep"]


@pytest.mark.parametrize(
    ("silent_for", "told"), [(timedelta(minutes=5), [[], ["sleep"]]), (DOUBT, [[], []])], ids=str
)
async def test_a_machine_that_falls_silent_counts_as_drawing_for_an_hour(store, silent_for, told):
    """Of three machines of 3.5 kW one is silent; 7.2 kW are allowed."""
    async with site(store, reading(), reading(), reading(hashrate_ths=190.0)) as rounds:
        await rounds.round(CHEAP)
        silent = rounds.fleet[mac(1)]
        silent.apply(failure())
        silent.reading = replace(silent.reading, began_at=rounds.clock() + timedelta(seconds=30) - silent_for)
        rounds.curtailer.obligation = Obligation(target_kw=7.2)
        await rounds.round(CHEAP)
        assert [sent(rounds, number) for number in (2, 3)] == told


async def test_what_a_person_refused_to_shed_is_not_asked_for_again_at_once(store):
    async with site(store, reading(), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        rounds.curtailer.obligation = Obligation(target_kw=0.0)
        await rounds.round(CHEAP)
        (asked,) = rounds.orders(OrderState.PROPOSED)
        await rounds.reconciler.reject(asked, "alice")
        decided = await rounds.round(CHEAP)
        assert rounds.orders(OrderState.PROPOSED) == []
        assert decided[mac(1)].reason is Reason.REJECTED


# -- power modes ----------------------------------------------------------------------------------------------------


def modes_known(rounds):
    """Machine 1 has run in its low mode too, where it does better."""
    for mode, hashrate_ths, power_w in ((PowerMode.LOW, 90.0, 1300.0), (PowerMode.NORMAL, 100.0, 3500.0)):
        for _ in range(SAMPLES_NEEDED):
            seen = reading(power_mode=mode, hashrate_ths=hashrate_ths, power_w=power_w)
            rounds.fleet[mac(1)].baselines.observe(seen)


async def test_a_machine_that_takes_no_modes_is_put_to_sleep_instead_and_not_asked_for_ever(store):
    async with site(store, reading(**LOSING)) as rounds:
        modes_known(rounds)
        decided = await rounds.round(0.08)
        assert (decided[mac(1)].action, decided[mac(1)].target_mode) == (OrderAction.SET_MODE, PowerMode.LOW)
        (told,) = rounds.orders()
        rounds.reconciler._orders[told.order_id] = failed = replace(
            rounds.orders()[0], state=OrderState.FAILED, failure="did_not_obey", settled_at=rounds.clock()
        )
        store.advance(told, failed)
        decided = await rounds.round(0.08)
        assert (decided[mac(1)].action, decided[mac(1)].reason) == (OrderAction.SLEEP, Reason.BELOW_BREAKEVEN)


# -- a sleep that was given up --------------------------------------------------------------------------------------


async def given_up(rounds):
    """Machine 1 was told to sleep, did not, and sleeps now after all."""
    await rounds.round()
    (told,) = rounds.orders()
    failed = replace(told, state=OrderState.FAILED, failure="did_not_obey", settled_at=rounds.clock())
    store = rounds.store
    store.advance(told, failed)
    rounds.reconciler._orders[told.order_id] = failed
    await rounds.round(CHEAP, m1=asleep())


async def test_a_machine_that_slept_after_it_was_given_up_is_woken_by_a_person_only(store):
    async with site(store, reading(**LOSING)) as rounds:
        await given_up(rounds)
        assert rounds.curtailer.decisions()[mac(1)].reason is Reason.NOT_OURS_TO_WAKE
        (outcome,) = await rounds.operations.restore([mac(1)], "anna", dry_run=False)
        assert outcome["accepted"]
        await rounds.round(CHEAP)
        assert rounds.drivers[mac(1)].commands == [("sleep",), ("wake", restore_point())]


async def test_a_machine_that_was_never_told_to_sleep_is_nobody_s_to_wake(store):
    async with site(store, asleep()) as rounds:
        await rounds.round(CHEAP)
        (outcome,) = await rounds.operations.restore([mac(1)], "anna", dry_run=False)
        assert outcome == {"machine_id": mac(1), "accepted": False, "reason": "not_ours_to_wake"}


async def test_a_cycle_that_costs_nothing_overrides_no_minimum_times(store):
    policy = replace(AT_ONCE, rule=Rule.CUMULATIVE, switching_cost_usd=0.0, min_on_s=600.0, min_off_s=600.0)
    async with site(store, reading(**LOSING), policy=policy) as rounds:
        await rounds.round()
        await rounds.round(seconds=30, m1=asleep())
        assert rounds.orders(OrderState.CONFIRMED)
        decided = await rounds.round(CHEAP)
        assert decided[mac(1)].reason is Reason.MIN_OFF_TIME
        decided = await rounds.round(CHEAP, seconds=600)
        assert decided[mac(1)].action is OrderAction.WAKE


# -- the site's limits bind persons' approvals and wakes too ---------------------------------------------------------


async def proposed(rounds, price=DEAR):
    """The numbers of the orders that a person is asked for after a round."""
    await rounds.round(price)
    return [order.order_id for order in rounds.orders(OrderState.PROPOSED)]


async def test_what_is_approved_keeps_the_site_s_minimum(store):
    """Three machines of 3.5 kW where 7 must go on: one of three is approved, and one that is approved later neither."""
    policy = replace(AT_ONCE, mode=Mode.RECOMMEND, min_site_kw=7.0)
    async with site(store, *[reading(**LOSING)] * 3, policy=policy) as rounds:
        ids = await proposed(rounds)
        outcomes = await rounds.operations.approve(ids, "anna")
        limit = Reason.SITE_MINIMUM_LOAD.value
        assert [outcome["reason"] for outcome in outcomes] == [None, limit, limit]
        (again,) = await rounds.operations.approve(ids[1:2], "anna")
        assert again["reason"] == limit
        assert len(rounds.orders(OrderState.PROPOSED)) == 2
        await rounds.round()
        assert [len(driver.commands) for driver in rounds.drivers.values()] == [1, 0, 0]


async def test_nothing_is_approved_before_anybody_knows_what_the_site_draws(store):
    async with site(store, reading(**LOSING), policy=replace(AT_ONCE, mode=Mode.RECOMMEND)) as rounds:
        ids = await proposed(rounds)
        rounds.operations.picture = None
        (outcome,) = await rounds.operations.approve(ids, "anna")
        assert outcome["reason"] == Reason.STATE_UNKNOWN
        assert len(rounds.orders(OrderState.PROPOSED)) == 1


async def test_of_what_the_grid_is_owed_no_more_is_approved(store):
    policy = replace(AT_ONCE, mode=Mode.RECOMMEND)
    async with site(store, *[reading(**LOSING)] * 3, policy=policy) as rounds:
        rounds.curtailer.obligation = Obligation(target_kw=8.0)
        outcomes = await rounds.operations.approve(await proposed(rounds), "anna")
        assert [outcome["reason"] for outcome in outcomes] == [None, "obligation", "obligation"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_a_person_wakes_keeps_the_site_s_maximum(store, dry_run):
    policy = replace(AT_ONCE, max_site_kw=8.0)
    async with site(store, *[reading(**LOSING)] * 3, policy=policy) as rounds:
        await rounds.round()
        await rounds.round(m1=asleep(), m2=asleep(), m3=asleep())
        everybody = [mac(number) for number in (1, 2, 3)]
        outcomes = await rounds.operations.restore(everybody, "anna", dry_run=dry_run)
        assert [outcome["reason"] for outcome in outcomes] == [None, None, Reason.SITE_MAXIMUM_LOAD.value]


async def test_a_power_mode_that_draws_more_keeps_the_site_s_maximum(store):
    policy = replace(AT_ONCE, mode=Mode.RECOMMEND)
    async with site(store, reading(power_mode=PowerMode.LOW, power_w=2000.0), policy=policy) as rounds:
        for _ in range(SAMPLES_NEEDED):
            rounds.fleet[mac(1)].baselines.observe(reading(power_mode=PowerMode.HIGH, hashrate_ths=400.0))
        ids = await proposed(rounds, CHEAP)
        assert [order.action for order in rounds.orders()] == [OrderAction.SET_MODE]
        rounds.curtailer.policy = replace(policy, max_site_kw=3.0)
        (outcome,) = await rounds.operations.approve(ids, "anna")
        assert outcome["reason"] == Reason.SITE_MAXIMUM_LOAD


async def test_a_machine_that_joins_a_closed_site_sleeps_though_less_is_left_than_the_minimum(store):
    """The minimum is what economics may not go below; a person went."""
    policy = replace(AT_ONCE, min_site_kw=7.0)
    async with site(store, reading(**LOSING), policy=policy) as rounds:
        await rounds.round(CHEAP)
        rounds.curtailer.closed = True
        await rounds.round(CHEAP)
        assert rounds.drivers[mac(1)].commands == [("sleep",)]
