"""Energy and money over time: weighted by time, gaps left as gaps, and any split adds up to the whole."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ledger import EXTREMES, MS_PER_HOUR, Sums, add_up
from drivers.reading import PowerSource, RunState
from tests.agent.builders import row

HOUR = MS_PER_HOUR
SLEEP_W = 40.0
ADDITIVE = [
    name
    for name, field in Sums.__dataclass_fields__.items()
    if name not in {"start_ms", "end_ms", "power_source", *EXTREMES}
]
"""Every sum: whatever is added to `Sums` must add up too."""

STEP = 60_000
END = 240
"""Times of the properties are whole minutes of four hours, so that a model can walk through them."""


@st.composite
def rows(draw):
    """What a machine may have said over four hours, oldest first, with failures, gaps and changing prices."""
    moments = sorted(draw(st.sets(st.integers(-60, END + 30), max_size=15)))
    return [
        row(
            began_ms=moment * STEP,
            valid_ms=draw(st.integers(1, 90)) * STEP,
            run_state=draw(st.sampled_from(RunState)),
            implausible=draw(st.sampled_from([None, None, None, "power 9000 W"])),
            hashrate_ths=draw(st.none() | st.floats(0, 300)),
            power_w=draw(st.none() | st.floats(0, 5000)),
            power_source=draw(st.sampled_from(PowerSource)),
            ours=draw(st.booleans()),
            decision_margin_usd_per_day=draw(st.none() | st.floats(-50, 50)),
            hashprice_usd_per_ph_day=draw(st.none() | st.floats(1, 100)),
            price_usd_per_kwh=draw(st.none() | st.floats(-0.5, 0.9)),
            fee=draw(st.floats(0, 0.4)),
            reject=draw(st.floats(0, 0.4)),
            overhead=draw(st.floats(0.5, 3)),
        )
        for moment in moments
    ]


def summed(readings, start_ms=0, end_ms=HOUR):
    return add_up(readings, start_ms, end_ms, sleep_power_w=SLEEP_W)


def by_walking(readings, start_min, end_min):
    """The same minute by minute: (mining, asleep, unknown hours, kWh, PH-days, revenue, cost)."""
    mining = asleep = kwh = phd = revenue = cost = 0.0
    for minute in range(start_min, end_min):
        before = [each for each in readings if each.began_ms <= minute * STEP]
        now = before[-1] if before and minute * STEP < before[-1].began_ms + before[-1].valid_ms else None
        if now is None or now.implausible is not None or now.run_state is RunState.UNKNOWN:
            continue
        still = now.run_state in {RunState.ASLEEP, RunState.STOPPED}
        power_w = SLEEP_W if now.power_w is None and now.run_state is RunState.ASLEEP else now.power_w
        hashrate_ths = 0.0 if still else now.hashrate_ths
        if power_w is None or hashrate_ths is None:
            continue
        mining, asleep = mining + (not still) / 60, asleep + still / 60
        kwh += power_w / 1000 / 60
        phd += hashrate_ths / 1000 / 1440
        if now.hashprice_usd_per_ph_day is not None and now.price_usd_per_kwh is not None:
            payout = (1 - now.fee) * (1 - now.reject)
            revenue += hashrate_ths / 1000 / 1440 * now.hashprice_usd_per_ph_day * payout
            cost += power_w / 1000 / 60 * now.price_usd_per_kwh * now.overhead
    unknown = (end_min - start_min) / 60 - mining - asleep
    return mining, asleep, unknown, kwh, phd, revenue, cost


def test_a_full_hour_of_mining():
    sums = summed([row(valid_ms=HOUR)])
    assert (sums.mining_h, sums.asleep_h, sums.unknown_h) == (1.0, 0.0, 0.0)
    assert sums.energy_kwh == pytest.approx(3.5)
    assert sums.avoidable_kwh == pytest.approx(3.46)
    assert sums.hash_phd == pytest.approx(0.2 / 24)
    assert sums.revenue_usd == pytest.approx(0.2 / 24 * 40)
    assert sums.energy_cost_usd == pytest.approx(0.21)


def test_fees_and_rejects_reduce_revenue_and_overhead_raises_cost():
    sums = summed([row(valid_ms=HOUR, fee=0.02, reject=0.01, overhead=1.1)])
    assert sums.revenue_usd == pytest.approx(0.2 / 24 * 40 * 0.98 * 0.99)
    assert sums.energy_cost_usd == pytest.approx(0.21 * 1.1)


def test_readings_are_weighted_by_time_and_not_by_number():
    a_quarter_and_three = [row(0, HOUR, power_w=4000.0), row(HOUR // 4, HOUR, power_w=2000.0)]
    assert summed(a_quarter_and_three).energy_kwh == pytest.approx(0.25 * 4 + 0.75 * 2)


def test_a_reading_stands_until_the_next_one_although_it_is_valid_longer():
    overlapping = [row(0, 10 * HOUR, power_w=4000.0), row(HOUR // 2, 10 * HOUR, power_w=2000.0)]
    assert summed(overlapping).energy_kwh == pytest.approx(3.0)
    assert summed(overlapping).mining_h == 1.0


def test_after_its_validity_a_reading_says_nothing():
    sums = summed([row(0, HOUR // 4)])
    assert (sums.mining_h, sums.unknown_h) == (0.25, 0.75)
    assert sums.energy_kwh == pytest.approx(3.5 / 4)


def test_a_reading_from_before_the_period_counts_inside_it():
    sums = summed([row(-HOUR // 2, HOUR)])
    assert (sums.mining_h, sums.unknown_h) == (0.5, 0.5)


def test_a_reading_after_the_period_does_not_count():
    assert summed([row(HOUR, HOUR)]).unknown_h == 1.0


def test_without_readings_everything_is_unknown_and_no_source_is_claimed():
    sums = summed([])
    assert sums.unknown_h == 1.0
    assert sums.power_source is None
    assert all(getattr(sums, name) == 0 for name in ADDITIVE if name != "unknown_h")


@pytest.mark.parametrize(
    "change",
    [
        {"run_state": RunState.UNKNOWN, "hashrate_ths": None, "power_w": None},
        {"implausible": "power 90000 W"},
        {"power_w": None},
        {"hashrate_ths": None},
        {"run_state": RunState.STOPPED, "power_w": None},
        {"run_state": RunState.UNKNOWN},
    ],
    ids=["failed", "implausible", "no watts", "no hashrate", "stopped without watts", "no state"],
)
def test_what_cannot_be_used_is_unknown_time_and_adds_nothing(change):
    sums = summed([row(valid_ms=HOUR, **change)])
    assert sums.unknown_h == 1.0
    assert all(getattr(sums, name) == 0 for name in ADDITIVE if name != "unknown_h")


def test_a_failed_read_ends_the_reading_before_it():
    failed = row(HOUR // 2, HOUR, run_state=RunState.UNKNOWN, hashrate_ths=None, power_w=None)
    sums = summed([row(0, HOUR), failed])
    assert (sums.mining_h, sums.unknown_h) == (0.5, 0.5)


def test_a_sleeping_machine_costs_what_it_says_it_draws():
    sums = summed([row(valid_ms=HOUR, run_state=RunState.ASLEEP, hashrate_ths=0.0, power_w=25.0)])
    assert (sums.asleep_h, sums.mining_h) == (1.0, 0.0)
    assert sums.energy_kwh == pytest.approx(0.025)
    assert sums.energy_cost_usd == pytest.approx(0.025 * 0.06)
    assert sums.avoidable_kwh == 0
    assert sums.power_source is PowerSource.REPORTED


def test_a_sleeping_machine_that_does_not_say_is_reckoned_at_the_configured_draw():
    silent = row(
        valid_ms=HOUR,
        run_state=RunState.ASLEEP,
        hashrate_ths=None,
        power_w=None,
        power_source=PowerSource.UNKNOWN,
    )
    sums = summed([silent])
    assert sums.asleep_h == 1.0
    assert sums.energy_kwh == pytest.approx(SLEEP_W / 1000)
    assert sums.power_source is PowerSource.CUSTOM


def test_a_sleeping_machine_earns_nothing_whatever_it_claims_to_hash():
    sums = summed([row(valid_ms=HOUR, run_state=RunState.ASLEEP, hashrate_ths=200.0)])
    assert (sums.hash_phd, sums.revenue_usd) == (0, 0)


def test_a_ramping_machine_counts_as_mining():
    assert summed([row(valid_ms=HOUR, run_state=RunState.RAMPING)]).mining_h == 1.0


def test_a_negative_price_pays_for_running():
    assert summed([row(valid_ms=HOUR, price_usd_per_kwh=-0.1)]).energy_cost_usd == pytest.approx(-0.35)


@pytest.mark.parametrize("unknown", ["hashprice_usd_per_ph_day", "price_usd_per_kwh"])
def test_without_a_price_there_is_energy_and_no_money(unknown):
    sums = summed([row(valid_ms=HOUR, **{unknown: None})])
    assert sums.energy_kwh == pytest.approx(3.5)
    assert (sums.priced_h, sums.revenue_usd, sums.energy_cost_usd) == (0, 0, 0)


def test_the_worst_source_of_watts_is_the_one_that_is_named():
    sources = [PowerSource.METERED, PowerSource.NAMEPLATE, PowerSource.REPORTED]
    readings = [
        row(index * HOUR // 3, HOUR // 3, power_source=source) for index, source in enumerate(sources)
    ]
    assert summed(readings).power_source is PowerSource.NAMEPLATE
    assert summed(readings[:1]).power_source is PowerSource.METERED


def test_two_readings_of_the_same_moment_are_not_counted_twice():
    sums = summed([row(0, HOUR), row(0, HOUR)])
    assert sums.mining_h == 1.0
    assert sums.energy_kwh == pytest.approx(3.5)


def ours(margin, **changes):
    """An hour asleep on our order, awake worth `margin` USD/day."""
    return row(
        **{
            "valid_ms": HOUR,
            "run_state": RunState.ASLEEP,
            "power_w": 25.0,
            "ours": True,
            "decision_margin_usd_per_day": margin,
        }
        | changes
    )


@pytest.mark.parametrize(
    ("margin", "avoided", "forgone"), [(-24.0, 1.0, 0.0), (24.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
)
def test_sleep_on_our_order_avoids_losses_and_forgoes_profits(margin, avoided, forgone):
    sums = summed([ours(margin)])
    assert (sums.avoided_loss_usd, sums.forgone_profit_usd) == pytest.approx((avoided, forgone))


def test_losses_avoided_and_profits_forgone_are_not_set_off_against_each_other():
    readings = [ours(-24.0, valid_ms=HOUR // 2), ours(48.0, began_ms=HOUR // 2)]
    sums = summed(readings)
    assert (sums.avoided_loss_usd, sums.forgone_profit_usd) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"ours": False},
        {"run_state": RunState.MINING},
        {"run_state": RunState.RAMPING},
        {"run_state": RunState.STOPPED},
        {"run_state": RunState.UNKNOWN},
        {"decision_margin_usd_per_day": None},
        {"implausible": "power 9000 W"},
    ],
    ids=str,
)
def test_anything_else_avoids_nothing_and_forgoes_nothing(change):
    sums = summed([ours(-24.0, **change)])
    assert (sums.avoided_loss_usd, sums.forgone_profit_usd) == (0.0, 0.0)


def test_what_was_avoided_is_for_the_time_that_a_reading_stands_for():
    assert summed([ours(-24.0, valid_ms=HOUR // 4)]).avoided_loss_usd == pytest.approx(0.25)


@given(rows())
def test_the_sums_are_what_walking_through_every_minute_gives(readings):
    sums = summed(readings, 0, END * STEP)
    got = (
        sums.mining_h, sums.asleep_h, sums.unknown_h,
        sums.energy_kwh, sums.hash_phd, sums.revenue_usd, sums.energy_cost_usd,
    )  # fmt: skip
    assert got == pytest.approx(by_walking(readings, 0, END), rel=1e-9, abs=1e-9)


@given(rows(), st.integers(0, END - 1), st.integers(1, END))
def test_hours_add_up_to_the_period(readings, start, length):
    sums = summed(readings, start * STEP, (start + length) * STEP)
    assert sums.mining_h + sums.asleep_h + sums.unknown_h == pytest.approx(length / 60, abs=1e-12)
    assert min(sums.mining_h, sums.asleep_h, sums.unknown_h) >= 0


@given(rows(), st.sets(st.integers(1, END - 1), max_size=8))
def test_parts_of_a_range_add_up_to_the_whole(readings, cuts):
    whole = summed(readings, 0, END * STEP)
    edges = [0, *sorted(cuts), END]
    parts = [summed(readings, since * STEP, until * STEP) for since, until in pairwise(edges)]
    for name in ADDITIVE:
        total = math.fsum(getattr(part, name) for part in parts)
        assert total == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9), name


@given(rows(), st.sets(st.integers(1, END - 1), max_size=8))
def test_the_extremes_of_parts_are_those_of_the_whole_and_hold_its_mean(readings, cuts):
    whole, parts = summed(readings, 0, END * STEP), Sums(start_ms=0, end_ms=END * STEP)
    for since, until in pairwise([0, *sorted(cuts), END]):
        parts.add(summed(readings, since * STEP, until * STEP))
    assert {name: getattr(parts, name) for name in EXTREMES} == {n: getattr(whole, n) for n in EXTREMES}
    if whole.known_h:
        mean_w = whole.energy_kwh * 1000 / whole.known_h
        assert whole.least_power_w - 1e-6 <= mean_w <= whole.most_power_w + 1e-6


def test_extremes_are_of_what_counts():
    readings = [
        row(0, HOUR, power_w=3000.0, hashrate_ths=90.0, chip_temp_c=70.0),
        row(HOUR // 4, HOUR, power_w=3400.0, hashrate_ths=110.0, chip_temp_c=None),
        row(HOUR // 2, HOUR, power_w=90_000.0, implausible="power 90000 W"),
        row(HOUR * 3 // 4, HOUR, power_w=30.0, hashrate_ths=5.0, run_state=RunState.ASLEEP, chip_temp_c=40.0),
    ]
    sums = summed(readings)
    assert [getattr(sums, name) for name in EXTREMES] == [0.0, 110.0, 30.0, 3400.0, 40.0, 70.0]


@given(rows(), st.integers(0, END // 2), st.integers(END // 2 + 1, END))
def test_readings_that_say_nothing_about_a_period_can_be_left_out(readings, start, end):
    relevant = [each for each in readings if each.began_ms < end * STEP]
    assert summed(relevant, start * STEP, end * STEP) == summed(readings, start * STEP, end * STEP)
