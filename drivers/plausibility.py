"""Gates on a reading: numbers that physics or the nameplate forbid are kept, and flagged with the reason."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from drivers.catalogue import MAX_OF_NAMEPLATE, Nameplate
from drivers.reading import PowerSource, Reading, RunState

MIN_POWER_OF_NAMEPLATE = 0.2
FULL_RATE = 0.8
MAX_HASHRATE_THS = 2_000.0
"""No machine on the market comes near; for machines whose nameplate is unknown."""
EFFICIENCY_J_PER_TH = (5.0, 250.0)
CHIP_TEMP_C = (-40.0, 120.0)
INLET_TEMP_C = (-50.0, 90.0)
BOARD_SUM_TOLERANCE = 0.3

Gate = Callable[[Reading, Nameplate | None], str | None]


def judged(reading: Reading, plate: Nameplate | None) -> Reading:
    """The reading, with `implausible` naming every number that is out of bounds; as it is if all are within."""
    reasons = [reason for gate in _GATES if (reason := gate(reading, plate))]
    return replace(reading, implausible="; ".join(reasons)) if reasons else reading


def _finite(reading: Reading, _: Nameplate | None) -> str | None:
    for slot, what, value in _numbers(reading):
        if value is None or 0 <= value < math.inf:
            continue
        name = what if slot is None else f"board {slot} {what}"
        if not math.isfinite(value):
            return f"{name} is {value}"
        if not what.endswith("temp_c"):
            return f"{name} is negative: {value:g}"
    return None


def _numbers(reading: Reading) -> Iterator[tuple[int | None, str, float | None]]:
    """Slot of the board, name and value; the names are put together only for what is wrong."""
    yield None, "hashrate_ths", reading.hashrate_ths
    yield None, "expected_hashrate_ths", reading.expected_hashrate_ths
    yield None, "power_w", reading.power_w
    yield None, "inlet_temp_c", reading.inlet_temp_c
    for board in reading.boards:
        yield board.slot, "hashrate_ths", board.hashrate_ths
        yield board.slot, "chip_temp_c", board.chip_temp_c
        yield board.slot, "board_temp_c", board.board_temp_c


def _hashrate(reading: Reading, plate: Nameplate | None) -> str | None:
    if reading.hashrate_ths is None:
        return None
    if plate is not None:
        bound, what = MAX_OF_NAMEPLATE * plate.hashrate_ths, f"nameplate {plate.hashrate_ths:g}"
    elif reading.expected_hashrate_ths:
        bound, what = MAX_OF_NAMEPLATE * reading.expected_hashrate_ths, "what the machine expects"
    else:
        bound, what = MAX_HASHRATE_THS, "any machine"
    bound = min(bound, MAX_HASHRATE_THS)
    if reading.hashrate_ths <= bound:
        return None
    return f"hashrate {reading.hashrate_ths:g} TH/s, over {bound:g} for {what}: a unit bug?"


def _power(reading: Reading, plate: Nameplate | None) -> str | None:
    if reading.power_w is None or plate is None or reading.power_source is PowerSource.NAMEPLATE:
        return None
    most, least = MAX_OF_NAMEPLATE * plate.power_w, MIN_POWER_OF_NAMEPLATE * plate.power_w
    if reading.power_w > most:
        return f"power {reading.power_w:g} W, over {most:g} (nameplate {plate.power_w:g})"
    full = reading.hashrate_ths is not None and reading.hashrate_ths >= FULL_RATE * plate.hashrate_ths
    if full and reading.power_w < least:
        return f"power {reading.power_w:g} W at full hashrate, under {least:g} (nameplate {plate.power_w:g})"
    return None


def _efficiency(reading: Reading, _: Nameplate | None) -> str | None:
    efficiency = reading.efficiency_j_per_th
    if efficiency is None or reading.run_state is not RunState.MINING:
        return None
    least, most = EFFICIENCY_J_PER_TH
    if least <= efficiency <= most:
        return None
    return f"efficiency {efficiency:.3g} J/TH, outside {least:g} to {most:g}"


def _temperatures(reading: Reading, _: Nameplate | None) -> str | None:
    least, most = CHIP_TEMP_C
    for board in reading.boards:
        for name, value in (("chip", board.chip_temp_c), ("board", board.board_temp_c)):
            if value is not None and not least <= value <= most:
                return f"board {board.slot} {name} temperature {value:g} degC, outside {least:g} to {most:g}"
    return None


def _inlet(reading: Reading, _: Nameplate | None) -> str | None:
    least, most = INLET_TEMP_C
    if reading.inlet_temp_c is None or least <= reading.inlet_temp_c <= most:
        return None
    return f"inlet temperature {reading.inlet_temp_c:g} degC, outside {least:g} to {most:g}"


def _boards_add_up(reading: Reading, _: Nameplate | None) -> str | None:
    """Boards against the total, where every board says its rate and the machine is in steady state."""
    rates = [board.hashrate_ths for board in reading.boards if board.alive is not False]
    if not rates or None in rates or reading.hashrate_ths is None or reading.run_state is RunState.RAMPING:
        return None
    total, boards = reading.hashrate_ths, sum(rate for rate in rates if rate is not None)
    if abs(total - boards) <= BOARD_SUM_TOLERANCE * max(total, boards):
        return None
    return f"boards add up to {boards:g} TH/s, the machine says {total:g}"


_GATES: tuple[Gate, ...] = (
    _finite,
    _hashrate,
    _power,
    _efficiency,
    _temperatures,
    _inlet,
    _boards_add_up,
)
