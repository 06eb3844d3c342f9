"""One site as the fleet knows it: a database like the site's own, written from what the site told.

Every screen and report that reads a site's database reads this one too. Of readings it only has each machine's last;
what machines did is in its ledger, hour by hour.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from agent import books
from agent.appraisal import Basis
from agent.database import HEARD
from agent.decisions import DECISION_COLUMNS, decision_of
from agent.federation.messages import COLUMNS, Kind, Message, Row
from agent.ledger import MS_PER_HOUR
from agent.order_rows import order_of
from agent.policy import Action, Reason
from agent.rows import MACHINE_COLUMNS, ROUND_COLUMNS, to_ms
from agent.store import Store, upsert
from drivers.driver import utc_now
from drivers.reading import Family, PowerMode, PowerSource, RunState

PLACES, REPLICA_OF = "fleet_places", "fleet_replica_of"
"""Settings: the last sequence of each epoch that was taken, and whose copy this is."""
MOST_EPOCHS = 200
"""Epochs that are remembered: an agent that is started so often within what a stream keeps is broken."""
_WORDS: Mapping[str, type] = {
    "run_state": RunState,
    "power_source": PowerSource,
    "power_mode": PowerMode,
    "basis": Basis,
    "action": Action,
    "reason": Reason,
}
_MAY_BE_UNKNOWN = {"power_mode", "basis"}
_APPRAISED = COLUMNS[Kind.APPRAISALS]
_LATEST = (*(name for name in _APPRAISED if name not in {"quote_id", "ours", "valid_ms"}), "change")
_READING = (
    "machine_id", "began_ms", "valid_ms", "run_state", "failure", "implausible", "hashrate_ths", "power_w",
    "power_source", "power_mode", "chip_temp_c", "quote_id", "ours", "decision_margin_usd_per_day",
)  # fmt: skip
_HOUR = books.COLUMNS.index("hour_ms")
_REFUSALS = (sqlite3.IntegrityError, sqlite3.InterfaceError, ValueError, OverflowError, TypeError, KeyError)
"""What a row that makes no sense runs into; the disk's own errors are not among them."""


