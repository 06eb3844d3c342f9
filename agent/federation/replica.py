"""One site as the fleet knows it: a database like the site's own, written from what the site told.

Every screen and report that reads a site's database reads this one too. Of readings it only has each machine's last;
what machines did is in its ledger, hour by hour.
"""

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from agent import books
from agent.appraisal import Basis
from agent.database import HEARD
from agent.decisions import DECISION_COLUMNS, decision_of
from agent.federation.messages import COLUMNS, Kind, Message, Row
from agent.ledger import MS_PER_HOUR
from agent.order_rows import order_of
from agent.policy import Action, Reason
from agent.queries import PRUNE
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
_PRUNE_QUOTES = """
    delete from quotes where quote_id in (
        select quote_id from quotes where quote_id < (select min(quote_id) from rounds)
        and quote_id not in (select quote_id from readings where quote_id is not null) order by quote_id limit ?
    )
"""
_MAY_BE_UNKNOWN = {"power_mode", "basis"}
_APPRAISED = COLUMNS[Kind.APPRAISALS]
_LATEST = (*(name for name in _APPRAISED if name not in {"quote_id", "ours", "valid_ms"}), "change")
_READING = (
    "machine_id", "began_ms", "valid_ms", "run_state", "failure", "implausible", "hashrate_ths", "power_w",
    "power_source", "power_mode", "chip_temp_c", "quote_id", "ours", "decision_margin_usd_per_day",
)  # fmt: skip
_HOUR = books.COLUMNS.index("hour_ms")
NONSENSE = (ValueError, OverflowError, TypeError, KeyError)
"""What rows that make no sense run into before anything is asked to keep them."""


