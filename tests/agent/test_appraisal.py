"""What a machine is worth: unknown in, unknown out, and a sign that is only as certain as the watts."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import economics
from agent.appraisal import Terms, appraise
from tests.agent.builders import hashprice_quote, market, point

MONEY = (
    "revenue_usd_per_day",
    "energy_cost_usd_per_day",
    "margin_usd_per_day",
    "decision_margin_usd_per_day",
    "strike_price_usd_per_kwh",
    "breakeven_hashprice_usd_per_ph_day",
)
prices = st.floats(-0.5, 0.9)
hashrates = st.floats(1.0, 1000.0)
watts = st.floats(50.0, 15_000.0)


def test_the_default_market_prices_an_s21():
    appraisal = appraise(point(), market(), Terms())
    assert appraisal.efficiency_j_per_th == 17.5
    assert appraisal.revenue_usd_per_day == pytest.approx(7.888, abs=1e-3)
    assert appraisal.energy_cost_usd_per_day == pytest.approx(5.04)
    assert appraisal.margin_usd_per_day == pytest.approx(2.848, abs=1e-3)
    assert appraisal.hashcost_usd_per_ph_day == pytest.approx(25.2)


def test_without_a_point_everything_is_unknown():
    appraisal = appraise(None, market(), Terms())
    assert set(asdict(appraisal).values()) == {None}
    assert not appraisal.is_marginal


def test_without_a_power_price_there_is_revenue_and_no_margin():
    appraisal = appraise(point(), market(None), Terms())
    assert appraisal.revenue_usd_per_day is not None
    assert appraisal.energy_cost_usd_per_day is None
    assert appraisal.margin_usd_per_day is None
    assert appraisal.decision_margin_usd_per_day is None
    assert appraisal.strike_price_usd_per_kwh is not None


def test_without_a_hashprice_there_is_cost_and_no_margin():
    appraisal = appraise(point(), market(hashprice=None), Terms())
    assert appraisal.revenue_usd_per_day is None
    assert appraisal.energy_cost_usd_per_day is not None
    assert appraisal.margin_usd_per_day is None
    assert appraisal.decision_margin_usd_per_day is None
    assert appraisal.strike_price_usd_per_kwh is None


def test_the_decision_is_against_sleep_and_not_against_zero():
    appraisal = appraise(point(power_w=1000), market(0.10), Terms(sleep_power_w=100))
    saved = 0.1 * 24 * 0.10
    assert appraisal.decision_margin_usd_per_day == pytest.approx(appraisal.margin_usd_per_day + saved)


def test_a_margin_within_the_error_band_of_the_watts_is_marginal():
    breakeven = appraise(point(), market(), Terms()).strike_price_usd_per_kwh
    assert appraise(point(power_error=0.05), market(breakeven * 0.97), Terms()).is_marginal
    assert appraise(point(power_error=0.05), market(breakeven * 1.03), Terms()).is_marginal
    assert not appraise(point(power_error=0.05), market(breakeven * 0.90), Terms()).is_marginal
    assert not appraise(point(power_error=0.02), market(breakeven * 0.97), Terms()).is_marginal


def test_payback_is_only_known_with_a_price_of_machines_and_a_profit():
    priced = Terms(machine_price_usd_per_ths=15)
    assert appraise(point(), market(), Terms()).payback_days is None
    assert appraise(point(), market(0.5), priced).payback_days is None
    appraisal = appraise(point(), market(), priced)
    assert appraisal.payback_days == pytest.approx(3000 / appraisal.margin_usd_per_day)


@given(hashrates, watts, prices, st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 3))
def test_an_appraisal_is_what_the_formulas_say(hashrate, power, price, fee, reject, overhead):
    terms = Terms(fee=fee, reject=reject, overhead=overhead, sleep_power_w=30)
    appraisal = appraise(point(hashrate, power), market(price), terms)
    hashprice = hashprice_quote().hashprice_usd_per_ph_day
    payout = {"fee": fee, "reject": reject, "overhead": overhead}
    machine = {"hashrate_ths": hashrate, "power_w": power, "sleep_power_w": 30}
    assert appraisal.decision_margin_usd_per_day == economics.decision_margin_usd_per_day(
        **machine, **payout, hashprice_usd_per_ph_day=hashprice, price_usd_per_kwh=price
    )
    assert appraisal.strike_price_usd_per_kwh == economics.strike_price_usd_per_kwh(
        **machine, **payout, hashprice_usd_per_ph_day=hashprice
    )
    assert appraisal.breakeven_hashprice_usd_per_ph_day == economics.breakeven_hashprice_usd_per_ph_day(
        **machine, **payout, price_usd_per_kwh=price
    )
    assert appraisal.margin_usd_per_day == economics.margin_usd_per_day(
        hashrate_ths=hashrate,
        power_w=power,
        hashprice_usd_per_ph_day=hashprice,
        price_usd_per_kwh=price,
        **payout,
    )


@given(st.booleans(), st.booleans(), st.booleans())
def test_a_margin_needs_a_point_and_both_prices(has_point, has_hashprice, has_power):
    shown = market(0.06 if has_power else None, hashprice=hashprice_quote() if has_hashprice else None)
    appraisal = appraise(point() if has_point else None, shown, Terms())
    all_known = has_point and has_hashprice and has_power
    assert (appraisal.margin_usd_per_day is not None) == all_known
    assert (appraisal.decision_margin_usd_per_day is not None) == all_known
    if not has_point:
        assert all(getattr(appraisal, name) is None for name in MONEY)
