"""How the agent and its site are doing at one moment: what metrics show and alerts are judged by."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.curtailment import Mode
from agent.market.quote import SourceStatus
from agent.orders import Order
from agent.rows import RoundRow
from agent.view import Picture
from drivers.reading import MachineId


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk of the database; None is unknown."""

    database_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None

    @property
    def free_share(self) -> float | None:
        """How much of it is free, as a fraction."""
        return None if self.free_bytes is None or not self.total_bytes else self.free_bytes / self.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """`rounds` counts rounds since the start, `given_up` are machines that did not do what they were told lately,
    `obligation_kw` is what the grid is owed now, `loops` is `Pulse.as_data()`, `interval_s` the time for one round."""

    picture: Picture
    mode: Mode
    held: bool = False
    closed: bool = False
    orders: Sequence[Order] = ()
    given_up: frozenset[MachineId] = frozenset()
    obligation_kw: float | None = None
    round: RoundRow
    rounds: int = 1
    interval_s: float | None = None
    loops: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: Sequence[SourceStatus] = ()
    storage_problem: str | None = None
    disk: Disk = Disk()

    def failures(self) -> Counter[str]:
        """Machines that could not be read, by the kind of failure."""
        return Counter(view.failure for view in self.picture.views if view.failure is not None)


def measure_disk(database: Path) -> Disk:
    """Size of the database with its journals, and the room around it. Blocks; what cannot be found out is None."""
    database_bytes = free_bytes = total_bytes = None
    with suppress(OSError):
        files = [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm")]
        database_bytes = sum(each.stat().st_size for each in files if each.exists())
    with suppress(OSError):
        room = os.statvfs(database.parent)
        free_bytes, total_bytes = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    return Disk(database_bytes=database_bytes, free_bytes=free_bytes, total_bytes=total_bytes)
