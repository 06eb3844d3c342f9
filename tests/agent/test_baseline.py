"""What a machine did when it ran: medians per power mode, thrown away when they stop being true."""

from datetime import timedelta
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Basis, Terms
from agent.baseline import SAMPLES_KEPT, SAMPLES_NEEDED, Baselines
from agent.store import Store
from drivers.reading import PowerMode, PowerSource, RunState
from tests.agent.builders import NOW, asleep, boards, machine, reading


def settled(*extra, **changes):
    baselines = Baselines()
    for each in [reading(**changes)] * SAMPLES_NEEDED + list(extra):
        baselines.observe(each)
    return baselines


def test_a_baseline_needs_thirty_samples():
    assert SAMPLES_NEEDED == 30
    baselines = Baselines()
    for _ in range(29):
        baselines.observe(reading())
    assert baselines.latest is None
    baselines.observe(reading())
    assert (baselines.latest.hashrate_ths, baselines.latest.power_w) == (200.0, 3500.0)


def test_a_baseline_carries_its_age_and_the_error_of_its_watts():
    later = NOW + timedelta(hours=1)
    baseline = settled(reading(began_at=later, power_error=0.1)).latest
    assert baseline.as_of == later
    assert baseline.power_error == 0.1


@given(st.lists(st.floats(1, 300), min_size=SAMPLES_NEEDED, max_size=3 * SAMPLES_NEEDED))
def test_a_baseline_is_the_median_of_the_last_samples(hashrates):
    baselines = Baselines()
    for hashrate in hashrates:
        baselines.observe(reading(hashrate_ths=hashrate, power_w=hashrate * 20))
    kept = hashrates[-SAMPLES_KEPT:]
    assert baselines.latest.hashrate_ths == median(kept)
    assert baselines.latest.power_w == median(hashrate * 20 for hashrate in kept)


def test_power_modes_have_baselines_of_their_own():
    low = reading(power_mode=PowerMode.LOW, hashrate_ths=120.0, power_w=1800.0)
    baselines = settled(*[low] * SAMPLES_NEEDED)
    assert {each.power_mode: each.hashrate_ths for each in baselines.all()} == {
        PowerMode.NORMAL: 200.0,
        PowerMode.LOW: 120.0,
    }


def test_the_baseline_of_the_mode_last_mined_in_counts():
    low = reading(power_mode=PowerMode.LOW, hashrate_ths=120.0)
    baselines = settled(*[low] * SAMPLES_NEEDED)
    assert baselines.latest.power_mode is PowerMode.LOW
    baselines.observe(reading())
    assert baselines.latest.power_mode is PowerMode.NORMAL


def test_a_mode_without_samples_enough_does_not_borrow_the_other_modes_baseline():
    assert settled(reading(power_mode=PowerMode.LOW, hashrate_ths=120.0)).latest is None


@pytest.mark.parametrize(
    "change",
    [
        {"firmware": "2025.7"},
        {"boards": boards(2)},
        {"boards": boards(3, dead=1)},
        {"boards": boards(3, dead=1), "power_w": None, "power_source": PowerSource.UNKNOWN},
        {"power_source": PowerSource.NAMEPLATE},
    ],
    ids=["firmware", "board gone", "board dead", "board dead, watts unknown", "power source"],
)
def test_a_change_of_conditions_throws_the_baseline_away(change):
    baselines = settled(reading(**change))
    assert baselines.latest is None
    assert baselines.all() == []


def test_after_a_change_the_old_samples_do_not_count():
    new = reading(firmware="2025.7", hashrate_ths=180.0)
    baselines = settled(*[new] * (SAMPLES_NEEDED - 1))
    assert baselines.latest is None
    baselines.observe(new)
    assert baselines.latest.hashrate_ths == 180.0


def test_a_machine_with_a_dead_board_has_no_baseline():
    assert settled(boards=boards(3, dead=1)).latest is None


