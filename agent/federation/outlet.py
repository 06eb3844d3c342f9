"""What waits in the outbox, for whoever sends it: read-only, beside the agent that writes it."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agent.database import TAKEN, connect_read_only
from agent.federation.messages import Kind, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message that has not been taken yet."""

    kind: Kind
    place: Place
    payload: bytes


def waiting(database: Path, limit: int) -> list[Waiting]:
    """The oldest messages that wait, all of one epoch, in order. Blocks; raises `sqlite3.Error`."""
    with closing(connect_read_only(database)) as connection:
        rows = connection.execute(
            "select epoch, sequence, kind, payload from outbox order by outbox_id limit ?", [limit]
        ).fetchall()
        epoch, previous = _taken(connection)
    found: list[Waiting] = []
    for its_epoch, sequence, kind, payload in rows:
        if its_epoch != epoch:
            if found:
                break
            epoch, previous = its_epoch, 0
        place = Place(epoch=epoch, sequence=sequence, previous=previous)
        found.append(Waiting(kind=Kind(kind), place=place, payload=payload))
        previous = sequence
    return found


def _taken(connection: sqlite3.Connection) -> tuple[str, int]:
    """Epoch and sequence of the last message that was taken."""
    row = connection.execute("select value from settings where name = ?", [TAKEN]).fetchone()
    if row is None:
        return "", 0
    epoch, _, sequence = row[0].rpartition(".")
    return epoch, int(sequence)
