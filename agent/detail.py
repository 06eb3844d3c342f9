"""What a machine's own screen shows and nothing reckons with: boards, fans, pools, errors."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from zlib import crc32

from agent.fleet import Machine
from agent.rows import from_ms, to_ms
from drivers.reading import Board, MachineId, Pool, Reading

REFRESH_EVERY = timedelta(minutes=10)
"""How old temperatures and speeds may grow while nothing else changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDetail:
    """The insides of one machine by the reading that began at `as_of`. What it does not tell is empty or None."""

    as_of: datetime
    boards: tuple[Board, ...]
    fans_rpm: tuple[int, ...]
    inlet_temp_c: float | None
    pools: tuple[Pool, ...]
    uptime_s: int | None
    errors: tuple[str, ...]


def detail_row(machine_id: MachineId, reading: Reading) -> tuple[object, ...]:
    """A row of `details`."""
    told = {
        "boards": [asdict(board) for board in reading.boards],
        "fans_rpm": reading.fans_rpm,
        "inlet_temp_c": reading.inlet_temp_c,
        "pools": [asdict(pool) for pool in reading.pools],
        "uptime_s": reading.uptime_s,
        "errors": reading.errors,
    }
    return machine_id, to_ms(reading.began_at), json.dumps(told)


def detail_of(row: dict[str, Any]) -> MachineDetail:
    """A row of `details`."""
    told = json.loads(row["detail"])
    return MachineDetail(
        as_of=from_ms(row["as_of_ms"]),
        boards=tuple(Board(**board) for board in told["boards"]),
        fans_rpm=tuple(told["fans_rpm"]),
        inlet_temp_c=told["inlet_temp_c"],
        pools=tuple(Pool(**pool) for pool in told["pools"]),
        uptime_s=told["uptime_s"],
        errors=tuple(told["errors"]),
    )


class DetailsToWrite:
    """Picks the machines whose detail is worth a write: a board, fan, pool or error came, went or changed its state, or
    the temperatures that are stored have grown old. Ten thousand machines are not all written every round."""

    def __init__(self) -> None:
        self._written: dict[MachineId, tuple[_Standing, datetime]] = {}

    def due(self, machine: Machine) -> Reading | None:
        """The reading of a machine, if it is to be written now."""
        reading = machine.reading
        if reading is None or machine.failure is not None:
            return None
        known = self._written.get(machine.machine_id)
        if known is None or reading.began_at >= known[1] or known[0] != _standing(reading):
            return reading
        return None

    def written(self, details: Iterable[tuple[MachineId, Reading]]) -> None:
        """These are stored."""
        for machine_id, reading in details:
            self._written[machine_id] = _standing(reading), reading.began_at + _spread(machine_id)

    def forget(self, machine_id: MachineId) -> None:
        """What was stored of it is gone."""
        self._written.pop(machine_id, None)


def _spread(machine_id: MachineId) -> timedelta:
    """Until the next write: half of the interval to all of it, so that a site's machines do not fall due together."""
    return REFRESH_EVERY * (0.5 + (crc32(machine_id.encode()) % 1000) / 2000)


def _standing(reading: Reading) -> "_Standing":
    """What is worth a write where it changed: all but the numbers."""
    return (
        reading.pools,
        reading.errors,
        len(reading.boards),
        *map(_state_of_board, reading.boards),
        *map(bool, reading.fans_rpm),
    )


_Standing = tuple[object, ...]
_state_of_board = attrgetter("slot", "alive", "chips")
