"""What the policy reaches on real histories, which are no part of the project: HASHCOST_HISTORIES names a directory
with `power_*.csv` and `hashprice_daily.csv` (docs/explanation.md). Without it there is nothing to test."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.appraisal import Terms
from agent.backtest.comparison import compare, overlap
from agent.backtest.series import hashprice_history, power_history
from agent.curtailment import CurtailmentPolicy
from agent.lots import Lot

HISTORIES = os.environ.get("HASHCOST_HISTORIES")
HELD_OUT_FROM = datetime(2024, 11, 1, tzinfo=UTC)
"""The months before are what the rule was chosen on."""
pytestmark = pytest.mark.skipif(HISTORIES is None, reason="HASHCOST_HISTORIES names no directory")


@pytest.fixture(
    scope="module", params=[(100, 100, 100, 100), (200, 140, 100, 95), (200, 200, 100, 100)], ids=str
)
def comparison(request):
    """Four machines of so many TH/s, 0.015 USD a cycle, 40 W asleep, hashprice of the day before."""
    directory = Path(HISTORIES or "")
    past = overlap(
        power_history(next(directory.glob("power_*.csv"))),
        hashprice_history(directory / "hashprice_daily.csv"),
        HELD_OUT_FROM,
        None,
    )
    lots = [
        Lot(model=f"{j}", count=1, hashrate_ths=ths, power_w=ths * j, terms=Terms(sleep_power_w=40.0))
        for j, ths in zip((17.5, 21.5, 29.5, 34.0), request.param, strict=True)
    ]
    policy = CurtailmentPolicy(switching_cost_usd=0.015)
    return compare(past, lots, {"agent": policy}, delay_min=0.0, delays_min=(0.0, 5.0, 10.0, 15.0))


def lines(of):
    return {line.policy: line for line in of.lines}


def test_the_share_of_the_clairvoyant_and_the_cycles(comparison):
    found = lines(comparison)
    assert found["agent"].share >= 0.985
    assert found["agent"].share >= found["naive"].share
    assert found["agent"].result.cycles <= 0.7 * found["naive"].result.cycles


def test_up_to_one_interval_late_it_gains_more_than_the_naive_rule_with_fewer_cycles(comparison):
    for delay in comparison.delays:
        found = lines(delay)
        assert found["agent"].result.gain_usd > found["naive"].result.gain_usd
        assert found["agent"].result.cycles <= 0.81 * found["naive"].result.cycles


def test_delay_costs_more_than_the_rule(comparison):
    found = lines(comparison)
    missing = found["clairvoyant"].result.gain_usd - found["agent"].result.gain_usd
    assert comparison.usd_per_five_minutes("agent") > missing
