"""The mix of a simulated site."""

import random

import pytest

from drivers.reading import Family
from drivers.simulator.models import MODELS, fleet

BREAK_EVEN_J_PER_TH = 39.4 / (24 * 0.06)


def test_half_of_a_site_loses_money_at_todays_prices() -> None:
    models = fleet(1_000, random.Random(3))
    losing = sum(model.power_w / model.hashrate_ths > BREAK_EVEN_J_PER_TH for model in models)
    assert 450 < losing < 550


@pytest.mark.parametrize("machines", [3, 4, 10, 61])
def test_every_family_is_on_every_site(machines: int) -> None:
    models = fleet(machines, random.Random(machines))
    assert len(models) == machines
    assert {model.family for model in models} == set(Family) - {Family.GENERIC}


def test_weights_are_shares() -> None:
    models = fleet(10_000, random.Random(1))
    total = sum(model.weight for model in MODELS)
    for model in MODELS:
        assert models.count(model) == pytest.approx(10_000 * model.weight / total, abs=3)


def test_names_are_unique_and_one_machine_is_possible() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert len(fleet(1, random.Random(0))) == 1
