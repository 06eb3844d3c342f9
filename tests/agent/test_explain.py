"""An explanation says what the recommendation rests on, and its turning points really turn it."""

import json
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.appraisal import Basis, Terms
from agent.baseline import SAMPLES_NEEDED
from agent.explain import UNTIL, WHY, explain
from agent.market.quote import HashpriceQuote
from agent.policy import Action, Reason
from agent.view import view_machine
from drivers.reading import PowerSource, RunState
from tests.agent.builders import (
    MAX_AGE,
    NOW,
    asleep,
    failure,
    hashprice_quote,
    identity,
    machine,
    market,
    reading,
)

PER_BTC_USD = hashprice_quote(btc_usd=1.0).hashprice_usd_per_ph_day


def quote_of(hashprice_usd_per_ph_day: float) -> HashpriceQuote:
    """The quote that amounts to this hashprice."""
    return hashprice_quote(btc_usd=hashprice_usd_per_ph_day / PER_BTC_USD)


def explained(made, price=0.06, hashprice=None, terms=None, **market_changes):
    if hashprice is not None:
        market_changes["hashprice"] = quote_of(hashprice)
    now, terms = market(price, **market_changes), terms or Terms()
    return explain(view_machine(made, now, terms, max_age=MAX_AGE), now, terms)


def test_the_numbers_are_those_of_the_appraisal():
    told = explained(machine(1, reading()), terms=Terms(fee=0.02, overhead=1.05))
    assert told.revenue_usd_per_day == pytest.approx(0.2 * 39.4403 * 0.98, rel=1e-4)
    assert told.avoidable_cost_usd_per_day == pytest.approx(3.46 * 24 * 0.06 * 1.05)
    assert told.decision_margin_usd_per_day == pytest.approx(
        told.revenue_usd_per_day - told.avoidable_cost_usd_per_day
    )
    assert (told.fee, told.overhead) == (0.02, 1.05)
    assert (told.basis, told.power_error) == (Basis.LIVE, 0.05)
    assert told.margin_error_usd_per_day == pytest.approx(3.5 * 24 * 0.06 * 1.05 * 0.05)
    assert (told.hashprice_source, told.price_source) == ("test", "test")


machines = st.builds(
    lambda hashrate_ths, power_w, sleeps: machine(
        1,
        *[reading(hashrate_ths=hashrate_ths, power_w=power_w)] * SAMPLES_NEEDED,
        *([asleep()] if sleeps else []),
    ),
    st.floats(20, 500),
    st.floats(500, 8000),
    st.booleans(),
)
terms = st.builds(
    Terms,
    fee=st.floats(0, 0.1),
    reject=st.floats(0, 0.05),
    overhead=st.floats(0.8, 1.3),
    sleep_power_w=st.floats(0, 100),
)


@given(machines, terms, st.floats(-0.05, 0.5), st.floats(5, 100))
def test_on_the_other_side_of_the_strike_price_the_verdict_is_another(made, terms, price, hashprice):
    told = explained(made, price, hashprice, terms)
    strike = told.strike_price_usd_per_kwh
    assert f"a power price of {strike:.4f} USD/kWh" in told.changed_by
    assume(abs(price - strike) > 1e-6)
    almost = explained(made, strike + (price - strike) * 1e-6, hashprice, terms)
    beyond = explained(made, strike - (price - strike) * 1e-6, hashprice, terms)
    assert (almost.action, almost.reason) == (told.action, told.reason)
    assert (beyond.action, beyond.reason) != (told.action, told.reason)


@given(machines, terms, st.floats(0.01, 0.5), st.floats(5, 100))
def test_on_the_other_side_of_the_breakeven_hashprice_the_verdict_is_another(made, terms, price, hashprice):
    told = explained(made, price, hashprice, terms)
    breakeven = told.breakeven_hashprice_usd_per_ph_day
    assert f"a hashprice of {breakeven:.2f} USD/PH/day" in told.changed_by
    assume(abs(hashprice - breakeven) > 1e-4)
    almost = explained(made, price, breakeven + (hashprice - breakeven) * 1e-6, terms)
    beyond = explained(made, price, breakeven - (hashprice - breakeven) * 1e-6, terms)
    assert (almost.action, almost.reason) == (told.action, told.reason)
    assert (beyond.action, beyond.reason) != (told.action, told.reason)


@pytest.mark.parametrize(
    ("made", "price", "verdict", "otherwise"),
    [
        (machine(1, reading()), 0.06, Action.RUN,
         ("It would be recommended for sleep from a power price of 0.0950 USD/kWh (now 0.0600), "
         "or down from a hashprice of 24.91 USD/PH/day (now 39.44).")),
        (machine(1, reading()), 0.2, Action.CURTAIL,
         ("It would be left running under a power price of 0.0950 USD/kWh (now 0.2000), "
         "or over a hashprice of 83.04 USD/PH/day (now 39.44).")),
        (machine(1, asleep()), 0.2, Action.STAY_ASLEEP, "It would be worth waking under a power price of 0.0950"),
        (machine(1, asleep(), ours=True), 0.06, Action.RESTORE, "It would be left asleep from a power price of 0.0950"),
        (machine(1, asleep()), 0.06, Action.HOLD, "It would not be worth waking from a power price of 0.0950"),
    ],
    ids=lambda value: value.value if isinstance(value, Action) else "",
)  # fmt: skip
def test_what_would_change_the_verdict_is_said(made, price, verdict, otherwise):
    told = explained(made, price)
    assert told.action is verdict
    assert told.changed_by.startswith(otherwise)


