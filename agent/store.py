"""Everything that must outlive the process, in SQLite: what the agent writes. `agent.reader` reads it for all others.

One writer (`Store`) and any number of read-only readers. Times are integer milliseconds since 1970 UTC; None is NULL.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from sqlite_utils import Database

from agent import books, succession
from agent.appraisal import Terms
from agent.baseline import Baseline
from agent.database import (
    BUSY_TIMEOUT_S,
    CHANGE,
    FIRST_ORDER_ID,
    PRICES,
    TAKEN,
    StoreError,
    UnusableStoreError,
    closed_on_failure,
    copy_database,
    damage,
    is_damage,
    is_of_the_disk,
    long_work,
    no_writer,
    only_writer,
    refuse_foreign,
    refuse_newer,
)
from agent.decisions import DECISION_COLUMNS, DecisionRecord, decision_of, decision_row
from agent.detail import DetailsToWrite, detail_row
from agent.fleet import Fleet, Machine
from agent.journal import Journal, NoJournal, OpenJournal
from agent.ledger import Sums
from agent.market.quote import Market
from agent.migrations import migrations
from agent.order_rows import CHANGING_COLUMNS, ORDER_COLUMNS, changing, order_of, order_row
from agent.orders import Order, OrderState
from agent.queries import PRUNE
from agent.reader import Reader
from agent.rows import (
    BASELINE_COLUMNS,
    LATEST_AS_WRITTEN,
    MACHINE_COLUMNS,
    READING_COLUMNS,
    ROUND_COLUMNS,
    Event,
    RoundRow,
    Settled,
    as_told,
    baseline_of,
    baseline_row,
    latest_row,
    machine_of,
    machine_row,
    quote_values,
    reading_row,
    round_values,
    to_ms,
)
from agent.tenure import Inheritance
from agent.terms import TermsBook
from agent.view import Picture
from drivers.reading import MachineId

FREE_SHARE = 10
"""A file of which one page in so many is free may give some back."""
__all__ = [
    "PRICES",
    "Reader",
    "Store",
    "StoreError",
    "UnusableStoreError",
    "copy_database",
    "damage",
    "no_writer",
]


CHECKPOINT_PAGES = 4000
"""How long the log may grow, in pages of 4 kB, before it is taken into the database: a round of a large site is a
thousand, most of them the same as in the round before."""


def _damaged(path: Path, found: str) -> UnusableStoreError:
    return UnusableStoreError(
        f"{path}: is damaged ({found}); put back the last copy: `hashcost restore-db FILE`"
    )


class Store:
    """The agent's own connection. Not for use from two threads at once."""

    def __init__(self, path: Path, open_journal: OpenJournal | None = None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            with closed_on_failure(connection):
                self._db = Database(connection)
                refuse_foreign(self._db, path)
                refuse_newer(self._db, path)
                self._lock = only_writer(path)
            with closed_on_failure(connection, self._lock):
                if connection.execute("PRAGMA page_count").fetchone() == (0,):  # an older file stays as it is
                    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                self._db.enable_wal()
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
                connection.execute("PRAGMA foreign_keys=ON")
                if (found := damage(path)) is not None:
                    raise _damaged(path, found)
                with long_work(connection, f"bringing {path} up to date"):
                    migrations.apply(self._db)
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):  # so bad that it cannot even be looked through
                raise _damaged(path, str(error)) from error
            kind = UnusableStoreError if is_of_the_disk(error, path) else StoreError
            raise kind(f"{path}: cannot be opened as a hashcost database ({error})") from error
        self._path = path
        self._journal: Journal = NoJournal() if open_journal is None else open_journal(connection)
        self._change = int(self.setting(CHANGE) or 0)
        self._first_order_id = int(self.setting(FIRST_ORDER_ID) or 1)
        self._details = DetailsToWrite()
        self._quotes: dict[tuple[bool, tuple[object, ...]], int] = {}
        self._new_quotes: dict[tuple[bool, tuple[object, ...]], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; readers go on."""
        self._db.close()
        self._lock.close()

    def save_machines(self, machines: Iterable[Machine], terms: Terms | TermsBook) -> None:
        """Add machines to the inventory or bring their rows up to date."""
        book = TermsBook(site=terms) if isinstance(terms, Terms) else terms
        rows = [
            machine_row(machine, book.of(machine.machine_id, machine.group).terms) for machine in machines
        ]
        with self._db.atomic():
            self._db.conn.executemany(upsert("machines", MACHINE_COLUMNS, "machine_id"), rows)
            self._db.conn.executemany(
                "update machines set retired_ms = null, retired_change = null where machine_id = ?",
                [row[:1] for row in rows],
            )
            self._journal.machines(rows)
        self._journal.written()

    def load_machines(self) -> list[Machine]:
        """The inventory, with baselines, as it was when the agent last stopped."""
        baselines: dict[str, list[Baseline]] = {}
        for row in self._db.query("select * from baselines"):
            baselines.setdefault(row["machine_id"], []).append(baseline_of(row))
        return [
            machine_of(row, baselines.get(row["machine_id"], []))
            for row in self._db.query("select * from machines where retired_ms is null")
        ]

    def retire(self, machine_ids: Iterable[MachineId], at: datetime) -> None:
        """Take machines out of the live picture that turned out to be others. Their history stays."""
        ids = [(machine_id,) for machine_id in machine_ids]
        with self._changing() as change:
            self._db.conn.executemany(
                "update machines set retired_ms = ?, retired_change = ? where machine_id = ?",
                [(to_ms(at), change, *each) for each in ids],
            )
            for table in ("latest", "decisions", "details"):
                self._db.conn.executemany(
                    f"delete from {table} where machine_id = ?",  # noqa: S608 - names of ours
                    ids,
                )
            self._journal.gone([machine_id for (machine_id,) in ids], to_ms(at))
        for (machine_id,) in ids:
            self._details.forget(machine_id)

    @contextmanager
    def _changing(self) -> Iterator[int]:
        """A transaction whose rows readers will ask for by the number that it gives."""
        change = self._change + 1
        with self._db.atomic():
            yield change
            self._db.conn.execute("insert or replace into settings values (?, ?)", (CHANGE, str(change)))
        self._change = change

    def save_baselines(self, machines: Iterable[Machine]) -> None:
        """Write the settled baselines of machines, so that a restart need not learn them again. What a machine no
        longer has is removed: it was measured under conditions that are gone."""
        machines = list(machines)
        rows = [
            baseline_row(machine, baseline) for machine in machines for baseline in machine.baselines.all()
        ]
        with self._db.atomic():
            self._db.conn.executemany(
                "delete from baselines where machine_id = ?", [(machine.machine_id,) for machine in machines]
            )
            self._db.conn.executemany(upsert("baselines", BASELINE_COLUMNS, "machine_id, power_mode"), rows)

    def save_round(
        self,
        picture: Picture,
        round_row: RoundRow,
        fleet: Fleet,
        polled: Iterable[MachineId],
        *,
        valid_s: float,
    ) -> None:
        """Write a whole poll round in one transaction: the readings of the machines that were polled, their insides
        where those changed, the latest picture and the round itself. A reading may stand for `valid_s` seconds. What a
        scan has taken out of the fleet meanwhile is left out."""
        valid_ms = round(valid_s * 1000)
        self._new_quotes = {}
        views, polled = {view.machine_id: view for view in picture.views}, set(polled)
        with self._changing() as change:
            site = self._stored_quote(picture.market, picture.terms)
            quotes = {
                machine_id: self._stored_quote(picture.market, each.terms, own=True)
                for machine_id, each in picture.own_terms.items()
            }
            shown, latest, readings, details = [], [], [], []
            at_ms = to_ms(picture.market.at)
            for (
                machine
            ) in fleet:  # in this order round after round, so that rows of one page follow each other
                machine_id = machine.machine_id
                view = views.get(machine_id)
                if view is None:
                    continue
                shown.append(machine)
                latest.append(latest_row(view, at_ms, change))
                if machine_id in polled:
                    readings.append(reading_row(machine, view, quotes.get(machine_id, site), valid_ms))
                    if (reading := self._details.due(machine)) is not None:
                        details.append((machine_id, reading))
            self._put(_insert_readings, readings)
            self._put(_upsert_latest, latest)
            self._db.conn.executemany(
                "insert or replace into details (machine_id, as_of_ms, detail) values (?, ?, ?)",
                [detail_row(machine_id, reading) for machine_id, reading in details],
            )
            self._db.conn.execute(
                f"insert or replace into rounds ({', '.join(ROUND_COLUMNS)}) "  # noqa: S608 - names of ours
                f"values ({', '.join('?' * len(ROUND_COLUMNS))})",
                sums := round_values(round_row, site, picture.views),
            )
            told = (
                (*as_told(row), quotes.get(machine.machine_id, site), int(machine.ours), valid_ms)
                for machine, row in zip(shown, latest, strict=True)
            )
            self._journal.round(told, {site, *quotes.values()}, sums)
        # only now: a round that was rolled back took its rows with it
        self._journal.written()
        self._quotes = self._new_quotes
        self._details.written(details)

    def _put(self, statement: Callable[[int], str], rows: Iterable[tuple[object, ...]]) -> None:
        """Write rows that end where the rest is NULL; `statement` is for those with so many columns."""
        of_length: dict[int, list[tuple[object, ...]]] = {}
        for row in rows:
            of_length.setdefault(len(row), []).append(row)
        for length, same in of_length.items():
            self._db.conn.executemany(statement(length), same)

    def _stored_quote(self, market: Market, terms: Terms, *, own: bool = False) -> int:
        """Id of the row of these prices and terms; a new row only when a number changed. `own` terms are not the
        site's."""
        key = (own, quote_values(market, terms))
        quote_id = self._quotes.get(key) or self._new_quotes.get(key)
        if quote_id is None:
            cursor = self._db.conn.execute(_INSERT_QUOTE, (to_ms(market.at), *key[1], int(own)))
            assert cursor.lastrowid is not None  # noqa: S101 - an insert has one
            quote_id = cursor.lastrowid
        self._new_quotes[key] = quote_id
        return quote_id

    def book(self, hours: Sequence[tuple[MachineId, Sums]], until_ms: int) -> None:
        """Book an hour of the ledger, and that all before `until_ms` is booked, in one transaction."""
        with self._db.atomic():
            books.book(self._db, hours, until_ms)
            self._journal.ledger(books.rows(hours))

    def settle(self, prices: Sequence[Settled], source: str, at: datetime) -> None:
        """Keep power prices as they were found out."""
        with self._db.atomic():
            books.settle(self._db, prices, source, to_ms(at))

    def rebook(self, hours: Sequence[tuple[MachineId, Sums]], event: Event) -> None:
        """Replace booked hours, and leave a trace of why, in one transaction."""
        with self._db.atomic():
            books.rebook(self._db, hours)
            self._journal.ledger(books.rows(hours))
            self._insert_events([_event_row(event)])

    def roll_up(self, steps: Sequence[books.BookedHour]) -> None:
        """Write steps of five minutes."""
        with self._db.atomic():
            books.roll_up(self._db, steps)

    def prune(self, table: str, before_ms: int, most: int) -> int:
        """Drop the oldest rows of a table that are of before then (`queries.PRUNE`), at most so many; how many they
        were."""
        with self._db.atomic():
            return int(self._db.conn.execute(PRUNE[table], (before_ms, most)).rowcount)

    def shrink(self, most_pages: int) -> int:
        """Give free pages at the end of the file back to the disk, at most so many, once a tenth of it is free: what is
        free is written to again first. How many they were; none in a file that was made before this was possible."""
        free, pages = (self._pragma(name) for name in ("freelist_count", "page_count"))
        if free * FREE_SHARE <= pages:
            return 0
        # a row for each page, but without columns, of which only a script fetches more than one
        self._db.conn.executescript(f"PRAGMA incremental_vacuum({most_pages})")
        return pages - self._pragma("page_count")

    def _pragma(self, name: str) -> int:
        return int(self._db.conn.execute(f"PRAGMA {name}").fetchone()[0])

    def save_setting(self, name: str, value: str) -> None:
        """Remember something across restarts."""
        with self._db.atomic():
            self._db.conn.execute("insert or replace into settings values (?, ?)", (name, value))

    def setting(self, name: str) -> str | None:
        """What was remembered, or None."""
        for row in self._db.query("select value from settings where name = ?", [name]):
            return str(row["value"])
        return None

    def take_steps(self, steps: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Several steps of orders in one transaction, each whole or not at all; a step is one of the methods below and
        what it takes. What each gives, or the `StoreError` of one that was overtaken, the `IntegrityError` of one that
        contradicts what is stored. Synced if anything is sent."""
        dispatches = any(
            isinstance(each, Order) and each.state is OrderState.DISPATCHING
            for _, arguments in steps
            for each in arguments
        )
        with self._safe_from_power_loss(dispatches), self._db.atomic():
            return [self._take_step(name, arguments) for name, arguments in steps]

    def _take_step(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, name)(*arguments)
        except (StoreError, sqlite3.IntegrityError) as error:
            return error

    def create_order(self, order: Order) -> Order | None:
        """Store a new order and give it its id; None if the machine has an open one. Its own `order_id` is ignored."""
        try:
            with self._db.atomic():
                return self._insert_order(order)
        except sqlite3.IntegrityError:
            return None

    def create_orders(self, orders: Sequence[Order]) -> list[Order | None]:
        """The same for many, in one transaction."""
        with self._db.atomic():
            return [self.create_order(order) for order in orders]

    def advance(self, before: Order, after: Order) -> None:
        """Replace an order by its next state, if it is still as `before`. Raises `StoreError` if it is not.

        That it is being sent is on the disk itself before this returns: with the host's power gone a moment later,
        an order that was sent and not remembered would leave a machine asleep that nobody wakes.
        """
        with self._safe_from_power_loss(after.state is OrderState.DISPATCHING), self._db.atomic():
            self._advance(before, after)

    @contextmanager
    def _safe_from_power_loss(self, wanted: bool) -> Iterator[None]:
        """Have a transaction synced, and all that was committed before it, which is only sure not to be torn. One that
        is under way is as safe as it was begun."""
        if not wanted or self._db.conn.in_transaction:
            yield
            return
        self._db.conn.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._db.conn.execute("PRAGMA synchronous=NORMAL")

    def supersede(self, before: Order, after: Order, new: Order) -> Order:
        """Advance one order and create another in one transaction."""
        with self._db.atomic():
            self._advance(before, after)
            return self._insert_order(new)

    def advance_both(self, first: tuple[Order, Order], second: tuple[Order, Order]) -> None:
        """Advance two orders in one transaction."""
        with self._db.atomic():
            self._advance(*first)
            self._advance(*second)

    def _insert_order(self, order: Order) -> Order:
        marks = ", ".join("?" * len(ORDER_COLUMNS))
        cursor = self._db.conn.execute(
            f"insert into orders (order_id, {', '.join(ORDER_COLUMNS)}) "  # noqa: S608 - names of ours
            f"values (max(coalesce((select max(order_id) from orders), 0) + 1, ?), {marks})",
            (self._first_order_id, *order_row(order)),
        )
        assert cursor.lastrowid is not None  # noqa: S101 - an insert has one
        self._journal.order(cursor.lastrowid, order_row(order))
        return replace(order, order_id=cursor.lastrowid)

    def _advance(self, before: Order, after: Order) -> None:
        """Compare and set: two hands on one order, or a restored database, must not repeat a command."""
        row = order_row(after)
        cursor = self._db.conn.execute(
            _ADVANCE, (*changing(row), before.order_id, before.state.value, before.attempts)
        )
        if cursor.rowcount != 1:
            raise StoreError(f"{self._path}: order {before.order_id} is not {before.state.value} any more")
        self._journal.order(before.order_id, row)

    def load_orders(self, since: datetime) -> list[Order]:
        """Every open or standing order, and those that ended since."""
        return [
            order_of(row)
            for row in self._db.query(
                "select * from orders where state in ('proposed', 'approved', 'dispatching', 'dispatched') "
                "or (action = 'sleep' and state = 'confirmed') or settled_ms >= ? order by order_id",
                [to_ms(since)],
            )
        ]

    def inherit(self, left: Inheritance) -> None:
        """Take over what another agent of the site left; its orders when they are adopted."""
        with self._db.atomic():
            succession.inherit(self._db.conn, left)
        self._first_order_id = int(self.setting(FIRST_ORDER_ID) or 1)

    def adopt(self) -> tuple[list[Order], list[Order]]:
        """Take over the orders that another agent left of machines that are known here by now; those, and the ones that
        wait for their machines to be found."""
        with self._db.atomic():
            adopted, waiting = succession.adopt(self._db.conn)
            for order in adopted:
                self._journal.order(order.order_id, order_row(order))
        return adopted, waiting

    def drop_untold(self) -> None:
        """Keep of what waits for the fleet what no other agent of the site tells."""
        with self._db.atomic():
            succession.drop_untold(self._db.conn)

    def save_decisions(self, records: Iterable[DecisionRecord]) -> None:
        """Replace what was decided of these machines."""
        rows = [decision_row(record) for record in records]
        if not rows:
            return
        with self._changing() as change:
            self._db.conn.executemany(
                upsert("decisions", (*DECISION_COLUMNS, "change"), "machine_id"),
                [(*row, change) for row in rows],
            )
            self._journal.decisions(rows)
        self._journal.written()

    def load_decisions(self) -> list[DecisionRecord]:
        """What was last decided of each machine."""
        return [decision_of(row) for row in self._db.query("select * from decisions")]

    def save_events(self, events: Iterable[Event]) -> None:
        """Append events."""
        rows = [_event_row(event) for event in events]
        with self._db.atomic():
            self._insert_events(rows)

    def _insert_events(self, rows: Sequence[tuple[object, ...]]) -> None:
        self._db.conn.executemany(
            "insert into events (at_ms, kind, machine_id, detail) values (?, ?, ?, ?)", rows
        )
        self._journal.events(rows)

    def take_out(self, epoch: str, sequence: int) -> None:
        """Drop what waited for the fleet, up to this message of an epoch: it has been taken."""
        with self._db.atomic():
            self._db.conn.execute("delete from outbox where epoch = ? and sequence <= ?", (epoch, sequence))
            self._db.conn.execute(
                "insert or replace into settings values (?, ?)", (TAKEN, f"{epoch}.{sequence}")
            )


def _event_row(event: Event) -> tuple[object, ...]:
    return to_ms(event.at), event.kind, event.machine_id, event.detail


_ADVANCE = (
    f"update orders set {', '.join(f'{name} = ?' for name in CHANGING_COLUMNS)} "  # noqa: S608 - names of ours
    "where order_id = ? and state = ? and attempts = ?"
)
"""Not what is as it was: SQLite would write its index entries anew, and look for its machine."""


def _insert_readings(columns: int) -> str:
    """SQL that writes the first columns of a reading, unless it is stored already."""
    marks = ", ".join("?" * columns)
    return f"insert or ignore into readings ({', '.join(READING_COLUMNS[:columns])}) values ({marks})"  # noqa: S608 - ours


def _upsert_latest(columns: int) -> str:
    """SQL that writes the first columns of a row of the picture; what is left out becomes NULL."""
    return upsert("latest", LATEST_AS_WRITTEN, "machine_id", given=columns)


def upsert(table: str, columns: Sequence[str], key: str, *, given: int | None = None) -> str:
    """SQL that writes a row, or brings the one with the same key up to date. Of the columns the first `given` are
    bound, the others become what they are in a new row."""
    bound = columns[:given]
    return (
        f"insert into {table} ({', '.join(bound)}) values ({', '.join('?' * len(bound))}) "  # noqa: S608 - names of ours
        f"on conflict ({key}) do update set {updates(table, columns, key)}"
    )


def updates(table: str, columns: Sequence[str], key: str) -> str:
    """What becomes of the row that was there, in SQL."""
    keys = {name.strip() for name in key.split(",")}
    kept = {"first_seen_ms"}
    later = f"excluded.last_seen_ms > coalesce({table}.last_seen_ms, 0)"
    latest = {
        "last_seen_ms": f"case when {later} then excluded.last_seen_ms else {table}.last_seen_ms end",
    }
    return ", ".join(
        f"{name} = {latest.get(name, f'excluded.{name}')}" for name in columns if name not in keys | kept
    )


_INSERT_QUOTE = """
    insert into quotes (at_ms, difficulty, height, fees_btc, btc_usd, hashprice_usd_per_ph_day, hashprice_source,
    price_usd_per_kwh, price_source, fee, reject, overhead, credit_usd_per_kwh, own)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
