"""Every fault on every family, for sleep and wake: what the driver says is never more than what is true, and
`docs/fault-matrix.md` shows it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from drivers.reading import Family
from drivers.simulator.faults import Fault
from tests.drivers.fault_matrix import Cell, Key, collect, document, keys
from tests.loops import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "fault-matrix.md"
ANTMINER, V2, V3 = Family.ANTMINER, Family.WHATSMINER_V2, Family.WHATSMINER_V3

REFUSALS = {
    (Fault.REFUSES_WRITES, ANTMINER): "command_refused",
    (Fault.REFUSES_WRITES, V2): "command_refused",
    (Fault.REFUSES_WRITES, V3): "command_refused",
    (Fault.WRONG_PASSWORD, ANTMINER): "authentication_failed",
    (Fault.WRONG_PASSWORD, V2): "authentication_failed",
    (Fault.WRONG_PASSWORD, V3): "authentication_failed",
    (Fault.TOKEN_REJECTED, V2): "command_refused",
    (Fault.TOKEN_LIMIT, V2): "command_refused",
    (Fault.WRITES_CLOSED, V2): "command_refused",
    (Fault.WRITES_CLOSED, V3): "authentication_failed",
    (Fault.CONFIG_READ_FAILS, ANTMINER): "malformed",
}
"""Faults after which the machine certainly did nothing, by what the driver says."""


PHYSICS_S = {
    (ANTMINER, "sleep"): 180.0, (ANTMINER, "wake"): 900.0,
    (V2, "sleep"): 60.0, (V2, "wake"): 720.0,
    (V3, "sleep"): 60.0, (V3, "wake"): 720.0,
}  # fmt: skip
"""Within how many seconds a sound machine does what it is told (facts of the field)."""


pytestmark = pytest.mark.timeout(600)
"""The first test waits for the whole matrix."""


@pytest.fixture(scope="module")
def cells() -> Mapping[Key, Cell]:
    """The matrix, made once; on addresses that belong to this process alone."""
    pid = os.getpid()
    return run(collect(f"127.{110 + pid % 4}.{pid // 4 % 256}"))


@pytest.mark.parametrize("key", list(keys()), ids=lambda key: "-".join(str(part) for part in key))
def test_an_error_means_not_accepted_and_a_receipt_means_sent(cells, key) -> None:
    """And whatever happens, neither pools nor settings change, and no command is sent twice but for a machine
    that refused the first spelling or token."""
    cell = cells[key]
    fault, _, action = key
    if cell.raised:
        assert not cell.changed
        assert cell.in_time == ("mining" if action == "sleep" else "asleep")
    else:
        assert cell.received >= 1
    if cell.confirmed_s is not None:
        wanted = "asleep" if action == "sleep" else "mining"
        assert cell.in_time == wanted or fault is Fault.RIVAL_CONTROLLER
    assert cell.received <= (2 if fault in {Fault.WANTS_STRINGS, Fault.TOKEN_REJECTED} else 1)
    assert cell.kept


@pytest.mark.parametrize("family", [ANTMINER, V2, V3])
@pytest.mark.parametrize("fault", [None, Fault.SLOW_WRITE, Fault.APPLIES_SILENTLY])
def test_what_a_sound_or_late_machine_was_told_it_does(cells, fault, family) -> None:
    said = "ok" if fault is None else "silent"
    asleep, awake = cells[fault, family, "sleep"], cells[fault, family, "wake"]
    assert (asleep.outcome, asleep.in_time, asleep.later) == (said, "asleep", "asleep")
    assert (awake.outcome, awake.in_time, awake.later) == (said, "mining", "mining")
    assert asleep.confirmed_s <= PHYSICS_S[family, "sleep"]
    assert awake.confirmed_s <= PHYSICS_S[family, "wake"]


@pytest.mark.parametrize("family", [ANTMINER, V2, V3])
def test_a_machine_that_lies_is_never_confirmed(cells, family) -> None:
    for action in ("sleep", "wake"):
        cell = cells[Fault.OK_BUT_NOTHING, family, action]
        assert (cell.outcome, cell.confirmed_s, cell.changed) == ("ok", None, False)


@pytest.mark.parametrize("family", [ANTMINER, V2, V3])
def test_what_is_implausible_confirms_nothing_though_the_machine_obeys(cells, family) -> None:
    cell = cells[Fault.HASHRATE_X1000, family, "wake"]
    assert (cell.outcome, cell.confirmed_s, cell.in_time) == ("ok", None, "mining")


@pytest.mark.parametrize("fault", [Fault.WORK_MODE_KEY, Fault.BOTH_MODE_KEYS, Fault.WANTS_STRINGS])
def test_every_firmware_s_spelling_of_the_mode_is_understood(cells, fault) -> None:
    assert (cells[fault, ANTMINER, "sleep"].outcome, cells[fault, ANTMINER, "sleep"].in_time) == (
        "ok",
        "asleep",
    )
    assert (cells[fault, ANTMINER, "wake"].outcome, cells[fault, ANTMINER, "wake"].in_time) == (
        "ok",
        "mining",
    )


@pytest.mark.parametrize("fault_and_family", REFUSALS, ids="-".join)
def test_a_machine_that_does_not_take_it_is_named(cells, fault_and_family) -> None:
    fault, family = fault_and_family
    said = {cells[fault, family, action].outcome for action in ("sleep", "wake")}
    assert said == {REFUSALS[fault_and_family]}


def test_the_document_is_current(cells) -> None:
    found = document(cells)
    if os.environ.get("HASHCOST_WRITE_DOCS"):
        DOCUMENT.write_text(found)
    assert DOCUMENT.read_text() == found, "write it anew: HASHCOST_WRITE_DOCS=1 python -m pytest " + __file__
