"""The formulas against golden vectors, and the properties that must hold for any machine and market."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import economics
from agent.economics import OperatingPoint

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "economics_vectors.json").read_text())


@pytest.mark.parametrize(("height", "satoshi"), VECTORS["subsidy_sat"])
def test_subsidy(height, satoshi):
    assert economics.subsidy_sat(height) == satoshi
    assert economics.subsidy_btc(height) == satoshi / 1e8


def test_negative_height_is_refused():
    with pytest.raises(ValueError, match="-1"):
        economics.subsidy_sat(-1)


@pytest.mark.parametrize(("difficulty", "hashes_per_s"), VECTORS["network_hashrate_hs"])
def test_network_hashrate(difficulty, hashes_per_s):
    assert economics.network_hashrate_ths(difficulty) == pytest.approx(hashes_per_s / 1e12, rel=1e-12)


@pytest.mark.parametrize(("hashes_per_s", "difficulty"), VECTORS["difficulty_from_hs"])
def test_difficulty_of_a_network_hashrate(hashes_per_s, difficulty):
    assert economics.difficulty_of(hashes_per_s / 1e12) == pytest.approx(difficulty, rel=1e-12)


@pytest.mark.parametrize("vector", VECTORS["hashprice"], ids=lambda v: v["name"])
def test_hashprice(vector):
    inputs = {"difficulty": vector["D"], "subsidy_btc": vector["R"], "fees_btc": 0.0}
    in_btc = economics.hashprice_btc_per_ph_day(**inputs)
    in_usd = economics.hashprice_usd_per_ph_day(**inputs, btc_usd=vector["P"])
    assert in_btc == pytest.approx(vector["hp_btc"], rel=vector["rel_tol"])
    assert in_usd == pytest.approx(vector["hp_usd"], rel=vector["rel_tol"])
    if vector["published"] is not None:
        assert round(in_usd, 2) == vector["published"]


@pytest.mark.parametrize("vector", VECTORS["machine"], ids=lambda v: v["name"])
def test_machine(vector):
    machine = {"hashrate_ths": vector["ths"], "power_w": vector["watts"]}
    payout = {"fee": vector["fee"], "reject": vector["reject"]}
    hashprice = {"hashprice_usd_per_ph_day": vector["hashprice"]}
    energy = {"price_usd_per_kwh": vector["kwh"], "overhead": vector["pue"]}
    sleep = {"sleep_power_w": vector["sleep_w"]}
    efficiency = economics.efficiency_j_per_th(**machine)
    got = {
        "revenue_day": economics.revenue_usd_per_day(hashrate_ths=vector["ths"], **hashprice, **payout),
        "energy_day": economics.energy_cost_usd_per_day(power_w=vector["watts"], **energy),
        "decision_margin_day": economics.decision_margin_usd_per_day(
            **machine, **sleep, **hashprice, **energy, **payout
        ),
        "jth": efficiency,
        "hashcost": economics.hashcost_usd_per_ph_day(efficiency_j_per_th=efficiency, **energy),
        "breakeven_kwh": economics.strike_price_usd_per_kwh(
            **machine, **sleep, **hashprice, **payout, overhead=vector["pue"]
        ),
        "breakeven_hashprice": economics.breakeven_hashprice_usd_per_ph_day(
            **machine, **sleep, **energy, **payout
        ),
        "breakeven_jth": economics.breakeven_efficiency_j_per_th(**hashprice, **energy, **payout),
    }
    for name, value in got.items():
        assert value == (None if vector[name] is None else pytest.approx(vector[name], rel=1e-9)), name


DOWNCLOCK = VECTORS["downclock_s19jpro96"]
POINTS = [OperatingPoint(hashrate_ths=h, power_w=w) for h, w in DOWNCLOCK["points"]]
ASLEEP = OperatingPoint(hashrate_ths=0.0, power_w=DOWNCLOCK["sleep_w"])


@pytest.mark.parametrize(("price", "expected"), DOWNCLOCK["best"].items())
def test_best_point(price, expected):
    best = economics.best_point(
        POINTS,
        sleep_power_w=DOWNCLOCK["sleep_w"],
        hashprice_usd_per_ph_day=DOWNCLOCK["hashprice"],
        price_usd_per_kwh=float(price),
    )
    assert ("sleep" if best is None else f"{best.hashrate_ths:g}") == expected


def test_crossovers_and_marginal_efficiency():
    under, stock, over = POINTS
    crossover = {
        "stock=under": (under, stock),
        "under=sleep": (ASLEEP, under),
        "stock=sleep": (ASLEEP, stock),
    }
    for name, (lower, upper) in crossover.items():
        price = economics.crossover_price_usd_per_kwh(
            lower, upper, hashprice_usd_per_ph_day=DOWNCLOCK["hashprice"]
        )
        assert price == pytest.approx(DOWNCLOCK["crossover_kwh"][name], rel=1e-9), name
    steps = [economics.marginal_efficiency_j_per_th(a, b) for a, b in [(under, stock), (stock, over)]]
    assert steps == pytest.approx(DOWNCLOCK["marginal_jth"], rel=1e-9)
    assert economics.marginal_efficiency_j_per_th(under, under) is None


def test_units_identity():
    assert economics.hashcost_usd_per_ph_day(efficiency_j_per_th=1, price_usd_per_kwh=1) == 24


def test_days_to_halving_from_the_next_block():
    assert economics.days_to_halving(1_049_999) == pytest.approx(1 / 144)
    assert economics.days_to_halving(1_050_000) == pytest.approx(210_000 / 144)
    assert economics.days_to_halving(927_000) == pytest.approx(123_000 / 144)


def test_payback():
    assert economics.payback_days(machine_price_usd=3000.0, margin_usd_per_day=3.0) == 1000
    assert economics.payback_days(machine_price_usd=3000.0, margin_usd_per_day=0.0) is None
    assert economics.payback_days(machine_price_usd=3000.0, margin_usd_per_day=-1.0) is None
    assert economics.payback_days(machine_price_usd=None, margin_usd_per_day=1.0) is None


HASHRATE = st.floats(1, 1000)
POWER = st.floats(100, 10_000)
HASHPRICE = st.floats(1, 500)
PRICE = st.floats(-1, 1)
SHARE = st.floats(0, 0.5)
OVERHEAD = st.floats(0.5, 2)
MACHINES = st.fixed_dictionaries(
    {
        "hashrate_ths": HASHRATE,
        "power_w": POWER,
        "sleep_power_w": st.floats(0, 99),
        "hashprice_usd_per_ph_day": HASHPRICE,
        "price_usd_per_kwh": PRICE,
        "fee": SHARE,
        "reject": SHARE,
        "overhead": OVERHEAD,
    }
)


def without(inputs: dict[str, float], *names: str) -> dict[str, float]:
    return {name: value for name, value in inputs.items() if name not in names}


@given(MACHINES, st.floats(0.001, 1))
def test_margin_falls_with_the_power_price_and_rises_with_hashprice(inputs, step):
    here = economics.decision_margin_usd_per_day(**inputs)
    dearer = economics.decision_margin_usd_per_day(
        **{**inputs, "price_usd_per_kwh": inputs["price_usd_per_kwh"] + step}
    )
    richer = economics.decision_margin_usd_per_day(
        **{**inputs, "hashprice_usd_per_ph_day": inputs["hashprice_usd_per_ph_day"] + step}
    )
    assert dearer < here < richer


@given(MACHINES)
def test_decision_margin_is_zero_at_the_strike_price(inputs):
    strike = economics.strike_price_usd_per_kwh(**without(inputs, "price_usd_per_kwh"))
    at_strike = economics.decision_margin_usd_per_day(**{**inputs, "price_usd_per_kwh": strike})
    assert at_strike == pytest.approx(0, abs=1e-9 * (1 + inputs["hashprice_usd_per_ph_day"]))


@given(MACHINES)
def test_decision_margin_is_zero_at_the_breakeven_hashprice(inputs):
    breakeven = economics.breakeven_hashprice_usd_per_ph_day(**without(inputs, "hashprice_usd_per_ph_day"))
    at_breakeven = economics.decision_margin_usd_per_day(**{**inputs, "hashprice_usd_per_ph_day": breakeven})
    assert at_breakeven == pytest.approx(0, abs=1e-7)


@given(MACHINES)
def test_a_negative_price_pays_for_running(inputs):
    negative = {**inputs, "price_usd_per_kwh": -abs(inputs["price_usd_per_kwh"]) - 0.001}
    revenue = economics.revenue_usd_per_day(
        **{k: negative[k] for k in ("hashrate_ths", "hashprice_usd_per_ph_day", "fee", "reject")}
    )
    assert economics.decision_margin_usd_per_day(**negative) > revenue


UNKNOWABLE = [
    (economics.decision_margin_usd_per_day, ()),
    (economics.margin_usd_per_day, ("sleep_power_w",)),
    (economics.strike_price_usd_per_kwh, ("price_usd_per_kwh",)),
    (economics.breakeven_hashprice_usd_per_ph_day, ("hashprice_usd_per_ph_day",)),
]


@pytest.mark.parametrize(("function", "unused"), UNKNOWABLE, ids=lambda v: getattr(v, "__name__", ""))
@given(inputs=MACHINES)
def test_unknown_in_unknown_out(function, unused, inputs):
    used = without(inputs, *unused)
    assert function(**used) is not None
    for name in set(used) - {"fee", "reject", "overhead"}:
        assert function(**{**used, name: None}) is None, name


def test_unknown_hashprice_inputs_give_no_hashprice():
    known = {"difficulty": 149.3e12, "subsidy_btc": 3.125, "fees_btc": 0.0269, "btc_usd": 92_870.0}
    assert economics.hashprice_usd_per_ph_day(**known) == pytest.approx(39.44, abs=0.005)
    for name in known:
        assert economics.hashprice_usd_per_ph_day(**{**known, name: None}) is None


def test_sleep_that_saves_nothing_has_no_strike_price():
    assert (
        economics.strike_price_usd_per_kwh(
            hashrate_ths=100.0, power_w=30.0, sleep_power_w=30.0, hashprice_usd_per_ph_day=40.0
        )
        is None
    )
