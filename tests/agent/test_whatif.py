"""Scenarios: they agree with the appraisal, their break-evens are break-evens, and mistakes are told."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import economics
from agent.appraisal import Terms, appraise
from agent.lots import Lot
from agent.whatif import Prices, assess, decision_margin_usd_per_day, merit_order, model_lines
from tests.agent.builders import asleep, hashprice_quote, machine, market, point, reading, stored_site
from tests.agent.processes import hashcost

NOW = Prices(btc_usd=92_870.0, difficulty=149.3e12, fees_btc=0.0269, height=927_000, price_usd_per_kwh=0.06)


def lot(model="S21", count=10, hashrate_ths=200.0, power_w=3500.0, **terms):
    return Lot(model=model, count=count, hashrate_ths=hashrate_ths, power_w=power_w, terms=Terms(**terms))


GOOD, BAD = lot(), lot("S19j Pro", 20, 100.0, 3050.0)

lots = st.builds(
    lot,
    st.sampled_from(["S9", "S19", "S21"]),
    st.integers(1, 500),
    st.floats(10, 500),
    st.floats(500, 8000),
    fee=st.floats(0, 0.1),
    overhead=st.floats(0.9, 1.5),
    sleep_power_w=st.floats(0, 100),
    credit_usd_per_kwh=st.floats(0, 0.05),
    price_usd_per_kwh=st.none() | st.floats(0.01, 0.2),
)
prices = st.builds(
    Prices,
    btc_usd=st.floats(10_000, 500_000),
    difficulty=st.floats(5e13, 5e14),
    fees_btc=st.floats(0, 1),
    height=st.integers(840_000, 1_000_000),
    price_usd_per_kwh=st.floats(-0.1, 0.3),
)


def test_a_site_now():
    now = assess([GOOD, BAD], NOW)
    assert now.hashprice_usd_per_ph_day == pytest.approx(39.44, abs=0.005)
    assert (now.machines, now.under_breakeven) == (30, 20)
    assert (now.power_kw, now.under_kw) == (pytest.approx(96.0), pytest.approx(61.0))


@given(st.lists(lots, min_size=1, max_size=5), prices)
def test_every_scenario_is_what_the_appraisal_of_each_machine_adds_up_to(some, at):
    in_market = market(
        at.price_usd_per_kwh,
        hashprice=hashprice_quote(
            btc_usd=at.btc_usd, difficulty=at.difficulty, fees_btc=at.fees_btc, height=at.height
        ),
    )
    each = [(one, appraise(point(one.hashrate_ths, one.power_w), in_market, one.terms)) for one in some]
    outcome = assess(some, at)
    assert outcome.running_usd_per_day == pytest.approx(
        sum(one.count * money.margin_usd_per_day for one, money in each), abs=1e-6
    )
    saved = sum(-one.count * min(0.0, money.decision_margin_usd_per_day) for one, money in each)
    assert outcome.saved_usd_per_day == pytest.approx(saved, abs=1e-6)


@given(lots, prices)
def test_at_its_break_even_a_model_earns_as_much_as_asleep(one, at):
    (line,) = model_lines([one], at)
    scale = one.avoidable_kwh_per_day * 0.3 + 1.0
    if line.breakeven_hashprice_usd_per_ph_day > 0:
        for there in (
            at.changed(btc_usd=line.breakeven_btc_usd),
            at.changed(difficulty=line.breakeven_difficulty),
        ):
            assert decision_margin_usd_per_day(one, there) == pytest.approx(0.0, abs=1e-9 * scale)
    if one.terms.price_usd_per_kwh is None:
        there = at.changed(price_usd_per_kwh=line.strike_price_usd_per_kwh)
        assert decision_margin_usd_per_day(one, there) == pytest.approx(0.0, abs=1e-9 * scale)


def test_machines_with_a_price_of_their_own_keep_it():
    own = lot(price_usd_per_kwh=0.05)
    assert (
        assess([own], NOW).running_usd_per_day
        == assess([own], NOW.changed(price_usd_per_kwh=0.2)).running_usd_per_day
    )


@pytest.mark.parametrize("price", [0.0, -0.02])
def test_while_power_costs_nothing_no_price_of_a_bitcoin_is_too_low(price):
    (line,) = model_lines([BAD], NOW.changed(price_usd_per_kwh=price), growth_per_month=0.05)
    assert (line.breakeven_btc_usd, line.breakeven_difficulty, line.under_in_days) == (None, None, None)


def test_when_a_model_falls_under_its_break_even():
    good, bad = model_lines([GOOD], NOW)[0], model_lines([BAD], NOW)[0]
    assert bad.under_in_days == 0.0
    assert good.under_in_days == pytest.approx(
        economics.days_to_halving(NOW.height + 1)
    )  # 17.5 J/TH at 19.9 USD
    cheap = lot(price_usd_per_kwh=0.02)
    assert model_lines([cheap], NOW)[0].under_in_days is None


def test_growth_of_difficulty_brings_it_nearer():
    (line,) = model_lines([GOOD], NOW, growth_per_month=0.05)
    grown = NOW.difficulty * 1.05 ** (line.under_in_days / (365.25 / 12))
    assert grown == pytest.approx(line.breakeven_difficulty)
    (late,) = model_lines([lot(price_usd_per_kwh=0.02)], NOW, growth_per_month=0.01)
    assert late.under_in_days > NOW.days_to_halving


def test_payback_needs_a_price_and_a_margin():
    assert model_lines([GOOD], NOW)[0].payback_days is None
    priced = replace(GOOD, terms=Terms(machine_price_usd_per_ths=15.0))
    (line,) = model_lines([priced], NOW)
    assert line.payback_days == pytest.approx(15.0 * 200 / line.margin_usd_per_day)
    assert model_lines([replace(BAD, terms=priced.terms)], NOW)[0].payback_days is None


def test_the_merit_order_begins_with_the_cheapest_hash_and_ends_with_the_whole_site():
    steps = merit_order([BAD, GOOD, lot("S19 XP", 5, 140.0, 3010.0)], NOW)
    assert [step.model for step in steps] == ["S21", "S19 XP", "S19j Pro"]
    assert [step.earns for step in steps] == [True, True, False]
    assert steps[-1].cumulative_kw == pytest.approx(
        assess([BAD, GOOD, lot("S19 XP", 5, 140.0, 3010.0)], NOW).power_kw
    )


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("model,count\nAntminer S21,10\nAntminer S19j Pro,20\n")
    return path


def asked(*arguments, database):
    return hashcost("whatif", *arguments, "--database", database)


def test_combinations_of_what_is_asked_for(inventory, tmp_path):
    done = asked(
        "--inventory", inventory, "--btc", "-20%", "--btc", "$100,000", "--power", "0.07", "--halving", "--json",
        database=tmp_path / "none.db",
    )  # fmt: skip
    data = json.loads(done.stdout)
    assert [(each["name"], each["prices"]["btc_usd"]) for each in data["scenarios"]] == [
        ("BTC -20%, power 0.07, halving", pytest.approx(74_296.0)),
        ("BTC $100,000, power 0.07, halving", 100_000.0),
    ]
    assert data["source"] == "the fixed numbers of the configuration"
    assert {each["prices"]["height"] for each in data["scenarios"]} == {927_000 + 210_000}


def test_without_an_agent_the_price_is_what_the_contract_makes_of_it(inventory, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[power]\nprice_usd_per_kwh = 0.05\nlosses = 0.1\nadder_usd_per_kwh = 0.01\n")
    done = asked("--inventory", inventory, "--json", "--config", config, database=tmp_path / "none.db")
    assert json.loads(done.stdout)["now"]["prices"]["price_usd_per_kwh"] == pytest.approx(0.065)


def test_without_options_the_usual_scenarios_in_words(inventory, tmp_path):
    done = asked("--inventory", inventory, database=tmp_path / "none.db")
    assert done.returncode == 0, done.stderr
    for said in ("BTC -30%", "difficulty +20%", "halving", "merit order", "under in days"):
        assert said in done.stdout


def test_the_agents_machines_and_prices(tmp_path):
    path = tmp_path / "hashcost.db"
    shown = stored_site(path, machine(1, reading()), machine(2, *[reading()] * 40, asleep()))
    data = json.loads(asked("--json", database=path).stdout)
    assert data["now"]["machines"] == 2
    assert data["now"]["running_usd_per_day"] == pytest.approx(sum(v.margin_usd_per_day for v in shown.views))
    assert data["at"].startswith("2026-02-01")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--power", "6"), "power '6': write USD/kWh; 6 cents are 0.06"),
        (("--difficulty", "155"), "149.3T"),
        (("--btc", "many"), "BTC 'many'"),
        (("--btc", "-120%"), "BTC '-120%'"),
        (("--growth", "nan"), "nan"),
        (
            tuple(f"--btc=+{n}%" for n in range(15)) + tuple(f"--fees=+{n}%" for n in range(15)),
            "more than 200",
        ),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(inventory, tmp_path, arguments, told):
    done = asked("--inventory", inventory, *arguments, database=tmp_path / "none.db")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_agent_an_inventory_is_asked_for(tmp_path):
    done = asked(database=tmp_path / "none.db")
    assert done.returncode == 2
    assert "no such database" in done.stderr
