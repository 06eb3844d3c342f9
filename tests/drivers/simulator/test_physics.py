"""Curves and their integrals."""

import math
import statistics

from hypothesis import given
from hypothesis import strategies as st

from drivers.simulator.physics import DAY_S, Ramp, Swing, Warmth, noise

values = st.floats(0, 10_000)
moments = st.floats(-5_000, 200_000)


@given(
    before=values,
    after=values,
    start=moments,
    length=st.floats(0.5, 4_000),
    a=moments,
    span=st.floats(1, 90_000),
)
def test_the_integral_is_that_of_the_curve(
    before: float, after: float, start: float, length: float, a: float, span: float
) -> None:
    ramp = Ramp(before=before, after=after, start_s=start, end_s=start + length)
    swing = Swing(amplitude=0.01, peak_s=9_000.0)
    steps = 4_000
    width = span / steps
    middles = (a + (i + 0.5) * width for i in range(steps))
    numeric = sum(ramp.at(t) * swing.at(t) for t in middles) * width
    # midpoints err by at most one step's worth of jump at each kink
    assert math.isclose(ramp.integral(a, a + span, swing), numeric, rel_tol=1e-4, abs_tol=10_000 * width)


@given(start=moments, a=moments, first=st.floats(1, 9_000), second=st.floats(1, 9_000))
def test_integrals_add_up(start: float, a: float, first: float, second: float) -> None:
    ramp = Ramp(before=3_000.0, after=40.0, start_s=start, end_s=start + 30)
    swing = Swing(amplitude=0.009, peak_s=1.0)
    whole = ramp.integral(a, a + first + second, swing)
    parts = ramp.integral(a, a + first, swing) + ramp.integral(a + first, a + first + second, swing)
    assert math.isclose(whole, parts, rel_tol=1e-9, abs_tol=1e-3)


def test_a_ramp_goes_from_here_to_there() -> None:
    ramp = Ramp(before=10.0, after=20.0, start_s=100.0, end_s=110.0)
    assert [ramp.at(t) for t in (0, 100, 105, 110, 999)] == [10, 10, 15, 20, 20]


def test_a_day_of_swing_averages_out() -> None:
    swing = Swing(amplitude=0.02, peak_s=15 * 3600.0)
    assert math.isclose(swing.integral_of_line(100.0, 0.0, 0.0, DAY_S), 100.0 * DAY_S)
    assert swing.at(15 * 3600.0) == 1.02


def test_warmth_lags() -> None:
    warmth = Warmth(before=1.0, after=0.0, start_s=50.0, lag_s=90.0)
    assert warmth.at(50.0) == 1.0
    assert math.isclose(warmth.at(140.0), math.exp(-1))


def test_noise_is_a_function_of_seed_and_time_with_unit_variance() -> None:
    drawn = [noise(42, 5.0 * i, 5.0) for i in range(4_000)]
    assert drawn == [noise(42, 5.0 * i + 4.9, 5.0) for i in range(4_000)]
    assert drawn != [noise(43, 5.0 * i, 5.0) for i in range(4_000)]
    assert abs(statistics.mean(drawn)) < 0.06
    assert 0.95 < statistics.pstdev(drawn) < 1.05
