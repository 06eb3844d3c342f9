"""What a site still has to tell the fleet: written in the transactions that it tells of, kept until it has been taken.

The outbox is bounded. When it is full, appraisals, rounds and prices that wait go, since the next round tells of every
machine anew; if that does not make room, the oldest messages go, the ledger last. What went is counted and told.
"""

import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from time import monotonic, time

from agent.decisions import DECISION_COLUMNS
from agent.federation.deltas import Deltas
from agent.federation.messages import COLUMNS, LIMIT_BYTES, ROWS_IN_A_MESSAGE, Kind, Message, Row, encode
from agent.rows import MACHINE_COLUMNS

log = logging.getLogger("hashcost")

REPLACEABLE = (Kind.PRICES, Kind.APPRAISALS, Kind.ROUNDS)
"""What a later round tells anew."""
ROOM_MADE = 0.75
"""How full an outbox is, at most, after room was made."""
KEYFRAME_S = 86_400.0
"""How often everything that stands is told anew, so that a fleet can be rebuilt from a stream that only keeps days."""
_VERDICT = [DECISION_COLUMNS.index(name) for name in ("action", "target_mode", "reason", "automatic")]
_LAST_SEEN = MACHINE_COLUMNS.index("last_seen_ms")


class Outbox:
    """The agent's side: in its transactions and its thread; it never waits for anybody. See `agent.journal.Journal`."""

    def __init__(
        self, connection: sqlite3.Connection, *, site: str, threshold: float, limit_bytes: int
    ) -> None:
        self._connection = connection
        self._site = site
        self._limit_bytes = limit_bytes
        self._deltas = Deltas(threshold)
        self._machines: dict[str, Row] = {}
        self._verdicts: dict[str, Row] = {}
        self._new_verdicts: dict[str, Row] = {}
        self._quotes: set[int] = set()
        self._new_machines: dict[str, Row] = {}
        self._new_quotes: set[int] = set()
        self._epoch = secrets.token_hex(6)
        self._sequence = 0
        self._in_round = False
        self._keyframe_due_s = 0.0
        self._is_full = False
        self._too_large: set[Kind] = set()

    def machines(self, rows: Iterable[Row]) -> None:
        """Tell of machines that are new, or of which something changed other than when they were last seen."""
        self._notice_rollback()
        known = {str(row[0]): _but_when_seen(row) for row in rows}
        self._put(Kind.MACHINES, [row for name, row in known.items() if self._machines.get(name) != row])
        self._new_machines = known

    def gone(self, machine_ids: Iterable[str], at_ms: int) -> None:
        """Tell of machines that turned out to be others."""
        rows = [(machine_id, at_ms) for machine_id in machine_ids]
        self._put(Kind.GONE, rows)
        for machine_id, _ in rows:
            self._machines.pop(machine_id, None)

    def round(self, rows: Iterable[Row], quote_ids: Iterable[int], sums: Row) -> None:
        """Tell of the machines that changed, and how the round ended."""
        self._notice_rollback()
        self._make_room()
        if monotonic() >= self._keyframe_due_s:
            self._tell_all_that_stands()
        self._in_round = True
        began_ms = sums[0]
        self._new_quotes = set(quote_ids) - self._quotes
        self._put(Kind.PRICES, self._prices(sorted(self._new_quotes)))
        self._put(Kind.APPRAISALS, self._deltas.of(rows, began_ms))
        self._put(Kind.ROUNDS, [sums])

    def decisions(self, rows: Sequence[Row]) -> None:
        """Tell what was decided of machines, where it is another verdict than was told; what waiting has cost since
        goes on every day."""
        self._notice_rollback()
        verdicts = _verdicts(rows)
        self._put(
            Kind.DECISIONS,
            [row for row in rows if self._verdicts.get(str(row[0])) != verdicts[str(row[0])]],
        )
        self._new_verdicts = verdicts

    def order(self, order_id: int, row: Row) -> None:
        """Tell of an order as it is from now on."""
        self._put(Kind.ORDERS, [(order_id, *row)])

    def events(self, rows: Sequence[Row]) -> None:
        """Tell of things that happened."""
        self._put(Kind.EVENTS, rows)

    def ledger(self, rows: Sequence[Row]) -> None:
        """Tell what machines did in an hour."""
        self._put(Kind.LEDGER, rows)

    def written(self) -> None:
        """What was told last has been committed: what follows is compared with it."""
        self._machines |= self._new_machines
        self._verdicts |= self._new_verdicts
        self._new_machines, self._new_verdicts = {}, {}
        if self._in_round:
            self._in_round = False
            self._deltas.told()
            self._quotes |= self._new_quotes

    def _notice_rollback(self) -> None:
        """What was told last was not committed, or `written` had said so: everything is told anew."""
        if self._in_round or self._new_machines or self._new_verdicts:
            self._in_round, self._new_machines, self._new_verdicts = False, {}, {}
            self._keyframe_due_s = 0.0

    def _tell_all_that_stands(self) -> None:
        self._deltas.forget()
        self._machines, self._new_machines, self._quotes = {}, {}, set()
        self._keyframe_due_s = monotonic() + KEYFRAME_S
        rows = self._rows(Kind.MACHINES, "machines where retired_ms is null")
        self._put(Kind.MACHINES, rows)
        self._new_machines = {str(row[0]): _but_when_seen(row) for row in rows}
        gone = self._connection.execute(
            "select machine_id, retired_ms from machines where retired_ms is not null"
        )
        self._put(Kind.GONE, [tuple(row) for row in gone])
        decided = self._rows(Kind.DECISIONS, "decisions")
        self._put(Kind.DECISIONS, decided)
        self._verdicts = _verdicts(decided)
        standing = (
            "orders where state in ('proposed', 'approved', 'dispatching', 'dispatched') "
            "or (action = 'sleep' and state = 'confirmed') order by order_id"
        )
        self._put(Kind.ORDERS, self._rows(Kind.ORDERS, standing))

    def _rows(self, kind: Kind, source: str, values: Sequence[object] = ()) -> list[Row]:
        query = f"select {', '.join(COLUMNS[kind])} from {source}"  # noqa: S608 - names of ours
        return [tuple(row) for row in self._connection.execute(query, values)]

    def _prices(self, quote_ids: Sequence[int]) -> list[Row]:
        found: list[Row] = []
        for quote_id in quote_ids:
            found += self._rows(Kind.PRICES, "quotes where quote_id = ?", [quote_id])
        return found

    def _make_room(self) -> None:
        size = self._size()
        if self._is_full and size == 0:
            log.info("event=outbox_emptied")
            self._is_full = False
        if size <= self._limit_bytes:
            return
        gaps: Counter[str] = Counter()
        span = self._connection.execute("select min(at_ms), max(at_ms) from outbox").fetchone()
        marks = ", ".join("?" * len(REPLACEABLE))
        for kind, outbox_id in self._connection.execute(
            f"select kind, outbox_id from outbox where kind in ({marks})",  # noqa: S608 - marks
            REPLACEABLE,
        ).fetchall():
            gaps[kind] += self._delete(outbox_id)
        while self._size() > ROOM_MADE * self._limit_bytes:
            oldest = "select kind, outbox_id from outbox order by kind = 'ledger', outbox_id limit 100"
            for kind, outbox_id in self._connection.execute(oldest).fetchall():
                gaps[kind] += self._delete(outbox_id)
        if not self._is_full:  # while nobody takes anything out it fills up again and again
            log.warning("event=outbox_full left_out=%d", gaps.total())
        self._is_full = True
        self._put(Kind.GAPS, [(kind, count, *span) for kind, count in sorted(gaps.items())])
        self._keyframe_due_s = 0.0

    def _size(self) -> int:
        (size,) = self._connection.execute("select coalesce(sum(bytes), 0) from outbox").fetchone()
        return int(size)

    def _delete(self, outbox_id: int) -> int:
        return self._connection.execute("delete from outbox where outbox_id = ?", [outbox_id]).rowcount

    def _put(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Append messages of these rows, in order."""
        remaining = iter(rows)
        while chunk := list(islice(remaining, ROWS_IN_A_MESSAGE)):
            self._append(kind, chunk)

    def _append(self, kind: Kind, rows: Sequence[Row]) -> None:
        payload = encode(Message(kind=kind, site=self._site, rows=rows))
        if len(payload) > LIMIT_BYTES and len(rows) > 1:
            self._append(kind, rows[: len(rows) // 2])
            self._append(kind, rows[len(rows) // 2 :])
            return
        if len(payload) > LIMIT_BYTES:  # nobody would take it, ever, and it would stop all others
            if kind not in self._too_large:
                log.error("event=fleet_row_too_large kind=%s bytes=%d", kind, len(payload))
            self._too_large.add(kind)
            return
        self._sequence += 1
        self._connection.execute(
            "insert into outbox (epoch, sequence, kind, at_ms, bytes, payload) values (?, ?, ?, ?, ?, ?)",
            (self._epoch, self._sequence, kind.value, round(time() * 1000), len(payload), payload),
        )


def _but_when_seen(row: Row) -> Row:
    return (*row[:_LAST_SEEN], None, *row[_LAST_SEEN + 1 :])


def _verdicts(rows: Iterable[Row]) -> dict[str, Row]:
    """What was decided of each machine, without what it was decided from."""
    return {str(row[0]): tuple(row[index] for index in _VERDICT) for row in rows}
