"""One machine's physical side: transitions, books, run state."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.reading import PowerMode, RunState
from drivers.simulator.physics import Swing
from drivers.simulator.plant import Event, Nature, Plant

NATURE = Nature(
    hashrate_ths=104.0,
    power_w=3100.0,
    sleep_power_w=40.0,
    boards=3,
    swing=Swing(amplitude=0.009, peak_s=3_000.0),
    down_delay_s=4.0,
    down_s=20.0,
    power_up_s=100.0,
    hash_delay_s=80.0,
    hash_up_s=200.0,
    reboot_s=60.0,
)


def test_a_machine_starts_warmed_up_in_steady_state() -> None:
    plant = Plant(nature=NATURE)
    plant.advance(0.0)
    assert plant.run_state(0.0) is RunState.MINING
    assert plant.hashrate_ths(0.0) == 104.0
    assert plant.power_w(3_000.0) == pytest.approx(3100 * 1.009)
    assert plant.warmth(0.0) == 1.0


def test_sleep_ends_at_the_sleep_draw_and_wake_comes_back_in_minutes() -> None:
    plant = Plant(nature=NATURE)
    plant.sleep(100.0)
    assert plant.run_state(110.0) is RunState.RAMPING
    plant.advance(200.0)
    assert (plant.run_state(200.0), plant.hashrate_ths(200.0)) == (RunState.ASLEEP, 0.0)
    assert plant.power_w(200.0) == pytest.approx(40.0, rel=0.01)
    plant.wake(1_000.0)
    plant.advance(1_279.0)
    assert plant.run_state(1_279.0) is RunState.RAMPING
    assert 0 < plant.hashrate_ths(1_279.0) < 104.0
    assert plant.power_w(1_279.0) == pytest.approx(3100, rel=0.01), "power is there long before the hashrate"
    plant.advance(1_281.0)
    assert plant.run_state(1_281.0) is RunState.MINING


def test_a_restart_falls_and_rises_again_but_not_in_sleep() -> None:
    plant = Plant(nature=NATURE)
    plant.restart(0.0)
    plant.advance(28.0)
    assert plant.hashrate_ths(28.0) == 0.0
    plant.advance(700.0)
    assert plant.run_state(700.0) is RunState.MINING
    plant.sleep(700.0)
    plant.restart(800.0)
    plant.advance(2_000.0)
    assert plant.run_state(2_000.0) is RunState.ASLEEP


def test_a_reboot_takes_it_off_the_network_and_keeps_it_asleep_if_it_was() -> None:
    plant = Plant(nature=NATURE)
    plant.reboot(10.0)
    assert plant.offline_until_s == 70.0
    plant.advance(71.0)
    assert plant.run_state(71.0) is RunState.RAMPING
    plant.advance(400.0)
    assert plant.run_state(400.0) is RunState.MINING
    plant.sleep(400.0)
    plant.reboot(500.0)
    plant.advance(1_000.0)
    assert (plant.run_state(1_000.0), plant.hashrate_ths(1_000.0)) == (RunState.ASLEEP, 0.0)


def test_modes_limits_boards_and_work_set_the_target() -> None:
    plant = Plant(nature=NATURE)
    plant.mode = PowerMode.LOW
    plant.adjust(0.0, seconds=1.0)
    plant.advance(2.0)
    low = plant.hashrate_ths(2.0)
    assert 0.7 * 104 < low < 0.9 * 104
    plant.power_fraction = 0.5
    plant.adjust(10.0, seconds=1.0)
    plant.advance(12.0)
    assert low * 0.5 < plant.hashrate_ths(12.0) < low
    plant.dead_boards = 1
    plant.adjust(20.0, seconds=1.0)
    plant.advance(22.0)
    assert plant.hashrate_ths(22.0) == pytest.approx(low * 0.5**0.7 * 2 / 3)
    plant.has_work = False
    plant.restart(30.0)
    plant.advance(900.0)
    assert plant.run_state(900.0) is RunState.STOPPED


def test_a_limit_set_while_starting_does_not_cut_the_start_short() -> None:
    plant = Plant(nature=NATURE, asleep=False)
    plant.sleep(0.0)
    plant.wake(100.0)
    plant.power_fraction = 0.9
    plant.adjust(150.0, seconds=1.0)
    plant.advance(152.0)
    assert plant.hashrate_ths(152.0) == 0.0
    plant.advance(380.0)
    assert plant.hashrate_ths(380.0) == pytest.approx(104 * 0.9**0.7)


def test_what_is_scheduled_happens_without_anybody_asking_in_time() -> None:
    plant = Plant(nature=NATURE)
    plant.sleep(0.0)
    plant.later(1_000.0, Event.WAKE)
    plant.advance(50_000.0)
    assert plant.run_state(50_000.0) is RunState.MINING
    assert plant.started_s == 1_000.0


@given(
    st.lists(
        st.tuples(
            st.floats(1, 900),
            st.sampled_from(["sleep", "wake", "restart", "reboot", "low", "board", "nothing"]),
        ),
        max_size=12,
    ),
    st.integers(1, 60),
)
def test_the_books_equal_the_integral_of_the_curve(steps: list[tuple[float, str]], asks: int) -> None:
    """Booked lazily and in jumps, the books equal a fine numeric integration of what was shown on the way."""
    lazy, shown = Plant(nature=NATURE), Plant(nature=NATURE)
    energy_ws = hash_ths_s = at_s = 0.0
    for pause_s, action in [*steps, (600.0, "nothing")]:
        count = max(asks, round(pause_s / 0.25))
        for i in range(count):
            middle_s = at_s + (i + 0.5) * pause_s / count
            shown.advance(middle_s)
            energy_ws += shown.power_w(middle_s) * pause_s / count
            hash_ths_s += shown.hashrate_ths(middle_s) * pause_s / count
        at_s += pause_s
        for plant in (lazy, shown):
            _act(plant, at_s, action)
    lazy.advance(at_s)
    assert math.isclose(lazy.energy_kwh, energy_ws / 3.6e6, rel_tol=2e-3)
    assert math.isclose(lazy.hash_thh, hash_ths_s / 3600, rel_tol=2e-3)
    shown.advance(at_s)
    assert math.isclose(lazy.energy_kwh, shown.energy_kwh, rel_tol=1e-9)


def _act(plant: Plant, at_s: float, action: str) -> None:
    plant.advance(at_s)
    match action:
        case "sleep" | "restart" | "reboot":
            getattr(plant, action)(at_s)
        case "wake" if plant.asleep:
            plant.wake(at_s)
        case "low":
            plant.mode = PowerMode.LOW
            plant.restart(at_s)
        case "board":
            plant.dead_boards = 1
            plant.adjust(at_s, seconds=2.0)
