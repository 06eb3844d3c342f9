"""Gates on readings, the choice of wattage, and the run state; all of it pure."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.catalogue import nameplate
from drivers.plausibility import judged
from drivers.power import power_truth
from drivers.reading import Board, PowerSource, Reading, RunState
from drivers.reads import run_state

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S19_PRO = nameplate("Antminer S19 Pro")
GOOD = Reading(
    began_at=NOW,
    ended_at=NOW,
    run_state=RunState.MINING,
    hashrate_ths=110.0,
    expected_hashrate_ths=110.0,
    power_w=3250.0,
    power_source=PowerSource.REPORTED,
    power_error=0.05,
    power_mode=None,
    boards=tuple(
        Board(slot=i, alive=True, hashrate_ths=36.7, chip_temp_c=70, board_temp_c=60) for i in range(3)
    ),
    inlet_temp_c=25.0,
)


def boards(**changes: float) -> tuple[Board, ...]:
    return (replace(GOOD.boards[0], **changes), *GOOD.boards[1:])


def test_a_good_reading_passes() -> None:
    assert judged(GOOD, S19_PRO).implausible is None
    assert judged(GOOD, None).implausible is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hashrate_ths": 110_000.0}, "hashrate 110000 TH/s, over 176"),
        ({"hashrate_ths": 177.0}, "over 176"),
        ({"power_w": 5300.0}, "power 5300 W, over 5200"),
        ({"power_w": 600.0}, "power 600 W at full hashrate, under 650"),
        ({"hashrate_ths": 0.11, "power_w": 3250.0}, "efficiency 2.95e+04 J/TH, outside 5 to 250"),
        ({"boards": boards(chip_temp_c=132.0)}, "board 0 chip temperature 132 degC, outside -40 to 120"),
        ({"boards": boards(chip_temp_c=-41.0)}, "board 0 chip temperature -41"),
        ({"boards": boards(board_temp_c=255.0)}, "board 0 board temperature 255"),
        ({"inlet_temp_c": 200.0}, "inlet temperature 200"),
        ({"power_w": float("nan")}, "power_w is nan"),
        ({"power_w": float("inf")}, "power_w is inf"),
        ({"hashrate_ths": -1.0}, "hashrate_ths is negative"),
        ({"boards": boards(hashrate_ths=-3.0)}, "board 0 hashrate_ths is negative"),
        ({"hashrate_ths": 37.0, "power_w": None}, "boards add up to 110.1 TH/s, the machine says 37"),
    ],
)
def test_what_cannot_be_is_named_and_kept(changes: dict[str, object], named: str) -> None:
    found = judged(replace(GOOD, **changes), S19_PRO)
    assert named in (found.implausible or "")
    for name, value in changes.items():
        assert getattr(found, name) is value


@pytest.mark.parametrize(
    "changes",
    [
        {"hashrate_ths": 175.0, "boards": ()},
        {"hashrate_ths": 73.4, "boards": (*GOOD.boards[:2], Board(slot=2, alive=False))},
        {"run_state": RunState.RAMPING, "hashrate_ths": 5.0},
        {"run_state": RunState.ASLEEP, "hashrate_ths": 0.0, "power_w": 40.0, "boards": ()},
        {"run_state": RunState.UNKNOWN, "hashrate_ths": None, "power_w": None, "boards": ()},
        {"inlet_temp_c": -15.0},
    ],
)
def test_unusual_is_not_impossible(changes: dict[str, object]) -> None:
    assert judged(replace(GOOD, **changes), S19_PRO).implausible is None


def test_the_machine_s_own_expectation_is_the_bound_where_there_is_no_nameplate() -> None:
    assert judged(replace(GOOD, hashrate_ths=180.0, boards=()), None).implausible
    unknown = replace(GOOD, expected_hashrate_ths=None, boards=(), power_w=None)
    assert judged(replace(unknown, hashrate_ths=900.0), None).implausible is None
    assert judged(replace(unknown, hashrate_ths=110_000.0), None).implausible


@given(
    st.floats(allow_nan=True) | st.none(),
    st.floats(allow_nan=True) | st.none(),
    st.floats(allow_nan=True) | st.none(),
)
def test_nothing_makes_the_gates_fail(
    hashrate: float | None, power: float | None, chip: float | None
) -> None:
    spoiled = tuple(replace(board, chip_temp_c=chip, hashrate_ths=hashrate) for board in GOOD.boards)
    found = judged(replace(GOOD, hashrate_ths=hashrate, power_w=power, boards=spoiled), S19_PRO)
    assert found.implausible is None or found.implausible


# -- watts ---------------------------------------------------------------------------------------------------


def test_reported_watts_come_first() -> None:
    found = power_truth(3310.0, 110.0, S19_PRO)
    assert (found.power_w, found.source, found.error) == (3310.0, PowerSource.REPORTED, 0.05)


@pytest.mark.parametrize("reported", [None, 0.0, -1.0])
def test_else_nameplate_efficiency_times_measured_hashrate(reported: float | None) -> None:
    found = power_truth(reported, 55.0, S19_PRO)
    assert (found.power_w, found.source, found.error) == (29.5 * 55.0, PowerSource.NAMEPLATE, 0.10)


@pytest.mark.parametrize(
    ("hashrate", "plate"), [(None, S19_PRO), (0.0, S19_PRO), (110.0, None), (110_000.0, S19_PRO)]
)
def test_else_unknown_and_never_zero(hashrate: float | None, plate: object) -> None:
    found = power_truth(None, hashrate, plate)  # type: ignore[arg-type]
    assert (found.power_w, found.source, found.error) == (None, PowerSource.UNKNOWN, None)


# -- run state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hashrate", "told", "uptime", "previous", "tuning", "state"),
    [
        (110.0, False, 90_000, None, False, RunState.MINING),
        (110.0, None, 90_000, None, False, RunState.MINING),
        (110.0, True, 90_000, None, False, RunState.RAMPING),  # it was told to sleep and winds down
        (0.0, True, 90_000, None, False, RunState.ASLEEP),
        (0.0, False, 90_000, None, False, RunState.STOPPED),
        (0.0, False, 30, None, False, RunState.RAMPING),
        (0.0, None, 90_000, None, False, RunState.UNKNOWN),
        (None, True, 90_000, None, False, RunState.UNKNOWN),
        (40.0, False, 300, None, False, RunState.RAMPING),
        (40.0, False, 90_000, None, False, RunState.MINING),  # a board is dead: this is all it does
        (40.0, False, None, 20.0, False, RunState.RAMPING),
        (40.0, False, None, 39.0, False, RunState.MINING),
        (110.0, False, 90_000, None, True, RunState.RAMPING),
    ],
)
def test_run_state_is_what_the_evidence_says(hashrate, told, uptime, previous, tuning, state) -> None:
    assert state is run_state(
        hashrate_ths=hashrate,
        expected_ths=110.0,
        told_to_sleep=told,
        uptime_s=uptime,
        ramp_s=900.0,
        previous_ths=previous,
        tuning=tuning,
    )