class Copy(ABC):
    """Writes what a site told; the same wherever it is kept."""

    REFUSALS: ClassVar[tuple[type[Exception], ...]]
    """What a row that makes no sense runs into; errors of the place itself are not among them."""
    _now: Callable[[], datetime]

    @property
    def places(self) -> dict[str, int]:
        """The last sequence of each epoch that was taken."""
        found: dict[str, int] = json.loads(self.setting(PLACES) or "{}")
        return found

    def take(self, messages: Iterable[Message], places: Mapping[str, int]) -> list[tuple[Message, str]]:
        """Write messages and how far they reach in one transaction. Gives those that made no sense, with why: they
        change nothing. Raises `sqlite3.Error` or `StoreError` of the place."""
        refused = []
        with self._changing() as change:
            for message in messages:
                try:
                    with self._message():
                        _APPLY[message.kind](self, message.rows, change)
                except self.REFUSALS as error:
                    refused.append((message, f"{type(error).__name__}: {' '.join(str(error).split())}"))
            self._keep(PLACES, json.dumps(dict(list(places.items())[-MOST_EPOCHS:])))
        return refused

    def drop_old(self, before_ms: int, most: int) -> None:
        """Drop the oldest of what the site told of before then, at most so many rows of a kind. What is not ended
        stays, and so do prices that something refers to. Raises as `take`."""
        with self._changing():
            for table in ("ledger", "orders", "events", "rounds"):
                self._run(PRUNE[table], (before_ms, most))
            self._run(_PRUNE_QUOTES, (most,))

    def _keep(self, name: str, value: str) -> None:
        self._upsert("settings", ("name", "value"), "name", [(name, value)])

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    def setting(self, name: str) -> str | None:
        """What was remembered, or None."""

    @abstractmethod
    @contextmanager
    def _changing(self) -> Iterator[int]:
        """A transaction whose rows readers will ask for by the number that it gives."""

    @abstractmethod
    def _message(self) -> AbstractContextManager[None]:
        """All of a message, or nothing of it."""

    @abstractmethod
    def _upsert(self, table: str, columns: Sequence[str], key: str, rows: Iterable[Row]) -> None:
        """Write rows, or bring those with the same key up to date."""

    @abstractmethod
    def _insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Write rows."""

    @abstractmethod
    def _last_readings(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Write readings in the place of the machines' last."""

    @abstractmethod
    def _each(self, sql: str, rows: Iterable[Row]) -> None:
        """A statement for each row."""

    @abstractmethod
    def _run(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
        """A statement."""

    @abstractmethod
    def _number(self, sql: str, parameters: Sequence[Any] = ()) -> int | None:
        """What a query finds in its first row."""

    def _machines(self, rows: Sequence[Row], change: int) -> None:
        del change
        for row in rows:
            Family(row[MACHINE_COLUMNS.index("family")])
        self._upsert("machines", MACHINE_COLUMNS, "machine_id", rows)
        self._each(
            "update machines set retired_ms = null, retired_change = null where machine_id = ?",
            [row[:1] for row in rows],
        )

    def _gone(self, rows: Sequence[Row], change: int) -> None:
        self._each(
            "update machines set retired_ms = ?, retired_change = ? where machine_id = ?",
            [(at_ms, change, machine_id) for machine_id, at_ms in rows],
        )
        for table in ("latest", "decisions", "details"):
            self._each(f"delete from {table} where machine_id = ?", [row[:1] for row in rows])  # noqa: S608 - ours

    def _prices(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._upsert("quotes", COLUMNS[Kind.PRICES], "quote_id", rows)

    def _appraisals(self, rows: Sequence[Row], change: int) -> None:
        told = [dict(zip(_APPRAISED, row, strict=True)) for row in rows]
        for each in told:
            _check_words(each)
            failed = each["failure"] is not None or each["seen_ms"] is None
            each["began_ms"] = each["at_ms"] if failed else each["seen_ms"]
            each["change"] = change
        self._upsert("latest", _LATEST, "machine_id", [[each[name] for name in _LATEST] for each in told])
        self._last_readings(_READING, [[each[name] for name in _READING] for each in told])

    def _rounds(self, rows: Sequence[Row], change: int) -> None:
        """The end of a round: whoever was not told of was seen again, if it was seen in the round before; whoever was
        told of is as of this round already."""
        for row in rows:
            began_ms = row[0]
            before_ms = self._number("select max(began_ms) from rounds where began_ms < ?", [began_ms])
            self._upsert("rounds", ROUND_COLUMNS, "began_ms", [row])
            self._run(
                "update latest set seen_ms = :now where at_ms < :now and failure is null and seen_ms >= :before",
                {"now": began_ms, "before": before_ms},
            )
            self._run(
                "update readings set began_ms = :now where began_ms >= :before and began_ms < :now and failure is null "
                "and machine_id in (select machine_id from latest where seen_ms = :now)",
                {"now": began_ms, "before": before_ms},
            )
            self._run("update latest set at_ms = ?, change = ? where at_ms < ?", (began_ms, change, began_ms))

        self._keep(HEARD, str(to_ms(self._now())))

    def _decisions(self, rows: Sequence[Row], change: int) -> None:
        for row in rows:
            decision_of(dict(zip(DECISION_COLUMNS, row, strict=True)))
        columns = (*DECISION_COLUMNS, "change")
        self._upsert("decisions", columns, "machine_id", [(*row, change) for row in rows])

    def _orders(self, rows: Sequence[Row], change: int) -> None:
        del change
        columns = COLUMNS[Kind.ORDERS]
        for row in rows:
            order = order_of(dict(zip(columns, row, strict=True)))
            self._run(
                "update orders set state = 'expired', detail = 'its end was not told' where machine_id = ? "
                "and order_id < ? and state in ('proposed', 'approved', 'dispatching', 'dispatched')",
                (order.machine_id, order.order_id),
            )
            self._upsert("orders", columns, "order_id", [row])

    def _events(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._insert("events", COLUMNS[Kind.EVENTS], rows)

    def _ledger(self, rows: Sequence[Row], change: int) -> None:
        del change
        self._upsert("ledger", books.COLUMNS, "machine_id, hour_ms", rows)
        until_ms = max([row[_HOUR] for row in rows]) + MS_PER_HOUR
        if until_ms > int(self.setting(books.BOOKED_UNTIL) or 0):
            self._keep(books.BOOKED_UNTIL, str(until_ms))

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


class Replica(Copy, Store):
    """The writer of one site's copy in a file of its own."""

    REFUSALS = (*NONSENSE, sqlite3.IntegrityError, sqlite3.InterfaceError)

    def __init__(self, path: Path, site: str, now: Callable[[], datetime] = utc_now) -> None:
        Store.__init__(self, path)
        self._now = now
        self._db.execute("drop index if exists one_open_order")  # the site sees to that
        self._db.execute("drop index if exists one_standing_sleep")
        self.save_setting(REPLICA_OF, site)

    def close(self) -> None:
        """Close the file."""
        Store.close(self)

    def setting(self, name: str) -> str | None:
        """What was remembered, or None."""
        return Store.setting(self, name)

    @contextmanager
    def _changing(self) -> Iterator[int]:
        with Store._changing(self) as change:
            yield change

    @contextmanager
    def _message(self) -> Iterator[None]:
        self._db.conn.execute("savepoint message")
        try:
            yield
        except self.REFUSALS:
            self._db.conn.execute("rollback to message")
            raise
        finally:
            self._db.conn.execute("release message")

    def _upsert(self, table: str, columns: Sequence[str], key: str, rows: Iterable[Row]) -> None:
        self._each(upsert(table, columns, key), rows)

    def _insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(columns))
        self._each(f"insert into {table} ({', '.join(columns)}) values ({marks})", rows)  # noqa: S608 - names of ours

    def _last_readings(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self._each("delete from readings where machine_id = ?", [row[:1] for row in rows])
        self._insert("readings", columns, rows)

    def _each(self, sql: str, rows: Iterable[Row]) -> None:
        self._db.conn.executemany(sql, rows)

    def _run(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
        self._db.conn.execute(sql, parameters)

    def _number(self, sql: str, parameters: Sequence[Any] = ()) -> int | None:
        found: int | None = self._db.conn.execute(sql, parameters).fetchone()[0]
        return found


_APPLY: Mapping[Kind, Callable[[Copy, Sequence[Row], int], None]] = {
    Kind.MACHINES: Copy._machines,
    Kind.GONE: Copy._gone,
    Kind.PRICES: Copy._prices,
    Kind.APPRAISALS: Copy._appraisals,
    Kind.ROUNDS: Copy._rounds,
    Kind.DECISIONS: Copy._decisions,
    Kind.ORDERS: Copy._orders,
    Kind.EVENTS: Copy._events,
    Kind.LEDGER: Copy._ledger,
    Kind.GAPS: Copy._gaps,
}


def _check_words(row: Mapping[str, Any]) -> None:
    for name, kind in _WORDS.items():
        if row[name] is None and name in _MAY_BE_UNKNOWN:
            continue
        kind(row[name])
