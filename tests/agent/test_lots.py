"""Machines by the lot: what an inventory says, what a stored picture says, and how mistakes are told."""

from dataclasses import replace

import pytest

from agent.appraisal import Terms, appraise
from agent.lots import InventoryError, Lot, lots_of_csv, lots_of_views
from agent.market.quote import Market
from agent.store import Reader
from tests.agent.builders import (
    NOW,
    asleep,
    failure,
    hashprice_quote,
    identity,
    machine,
    market,
    point,
    reading,
    stored_site,
)


def read(tmp_path, text, terms=None):
    path = tmp_path / "fleet.csv"
    path.write_text(text)
    return lots_of_csv(path, terms or Terms())


def test_the_catalogue_fills_in_what_an_inventory_leaves_out(tmp_path):
    lots = read(tmp_path, "model,count\nAntminer S21,100\nAntminer S19j Pro,\n")
    assert [(lot.model, lot.count, lot.efficiency_j_per_th) for lot in lots] == [
        ("Antminer S21", 100, 17.5),
        ("Antminer S19j Pro", 1, 30.5),
    ]
    assert lots[0].power_kw == 350.0


def test_what_an_inventory_says_counts(tmp_path):
    text = "model,count,hashrate_ths,power_w,sleep_power_w,price_usd_per_kwh\nhome made,2,100,2000,12,0.03\n"
    (lot,) = read(tmp_path, text, Terms(fee=0.02))
    assert (lot.hashrate_ths, lot.power_w) == (100.0, 2000.0)
    assert lot.terms == Terms(fee=0.02, sleep_power_w=12.0, price_usd_per_kwh=0.03)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs the header"),
        ("name,count\nS21,1\n", "needs the header"),
        ("model,count,watts\nAntminer S21,1,3500\n", "unknown column 'watts'"),
        ("model,count\nAntminer S21,x\n", "line 2: count is 'x', which is no number"),
        ("model,count\nAntminer S21,1.5\n", "line 2: count is 1.5"),
        ("model,count\nAntminer S21,0\n", "line 2: count is 0, outside of 1"),
        ("model,count\nAntminer S21,1\n,3\n", "line 3: model is empty"),
        ("model,count\nmystery,3\n", "line 2: mystery is not in the catalogue"),
        ("model,count,power_w\nAntminer S21,1,nan\n", "line 2: power_w is nan"),
        ("model,count,price_usd_per_kwh\nAntminer S21,1,6\n", "line 2: price_usd_per_kwh is 6, outside"),
        ("model,count\nAntminer S21,900000\nAntminer S21,900000\n", "more than 1,000,000 machines"),
    ],
)
def test_what_is_wrong_with_an_inventory_is_told_with_its_place(tmp_path, text, told):
    with pytest.raises(InventoryError, match=told):
        read(tmp_path, text)


def test_an_inventory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InventoryError, match="nowhere"):
        lots_of_csv(tmp_path / "nowhere.csv", Terms())


def test_a_lot_is_worth_what_the_appraisal_says():
    terms = Terms(fee=0.02, reject=0.01, overhead=1.1, sleep_power_w=30.0)
    lot = Lot(model="S21", count=3, hashrate_ths=200.0, power_w=3500.0, terms=terms)
    one = appraise(point(200.0, 3500.0), market(0.06), terms)
    hashprice = market().hashprice_usd_per_ph_day
    assert lot.paid_phs * hashprice == pytest.approx(3 * one.revenue_usd_per_day)
    assert lot.energy_kwh_per_day * 0.06 == pytest.approx(3 * one.energy_cost_usd_per_day)
    worth = lot.paid_phs * hashprice - lot.avoidable_kwh_per_day * 0.06
    assert worth == pytest.approx(3 * one.decision_margin_usd_per_day)


def stored_lots(path, *machines, **changes):
    stored_site(path, *machines, **changes)
    with Reader(path) as reader:
        in_market, _ = reader.conditions()
        return lots_of_views(reader.latest(), in_market, reader.terms())


def test_stored_machines_are_lots_of_what_they_do_while_they_run(tmp_path):
    sleeper = machine(2, *[reading()] * 40, asleep())
    terms = Terms(fee=0.02, overhead=1.05, sleep_power_w=25.0)
    lots, unknown = stored_lots(
        tmp_path / "a.db", machine(1, reading()), sleeper, machine(3, failure()), terms=terms
    )
    assert unknown == 1
    for lot in lots:
        assert (lot.hashrate_ths, lot.power_w) == (pytest.approx(200.0), pytest.approx(3500.0))
        assert (lot.terms.fee, lot.terms.overhead, lot.terms.sleep_power_w) == (0.02, 1.05, 25.0)
    assert len(lots) == 2


def test_implausible_machines_are_unknown(tmp_path):
    odd = machine(1, reading(power_w=90_000.0, implausible="power 90000 W"))
    lots, unknown = stored_lots(tmp_path / "a.db", odd, machine(2, reading()))
    assert (len(lots), unknown) == (1, 1)


def test_without_a_hashprice_only_mining_machines_are_known(tmp_path):
    sleeper = machine(2, *[reading()] * 40, asleep())
    in_market = Market(at=NOW, hashprice=None, power=market().power)
    lots, unknown = stored_lots(tmp_path / "a.db", machine(1, reading()), sleeper, market=in_market)
    assert (len(lots), unknown) == (1, 1)


def test_a_credit_is_found_in_the_decision_margin(tmp_path):
    lots, _ = stored_lots(tmp_path / "a.db", machine(1, reading()), terms=Terms(credit_usd_per_kwh=0.02))
    assert lots[0].terms.credit_usd_per_kwh == pytest.approx(0.02)
    lots, _ = stored_lots(tmp_path / "b.db", machine(1, reading()))
    assert lots[0].terms.credit_usd_per_kwh == 0.0


def test_models_differ_by_machine(tmp_path):
    other = machine(2, reading(), identity=replace(identity(2), model="Antminer S19"))
    lots, _ = stored_lots(
        tmp_path / "a.db",
        machine(1, reading()),
        other,
        market=market(hashprice=hashprice_quote(btc_usd=50_000.0)),
    )
    assert {lot.model for lot in lots} == {"Antminer S21", "Antminer S19"}