def test_after_a_dead_board_is_back_the_samples_before_do_not_count():
    baselines = settled(reading(boards=boards(3, dead=1)), *[reading()] * (SAMPLES_NEEDED - 1))
    assert baselines.latest is None
    baselines.observe(reading())
    assert baselines.latest is not None


@pytest.mark.parametrize(
    "change",
    [
        {"boards": ()},
        {"power_w": None, "power_source": PowerSource.UNKNOWN},
        {"implausible": "a unit bug", "boards": boards(2)},
        {"run_state": RunState.RAMPING, "boards": ()},
        {"run_state": RunState.STOPPED, "boards": boards(3, dead=3)},
    ],
    ids=str,
)
def test_what_a_reading_does_not_tell_throws_no_baseline_away(change):
    before = settled().latest
    assert settled(*[reading(**change)] * 100).latest == before


def test_a_machine_that_never_tells_its_boards_has_a_baseline_all_the_same():
    assert settled(boards=()).latest.conditions.boards_alive == 0


def test_once_boards_were_told_readings_without_them_feed_no_baseline():
    unknown = [reading(boards=())] * SAMPLES_NEEDED
    baselines = Baselines()
    for each in [reading(), *unknown]:
        baselines.observe(each)
    assert baselines.latest is None


@pytest.mark.parametrize(
    "change",
    [
        {"run_state": RunState.RAMPING},
        {"run_state": RunState.ASLEEP},
        {"run_state": RunState.STOPPED},
        {"run_state": RunState.UNKNOWN},
        {"implausible": "power 9000 W"},
        {"hashrate_ths": None},
        {"power_w": None},
    ],
    ids=str,
)
def test_what_is_not_steady_mining_feeds_no_baseline(change):
    assert settled(**change).latest is None
    before = settled().latest
    assert settled(*[reading(**({"hashrate_ths": 1.0} | change))] * 100).latest == before


def test_a_baseline_survives_a_sleep_and_gives_the_margin_while_asleep():
    slept = machine(1, *[reading(hashrate_ths=190.0, power_w=3300.0)] * SAMPLES_NEEDED, *[asleep()] * 200)
    point = slept.running_point()
    assert point.basis is Basis.BASELINE
    assert (point.hashrate_ths, point.power_w) == (190.0, 3300.0)
    assert point.power_source is PowerSource.REPORTED


def restarted(path, before):
    """The machine as the agent has it after a restart."""
    with Store(path) as store:
        store.save_machines([before], Terms())
        store.save_baselines([before])
    with Store(path) as store:
        (after,) = store.load_machines()
    return after


@pytest.mark.parametrize("mode", [PowerMode.LOW, None], ids=str)
def test_a_baseline_survives_a_restart(tmp_path, mode):
    before = machine(1, *[reading(power_mode=mode)] * SAMPLES_NEEDED)
    after = restarted(tmp_path / "db", before)
    assert after.baselines.all() == before.baselines.all()
    after.apply(asleep())
    assert after.running_point().basis is Basis.BASELINE


def test_of_several_modes_the_last_one_counts_after_a_restart(tmp_path):
    low = reading(power_mode=PowerMode.LOW, hashrate_ths=120.0, began_at=NOW + timedelta(hours=1))
    before = machine(1, *[reading()] * SAMPLES_NEEDED, *[low] * SAMPLES_NEEDED)
    assert restarted(tmp_path / "db", before).baselines.latest.power_mode is PowerMode.LOW


def test_a_baseline_that_was_thrown_away_does_not_come_back_with_a_restart(tmp_path):
    before = machine(1, *[reading()] * SAMPLES_NEEDED)
    restarted(tmp_path / "db", before)
    before.apply(reading(firmware="2025.7"))
    assert restarted(tmp_path / "db", before).baselines.all() == []


def test_a_restored_baseline_is_thrown_away_when_the_conditions_have_changed(tmp_path):
    after = restarted(tmp_path / "db", machine(1, *[reading()] * SAMPLES_NEEDED))
    after.apply(reading(firmware="2025.7"))
    assert after.baselines.latest is None
