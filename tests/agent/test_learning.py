"""What is learned of switching costs, ramps and power modes: by hand, by properties, and of a stored site."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.curtailment import CurtailmentPolicy
from agent.learned import learned, with_learned_costs
from agent.learning import PRIOR_CYCLES, SwitchSeen, learn, switch_seen
from agent.orders import OrderAction, OrderState
from agent.store import Store
from drivers.reading import PowerSource, RunState
from tests.agent.builders import NOW, asleep, machine, market, order, reading, row, save, stored_site
from tests.agent.processes import hashcost

SENT_MS = 1_000_000
FULL_THS, FULL_W, SLEEP_W = 100.0, 3000.0, 30.0
SLEEP, WAKE = OrderAction.SLEEP, OrderAction.WAKE


def said(second, ths, watts, state=RunState.MINING, **changes):
    return row(
        SENT_MS + second * 1000, 75_000, run_state=state, hashrate_ths=ths, power_w=watts,
        power_source=PowerSource.REPORTED, **changes,
    )  # fmt: skip


def resting(second):
    return said(second, 0.0, SLEEP_W, RunState.ASLEEP)


def running(second):
    return said(second, FULL_THS, FULL_W)


def wake(watts_s, hashes_s):
    """A wake whose watts rise for so long, and whose hashes rise for as long after them, read every 30 s."""

    def at(second):
        share_w = min(1.0, second / watts_s)
        share_ths = min(1.0, max(0.0, (second - watts_s) / hashes_s))
        state = RunState.MINING if share_ths >= 1 else RunState.RAMPING
        return said(second, FULL_THS * share_ths, SLEEP_W + (FULL_W - SLEEP_W) * share_w, state)

    return [resting(-60), resting(-30), *(at(second) for second in range(0, 2400, 30))]


def test_a_wake_wastes_what_it_draws_before_it_hashes():
    seen = switch_seen(WAKE, SENT_MS, wake(120, 240))
    assert seen.took_s == 360
    # watts: half of 120 s, then all of 240; hashes: half of 240
    assert seen.wasted_s == pytest.approx(60 + 240 - 120)
    assert seen.energy_kwh == pytest.approx((60 + 240) * (FULL_W - SLEEP_W) / 3.6e6)
    assert (seen.hashrate_ths, seen.sleep_power_w) == (FULL_THS, SLEEP_W)


def test_a_sleep_wastes_what_it_draws_after_it_stopped_hashing():
    falling = [said(0, 0.0, FULL_W), said(30, 0.0, FULL_W), said(60, 0.0, SLEEP_W, RunState.ASLEEP)]
    seen = switch_seen(SLEEP, SENT_MS, [running(-90), running(-60), running(-30), *falling, resting(90)])
    assert seen.took_s == 60
    assert seen.wasted_s == pytest.approx(30 + 15)


def test_a_machine_that_obeys_at_once_wastes_nothing():
    at_once = [resting(-30), *(running(second) for second in range(0, 600, 30))]
    assert switch_seen(WAKE, SENT_MS, at_once).wasted_s == pytest.approx(0)


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [running(0), running(30), running(60), running(90)],
        [resting(-30), resting(30), resting(60)],
        [resting(-30), running(0)],
        [replace(each, power_source=PowerSource.NAMEPLATE) for each in wake(60, 60)],
        [
            replace(each, power_w=None) if each.run_state is RunState.RAMPING else each
            for each in wake(60, 60)
        ],
        [replace(each, hashrate_ths=0.0) for each in wake(60, 60)],
        [
            replace(each, power_w=9e6, implausible="power") if each.run_state is RunState.RAMPING else each
            for each in wake(60, 60)
        ],
    ],
    ids=[
        "nothing",
        "never asleep",
        "never awake",
        "too few",
        "nobody measured",
        "a gap of watts",
        "no hashes",
        "absurd watts",
    ],
)
def test_what_does_not_tell_is_not_learned_from(readings):
    assert switch_seen(WAKE, SENT_MS, readings) is None


def learned_of(cycles, wasted_s=90.0, prior=0.02, settled=(), hashprice=50.0):
    seen = SwitchSeen(took_s=300.0, energy_kwh=0.1, wasted_s=wasted_s, hashrate_ths=200.0, sleep_power_w=31.0)
    each = [(action, seen) for action in (SLEEP, WAKE) for _ in range(cycles)]
    (only,) = learn({"S21": each}, {}, {"S21": prior}, settled, paid_usd_per_ph_day=hashprice)
    return only


def test_without_history_the_prior_counts_alone():
    found = learned_of(0)
    assert (found.switching_cost_usd, found.confidence, found.measured_usd) == (0.02, 0.0, None)
    assert (found.ramp_kwh, found.sleep_power_w, found.seconds_to_full) == (None, None, None)


def test_a_cycle_costs_its_wasted_seconds_at_hashprice():
    assert learned_of(5).measured_usd == pytest.approx(2 * 90 * 0.2 * 50 / 86_400)


@given(st.integers(0, 200), st.floats(-100, 3000), st.floats(0.001, 1))
def test_the_cost_lies_between_prior_and_measured_and_nears_the_latter(cycles, wasted_s, prior):
    found = learned_of(cycles, wasted_s, prior)
    measured = prior if found.measured_usd is None else found.measured_usd
    assert min(prior, measured) - 1e-12 <= found.switching_cost_usd <= max(prior, measured) + 1e-12
    assert found.confidence == (cycles / (cycles + PRIOR_CYCLES) if cycles else 0.0)
    assert found.switching_cost_usd >= 0


@given(st.floats(0, 1e7), st.floats(0, 1e6), st.integers(0, 11))
def test_no_reading_makes_a_switch_cost_more_or_less_than_the_time_it_took(watts, hashes, place):
    said_so = wake(120, 240)
    said_so[place + 2] = replace(said_so[place + 2], power_w=watts, hashrate_ths=hashes)
    seen = switch_seen(WAKE, SENT_MS, said_so)
    assert seen is None or abs(seen.wasted_s) <= seen.took_s + 1e-9


@pytest.mark.parametrize("absurd_s", [2700.0, -2700.0])
@pytest.mark.parametrize("action", [SLEEP, WAKE])
def test_a_few_switches_that_are_unlike_the_others_do_not_decide(action, absurd_s):
    """They would keep a model running at a loss, or have it switched back and forth."""
    usual = SwitchSeen(took_s=300.0, energy_kwh=0.1, wasted_s=90.0, hashrate_ths=200.0, sleep_power_w=31.0)
    seen = [(each, usual) for each in (SLEEP, WAKE) for _ in range(5)]
    seen += [(action, replace(usual, wasted_s=absurd_s, energy_kwh=50.0))] * 2
    (found,) = learn({"S21": seen}, {}, {"S21": 0.02}, paid_usd_per_ph_day=50.0)
    assert found.measured_usd == pytest.approx(2 * 90 * 0.2 * 50 / 86_400)
    assert found.ramp_kwh == 0.1


def test_without_a_hashprice_or_where_it_is_configured_nothing_takes_the_place_of_the_prior():
    assert learned_of(50, hashprice=None).switching_cost_usd == 0.02
    assert learned_of(50, settled={"S21"}).switching_cost_usd == 0.02
    assert learned_of(50, settled={"S21"}).measured_usd is not None


# -- of a stored site --------------------------------------------------------------------------------------


def cycle(store, start):
    """Half an hour of running, a sleep, an hour asleep, a wake with its ramp, and an hour of running."""
    at = start
    sent = {SLEEP: start + timedelta(minutes=30), WAKE: start + timedelta(minutes=90)}
    while at < start + timedelta(minutes=150):
        times = {"began_at": at, "ended_at": at}
        since_wake = (at - sent[WAKE]).total_seconds()
        if at < sent[SLEEP] or since_wake >= 300:
            now = reading(**times, power_w=3500.0)
        elif since_wake <= 0:
            now = asleep(**times, power_w=35.0, power_source=PowerSource.REPORTED)
        else:
            now = reading(**times, run_state=RunState.RAMPING, hashrate_ths=0.0, power_w=3500.0)
        save(store, machine(1, now), market=market(at=at), valid_s=150)
        at += timedelta(minutes=1)
    for action, at in sent.items():
        made = store.create_order(order(action=action, state=OrderState.APPROVED, attempts=1, created_at=at))
        store.advance(
            made,
            replace(
                made,
                state=OrderState.RELEASED,
                dispatched_at=at,
                confirmed_at=at + timedelta(minutes=6),
                settled_at=at + timedelta(minutes=6),
            ),
        )


def test_a_site_learns_from_its_own_cycles(tmp_path):
    path = tmp_path / "hashcost.db"
    with Store(path) as store:
        for index in range(4):
            cycle(store, NOW + timedelta(hours=3 * index))
    (model,) = learned(path, CurtailmentPolicy())
    assert (model.model, model.wakes, model.sleeps) == ("Antminer S21", 4, 4)
    assert (model.sleep_power_w, model.seconds_to_full) == (35.0, 300)
    assert model.confidence == pytest.approx(4 / 14)
    assert model.prior_usd == 0.04
    assert min(model.measured_usd, 0.04) < model.switching_cost_usd < max(model.measured_usd, 0.04)
    policy = with_learned_costs(CurtailmentPolicy(), [model])
    assert policy.switching_cost_of("Antminer S21") == model.switching_cost_usd
    assert policy.switching_cost_of("Antminer S19") == 0.02
    configured = with_learned_costs(CurtailmentPolicy(switching_cost_by_model={"Antminer S21": 0.5}), [model])
    assert configured.switching_cost_of("Antminer S21") == 0.5
    assert with_learned_costs(CurtailmentPolicy(switching_cost_usd=0.3), [model]).switching_cost_of(
        "Antminer S21"
    ) == pytest.approx(0.3)


def test_the_command_shows_it_with_its_confidence(tmp_path):
    path = tmp_path / "hashcost.db"
    with Store(path) as store:
        cycle(store, NOW)
    done = hashcost("learned", "--database", path)
    assert done.returncode == 0, done.stderr
    for told in ("Antminer S21", "confidence", "9%", "prior USD", "Power modes"):
        assert told in done.stdout
    (data,) = json.loads(hashcost("learned", "--database", path, "--json").stdout)
    assert data["confidence"] == pytest.approx(1 / 11)


def test_a_site_without_history_shows_its_power_modes(tmp_path):
    path = tmp_path / "hashcost.db"
    ready = machine(1)
    for _ in range(40):
        ready.apply(reading())
    stored_site(path, ready)
    with Store(path) as store:
        store.save_baselines([ready])
    (model,) = learned(path, CurtailmentPolicy())
    assert (model.confidence, [mode.machines for mode in model.modes]) == (0.0, [1])
    assert model.modes[0].efficiency_j_per_th == pytest.approx(3500 / 200)
