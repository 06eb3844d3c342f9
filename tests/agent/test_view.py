"""What people and files are shown of one machine and of a site: nothing that nobody measured."""

import json
import math
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Basis, Terms
from agent.baseline import SAMPLES_NEEDED
from agent.fleet import Fleet, Machine
from agent.policy import Action, Reason
from agent.summary import as_data, total_lines, view_as_data
from agent.view import by_margin, totals, view_machine
from drivers.reading import PowerSource, RunState
from tests.agent.builders import (
    MAX_AGE,
    NOW,
    asleep,
    failure,
    identity,
    machine,
    market,
    picture,
    reading,
)

UNKNOWN_MODEL = identity(1, model="Shed Miner 3000")


def viewed(of: Machine, price=0.06, after=timedelta(), terms=None):
    shown = replace(market(price), at=NOW + after)
    return view_machine(of, shown, terms or Terms(), max_age=MAX_AGE)


def views(*machines, price=0.06):
    return picture(Fleet(machines), market(price)).views


def test_a_mining_machine_is_appraised_from_what_it_measured():
    view = viewed(machine(1, reading(hashrate_ths=190.0, power_w=3600.0)))
    assert view.basis is Basis.LIVE
    assert view.efficiency_j_per_th == pytest.approx(3600 / 190)
    assert view.energy_cost_usd_per_day == pytest.approx(3.6 * 24 * 0.06)
    assert (view.action, view.reason) == (Action.RUN, Reason.ABOVE_BREAKEVEN)


def test_a_sleeping_machine_is_appraised_from_what_it_did_when_it_ran():
    slept = machine(1, *[reading(hashrate_ths=190.0, power_w=3600.0)] * SAMPLES_NEEDED, asleep())
    view = viewed(slept, price=0.2)
    assert view.basis is Basis.BASELINE
    assert view.efficiency_j_per_th == pytest.approx(3600 / 190)
    assert view.margin_usd_per_day == pytest.approx(
        viewed(machine(1, slept_from())).margin_usd_per_day - 12.096
    )
    assert (view.hashrate_ths, view.power_w) == (0.0, 25.0)
    assert (view.action, view.reason) == (Action.STAY_ASLEEP, Reason.BELOW_BREAKEVEN)


def slept_from():
    return reading(hashrate_ths=190.0, power_w=3600.0)


def test_a_sleeping_machine_without_a_baseline_is_appraised_at_the_hashrate_it_expects():
    view = viewed(machine(1, asleep(expected_hashrate_ths=180.0)))
    assert view.basis is Basis.EXPECTED
    assert view.efficiency_j_per_th == 17.5
    assert view.energy_cost_usd_per_day == pytest.approx(180 * 17.5 / 1000 * 24 * 0.06)


def test_a_sleeping_machine_that_expects_nothing_is_appraised_at_its_nameplate():
    view = viewed(machine(1, asleep(expected_hashrate_ths=None)))
    assert view.basis is Basis.NAMEPLATE
    assert view.energy_cost_usd_per_day == pytest.approx(3.5 * 24 * 0.06)


def test_a_sleeping_machine_of_an_unknown_model_has_no_margin():
    view = viewed(machine(1, asleep(), identity=UNKNOWN_MODEL))
    assert (view.basis, view.margin_usd_per_day) == (None, None)
    assert (view.action, view.reason) == (Action.HOLD, Reason.HASHRATE_UNKNOWN)


def test_a_nameplate_is_less_certain_than_what_was_measured():
    band = viewed(machine(1, asleep()), price=0.0935)
    assert band.marginal
    assert not viewed(machine(1, reading()), price=0.088).marginal
    assert viewed(machine(1, asleep()), price=0.088).marginal


@pytest.mark.parametrize("state", [RunState.RAMPING, RunState.STOPPED], ids=str)
def test_the_numbers_of_a_machine_that_is_not_in_steady_state_are_not_appraised(state):
    view = viewed(machine(1, reading(run_state=state, hashrate_ths=20.0, power_w=3000.0)))
    assert view.basis is Basis.EXPECTED
    assert view.efficiency_j_per_th == 17.5
    assert (view.hashrate_ths, view.power_w) == (20.0, 3000.0)
    assert view.action is Action.HOLD


def test_a_mining_machine_without_watts_has_no_margin():
    view = viewed(machine(1, reading(power_w=None, power_source=PowerSource.UNKNOWN, power_error=None)))
    assert (view.power_w, view.margin_usd_per_day, view.basis) == (None, None, None)
    assert (view.action, view.reason) == (Action.HOLD, Reason.POWER_UNKNOWN)


def test_a_mining_machine_without_hashrate_has_no_margin():
    view = viewed(machine(1, reading(hashrate_ths=None)))
    assert (view.margin_usd_per_day, view.reason) == (None, Reason.HASHRATE_UNKNOWN)


def test_a_machine_that_does_not_answer_shows_no_number_of_its_last_reading():
    view = viewed(machine(1, reading(), failure("refused")))
    assert (view.hashrate_ths, view.power_w, view.margin_usd_per_day) == (None, None, None)
    assert view.power_source is PowerSource.UNKNOWN
    assert view.run_state is RunState.UNKNOWN
    assert (view.reason, view.failure) == (Reason.UNREACHABLE, "refused")
    assert view.seen_at == NOW
    assert "refused" in view.recommendation


def test_a_machine_that_was_never_read_is_unreachable_and_never_seen():
    view = viewed(machine(1))
    assert (view.reason, view.seen_at) == (Reason.UNREACHABLE, None)