def test_while_power_is_paid_for_no_hashprice_changes_the_verdict():
    told = explained(machine(1, reading()), -0.02)
    assert told.action is Action.RUN
    assert (
        told.changed_by
        == "It would be recommended for sleep from a power price of 0.0950 USD/kWh (now -0.0200)."
    )


def test_a_machine_that_draws_no_more_than_a_sleeping_one_is_changed_by_no_power_price():
    told = explained(machine(1, reading(hashrate_ths=1.0, power_w=30.0)))
    assert told.strike_price_usd_per_kwh is None
    assert told.changed_by == "No price changes this: sleeping would save nothing."


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (machine(1, failure("refused")), Reason.UNREACHABLE),
        (machine(1, reading(began_at=NOW - timedelta(hours=1))), Reason.STALE_READING),
        (machine(1, reading(implausible="power 90000 W")), Reason.IMPLAUSIBLE_READING),
        (machine(1, reading(run_state=RunState.RAMPING)), Reason.RAMPING),
        (machine(1, reading(power_w=None, power_source=PowerSource.UNKNOWN, power_error=None)), Reason.POWER_UNKNOWN),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)  # fmt: skip
def test_what_is_held_says_what_it_waits_for_and_names_no_price(made, reason):
    told = explained(made)
    assert told.reason is reason
    assert told.changed_by.startswith(f"Prices do not change this; it takes {UNTIL[reason]}")
    assert told.why == WHY[reason]


def test_without_a_price_nothing_is_reckoned():
    told = explained(machine(1, reading()), None)
    assert told.reason is Reason.STALE_MARKET
    assert (told.price_usd_per_kwh, told.margin_error_usd_per_day) == (None, None)
    assert "power price   - USD/kWh (unknown)" in told.as_text()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_sentence(reason):
    assert WHY[reason].endswith(".")


def test_the_basis_is_told_with_its_age_and_its_error_band():
    live = explained(machine(1, reading(began_at=NOW - timedelta(seconds=30))))
    slept = explained(machine(1, *[reading()] * SAMPLES_NEEDED, asleep(began_at=NOW - timedelta(seconds=30))))
    plate = explained(machine(1, asleep()))
    assert (live.basis_age_s, live.reading_age_s) == (30.0, 30.0)
    assert (slept.basis, slept.basis_age_s, slept.power_error, slept.reading_age_s) == (
        Basis.BASELINE,
        None,
        None,
        30.0,
    )
    assert (plate.basis, plate.power_error) == (Basis.EXPECTED, 0.1)
    assert "basis live (0:00:30 ago), watts +- 5%" in live.as_text()
    assert "basis baseline (learned while it ran), error band not kept" in slept.as_text()


@given(st.sampled_from([PowerSource.REPORTED, PowerSource.NAMEPLATE]), st.booleans(), st.floats(0.05, 0.15))
def test_the_error_band_and_the_marginal_mark_agree(source, sleeps, price):
    error = 0.05 if source is PowerSource.REPORTED else 0.1
    told = explained(
        machine(1, asleep() if sleeps else reading(power_source=source, power_error=error)), price
    )
    inside = abs(told.decision_margin_usd_per_day) <= told.margin_error_usd_per_day
    assert told.marginal is inside


def test_the_text_names_the_machine_the_verdict_and_what_stands_against_it():
    text = explained(machine(1, reading(), failure("refused"))).as_text()
    assert text.startswith("02:13:00:00:00:01  10.0.0.1  Antminer S21  site  at 2026-02-01 12:00:00 UTC\n")
    assert "verdict       hold: unreachable (refused)" in text
    assert "0 W" not in text
    marginal = explained(machine(1, reading()), 0.0951).as_text()
    assert "verdict       curtail: below_breakeven, marginal" in marginal
    absurd = explained(machine(1, reading(power_w=90_000.0, implausible="power 90000 W"))).as_text()
    assert "nothing is done on it. (power 90000 W)" in absurd


def test_the_data_is_json_of_the_same_values():
    told = explained(machine(1, reading()))
    data = told.as_data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["at"] == "2026-02-01T12:00:00+00:00"
    assert data["decision_margin_usd_per_day"] == told.decision_margin_usd_per_day


def test_what_machines_say_cannot_break_the_text():
    evil = machine(1, reading(), identity=identity(1, model="[red]{0}%s\x1b[2J\nno"))
    assert "[red]{0}%s?[2J?no" in explained(evil).as_text()