class Replica(Store):
    """The writer of one site's copy."""

    def __init__(self, path: Path, site: str, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(path)
        self._now = now
        self._db.execute("drop index if exists one_open_order")  # the site sees to that
        self._db.execute("drop index if exists one_standing_sleep")
        self.save_setting(REPLICA_OF, site)

    @property
    def places(self) -> dict[str, int]:
        """The last sequence of each epoch that was taken."""
        found: dict[str, int] = json.loads(self.setting(PLACES) or "{}")
        return found

    def take(self, messages: Iterable[Message], places: Mapping[str, int]) -> list[tuple[Message, str]]:
        """Write messages and how far they reach in one transaction. Gives those that made no sense, with why: they
        change nothing. Raises `sqlite3.Error` of the disk."""
        refused = []
        with self._changing() as change:
            for message in messages:
                self._db.conn.execute("savepoint message")
                try:
                    _APPLY[message.kind](self, message.rows, change)
                except _REFUSALS as error:
                    self._db.conn.execute("rollback to message")
                    refused.append((message, f"{type(error).__name__}: {error}"))
                self._db.conn.execute("release message")
            kept = dict(list(places.items())[-MOST_EPOCHS:])
            self._db.conn.execute("insert or replace into settings values (?, ?)", (PLACES, json.dumps(kept)))
        return refused

    def _many(self, sql: str, rows: Iterable[Row]) -> None:
        self._db.conn.executemany(sql, rows)

    def _machines(self, rows: Sequence[Row], change: int) -> None:
        del change
        for row in rows:
            Family(row[MACHINE_COLUMNS.index("family")])
        self._many(upsert("machines", MACHINE_COLUMNS, "machine_id"), rows)
        self._many(
            "update machines set retired_ms = null, retired_change = null where machine_id = ?",
            [row[:1] for row in rows],
        )

    def _gone(self, rows: Sequence[Row], change: int) -> None:
        self._many(
            "update machines set retired_ms = ?, retired_change = ? where machine_id = ?",
            [(at_ms, change, machine_id) for machine_id, at_ms in rows],
        )
        for table in ("latest", "decisions", "details"):
            self._many(f"delete from {table} where machine_id = ?", [row[:1] for row in rows])  # noqa: S608 - ours

    def _prices(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._many(upsert("quotes", COLUMNS[Kind.PRICES], "quote_id"), rows)

    def _appraisals(self, rows: Sequence[Row], change: int) -> None:
        told = [dict(zip(_APPRAISED, row, strict=True)) for row in rows]
        for each in told:
            _check_words(each)
            failed = each["failure"] is not None or each["seen_ms"] is None
            each["began_ms"] = each["at_ms"] if failed else each["seen_ms"]
            each["change"] = change
        self._many(upsert("latest", _LATEST, "machine_id"), [[e[name] for name in _LATEST] for e in told])
        self._many("delete from readings where machine_id = ?", [row[:1] for row in rows])
        self._many(
            f"insert into readings ({', '.join(_READING)}) values ({', '.join('?' * len(_READING))})",  # noqa: S608
            [[each[name] for name in _READING] for each in told],
        )

    def _rounds(self, rows: Sequence[Row], change: int) -> None:
        """The end of a round: whoever was not told of was seen again, if it was seen in the round before; whoever was
        told of is as of this round already."""
        for row in rows:
            began_ms = row[0]
            (before_ms,) = self._db.conn.execute(
                "select max(began_ms) from rounds where began_ms < ?", [began_ms]
            ).fetchone()
            self._many(
                f"insert or replace into rounds ({', '.join(ROUND_COLUMNS)}) "  # noqa: S608 - names of ours
                f"values ({', '.join('?' * len(ROUND_COLUMNS))})",
                [row],
            )
            self._db.conn.execute(
                "update latest set seen_ms = :now where at_ms < :now and failure is null and seen_ms >= :before",
                {"now": began_ms, "before": before_ms},
            )
            self._db.conn.execute(
                "update readings set began_ms = :now where began_ms >= :before and began_ms < :now and failure is null "
                "and machine_id in (select machine_id from latest where seen_ms = :now)",
                {"now": began_ms, "before": before_ms},
            )
            self._db.conn.execute(
                "update latest set at_ms = ?, change = ? where at_ms < ?", (began_ms, change, began_ms)
            )

        self._db.conn.execute(
            "insert or replace into settings values (?, ?)", (HEARD, str(to_ms(self._now())))
        )

    def _decisions(self, rows: Sequence[Row], change: int) -> None:
        for row in rows:
            decision_of(dict(zip(DECISION_COLUMNS, row, strict=True)))
        columns = (*DECISION_COLUMNS, "change")
        self._many(upsert("decisions", columns, "machine_id"), [(*row, change) for row in rows])

    def _orders(self, rows: Sequence[Row], change: int) -> None:
        del change
        columns = COLUMNS[Kind.ORDERS]
        for row in rows:
            order = order_of(dict(zip(columns, row, strict=True)))
            self._db.conn.execute(
                "update orders set state = 'expired', detail = 'its end was not told' where machine_id = ? "
                "and order_id < ? and state in ('proposed', 'approved', 'dispatching', 'dispatched')",
                (order.machine_id, order.order_id),
            )
            self._many(upsert("orders", columns, "order_id"), [row])

    def _events(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._many(f"insert into events ({', '.join(COLUMNS[Kind.EVENTS])}) values (?, ?, ?, ?)", rows)  # noqa: S608

    def _ledger(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._many(upsert("ledger", books.COLUMNS, "machine_id, hour_ms"), rows)
        until_ms = max([row[_HOUR] for row in rows]) + MS_PER_HOUR
        if until_ms > (books.booked_until(self._db) or 0):
            self._db.conn.execute(
                "insert or replace into settings values (?, ?)", (books.BOOKED_UNTIL, str(until_ms))
            )

    def _gaps(self, rows: Sequence[Row], change: int) -> None:
        self._events(
            [
                (
                    until_ms,
                    "fleet_gap",
                    None,
                    f"{count} messages of {kind} were let go by the site, from {from_ms}",
                )
                for kind, count, from_ms, until_ms in rows
            ],
            change,
        )


_APPLY: Mapping[Kind, Callable[[Replica, Sequence[Row], int], None]] = {
    Kind.MACHINES: Replica._machines,
    Kind.GONE: Replica._gone,
    Kind.PRICES: Replica._prices,
    Kind.APPRAISALS: Replica._appraisals,
    Kind.ROUNDS: Replica._rounds,
    Kind.DECISIONS: Replica._decisions,
    Kind.ORDERS: Replica._orders,
    Kind.EVENTS: Replica._events,
    Kind.LEDGER: Replica._ledger,
    Kind.GAPS: Replica._gaps,
}


def _check_words(row: Mapping[str, Any]) -> None:
    for name, kind in _WORDS.items():
        if row[name] is None and name in _MAY_BE_UNKNOWN:
            continue
        kind(row[name])