def test_a_reading_grows_stale_when_it_is_older_than_it_may_be():
    fresh = viewed(machine(1, reading()), after=MAX_AGE)
    stale = viewed(machine(1, reading()), after=MAX_AGE + timedelta(seconds=1))
    assert fresh.reason is Reason.ABOVE_BREAKEVEN
    assert (stale.action, stale.reason) == (Action.HOLD, Reason.STALE_READING)
    assert (stale.hashrate_ths, stale.margin_usd_per_day) == (None, None)


def test_an_implausible_reading_is_shown_and_not_appraised():
    view = viewed(machine(1, reading(power_w=90_000.0, implausible="power 90000 W")))
    assert (view.power_w, view.implausible) == (90_000.0, "power 90000 W")
    assert view.margin_usd_per_day is None
    assert (view.action, view.reason) == (Action.HOLD, Reason.IMPLAUSIBLE_READING)


def test_without_a_power_price_every_machine_is_held():
    view = viewed(machine(1, reading()), price=None)
    assert (view.action, view.reason) == (Action.HOLD, Reason.STALE_MARKET)
    assert view.revenue_usd_per_day is not None


def test_worst_margin_comes_first_and_unknown_last():
    shown = views(
        machine(1, reading(power_w=3000.0)),
        machine(2, failure()),
        machine(3, reading(power_w=9000.0)),
        machine(4, reading(power_w=5000.0)),
    )
    assert [view.address for view in shown] == ["10.0.0.3", "10.0.0.4", "10.0.0.1", "10.0.0.2"]


def test_a_margin_of_zero_is_not_unknown():
    zero = replace(viewed(machine(1, reading())), margin_usd_per_day=0.0)
    unknown, worse = replace(zero, margin_usd_per_day=None), replace(zero, margin_usd_per_day=-1.0)
    assert by_margin([unknown, zero, worse]) == [worse, zero, unknown]


def test_totals_add_up_what_is_known():
    site = totals(
        views(
            machine(1, reading()),
            machine(2, reading(power_w=9000.0)),
            machine(3, asleep()),
            machine(4, failure()),
        )
    )
    assert site.machines == 4
    assert site.by_state == {"mining": 2, "asleep": 1, "unknown": 1}
    assert site.power_kw == pytest.approx(12.525)
    assert site.hashrate_phs == pytest.approx(0.4)
    assert (site.under_breakeven, site.to_curtail) == (1, 1)
    assert site.to_curtail_kw == pytest.approx(9.0)
    assert site.lost_usd_per_day == pytest.approx(9 * 24 * 0.06 - 7.888, abs=1e-3)
    assert site.avoidable_usd_per_day == pytest.approx((9 - 0.04) * 24 * 0.06 - 7.888, abs=1e-3)


def test_totals_leave_implausible_readings_out():
    with_bug = totals(views(machine(1, reading()), machine(2, reading(power_w=9e6, implausible="unit bug"))))
    without = totals(views(machine(1, reading())))
    assert with_bug == replace(without, machines=2, by_state={"mining": 2})


def test_the_margin_of_a_site_is_that_of_the_machines_that_mine():
    site = totals(views(machine(1, reading()), machine(2, asleep())))
    assert site.margin_usd_per_day == pytest.approx(viewed(machine(1, reading())).margin_usd_per_day)


def test_totals_count_marginal_watts_apart():
    breakeven = viewed(machine(1, reading())).strike_price_usd_per_kwh
    site = totals(views(machine(1, reading()), machine(2, reading(power_w=9000.0)), price=breakeven * 1.01))
    assert (site.to_curtail_kw, site.to_curtail_marginal_kw) == (12.5, 3.5)


def test_a_site_that_loses_nothing_does_not_lose_minus_zero():
    site = totals(views(machine(1, reading())))
    assert math.copysign(1, site.lost_usd_per_day) == 1
    assert math.copysign(1, site.avoidable_usd_per_day) == 1
    assert "-0.00" not in "".join(line.plain for line in total_lines(site))


def test_totals_of_an_empty_site_are_zero_machines():
    site = totals([])
    assert (site.machines, site.power_kw, site.by_state) == (0, 0, {})


prices = st.integers(-500, 900).map(lambda thousandths: thousandths / 1000)
outcomes = st.one_of(
    st.builds(failure, st.sampled_from(["refused", "no_answer"])),
    st.builds(
        reading,
        run_state=st.sampled_from(RunState),
        hashrate_ths=st.none() | st.floats(0, 300),
        power_w=st.none() | st.floats(0, 6000),
        power_source=st.sampled_from(PowerSource),
        implausible=st.none() | st.just("no"),
    ),
)


@given(st.lists(outcomes, max_size=6), st.none() | prices)
def test_a_picture_is_json_of_the_same_values(found, price):
    fleet = Fleet(machine(number, outcome) for number, outcome in enumerate(found, start=1))
    data = as_data(picture(fleet, market(price)))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert len(data["machines"]) == data["totals"]["machines"] == len(found)


@given(outcomes, prices)
def test_only_a_usable_reading_gives_a_margin(outcome, price):
    view = viewed(machine(1, outcome), price)
    if view.failure is not None or view.implausible is not None:
        assert view.margin_usd_per_day is None
    if view.action is not Action.HOLD:
        assert view.decision_margin_usd_per_day is not None
        assert view.run_state in {RunState.MINING, RunState.ASLEEP}


def test_a_view_as_data_has_every_field_and_times_in_iso():
    view = viewed(machine(1, reading()))
    data = view_as_data(view)
    assert set(data) == set(asdict(view))
    assert data["at"] == "2026-02-01T12:00:00+00:00"
    assert data["machine_id"] == "02:13:00:00:00:01"
