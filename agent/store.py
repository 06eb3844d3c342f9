"""Everything that must outlive the process, in SQLite. The only module with SQL.

One writer (`Store`, the agent) and any number of read-only readers (`Reader`: status, export, the terminal).
Times are integer milliseconds since 1970 UTC; None is NULL.

    StoreError           the file cannot be used; the message says which and what to do
    `-- UnusableStoreError        it is damaged, or cannot be written
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sqlite_utils import Database

from agent.appraisal import Terms
from agent.baseline import Baseline
from agent.decisions import DECISION_COLUMNS, DecisionRecord, decision_of, decision_row
from agent.errors import UsageError
from agent.fleet import Fleet, Machine
from agent.market.quote import Market
from agent.migrations import migrations
from agent.order_rows import ORDER_COLUMNS, order_of, order_row
from agent.orders import Order, OrderState
from agent.rows import (
    BASELINE_COLUMNS,
    LATEST_COLUMNS,
    MACHINE_COLUMNS,
    Event,
    MachineRow,
    ReadingRow,
    RoundRow,
    baseline_of,
    baseline_row,
    event_of,
    from_ms,
    inventory_row,
    latest_row,
    machine_of,
    machine_row,
    market_of,
    quote_values,
    reading_of,
    reading_row,
    round_values,
    terms_of,
    to_ms,
    view_of,
)
from agent.terms import TermsBook
from agent.view import MachineView, Picture
from drivers.reading import MachineId

BUSY_TIMEOUT_S = 5.0
PRICES = "prices"
"""Setting that holds how prices and their sources are doing."""


class StoreError(UsageError):
    """The database cannot be used."""


class UnusableStoreError(StoreError):
    """The database is damaged, or the disk lets nobody write it."""


class Store:
    """The agent's own connection. Not for use from two threads at once."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            with _closed_on_failure(connection):
                self._db = Database(connection)
                _refuse_foreign(self._db, path)
                _refuse_newer(self._db, path)
                self._lock = _only_writer(path)
            with _closed_on_failure(connection, self._lock):
                self._db.enable_wal()
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute("PRAGMA foreign_keys=ON")
                if (found := damage(path)) is not None:
                    raise UnusableStoreError(
                        f"{path}: is damaged ({found}); put back the last copy: `hashcost restore-db FILE`"
                    )
                migrations.apply(self._db)
        except (sqlite3.Error, OSError) as error:
            kind = UnusableStoreError if _is_of_the_disk(error) else StoreError
            raise kind(f"{path}: cannot be opened as a hashcost database ({error})") from error
        self._path = path
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
            self._db.conn.executemany(_upsert("machines", MACHINE_COLUMNS, "machine_id"), rows)
            self._db.conn.executemany(
                "update machines set retired_ms = null where machine_id = ?", [row[:1] for row in rows]
            )

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
        rows = [(to_ms(at), machine_id) for machine_id in machine_ids]
        with self._db.atomic():
            self._db.conn.executemany("update machines set retired_ms = ? where machine_id = ?", rows)
            for table in ("latest", "decisions"):
                self._db.conn.executemany(
                    f"delete from {table} where machine_id = ?",  # noqa: S608 - names of ours
                    [row[1:] for row in rows],
                )

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
            self._db.conn.executemany(_upsert("baselines", BASELINE_COLUMNS, "machine_id, power_mode"), rows)

    def save_round(
        self,
        picture: Picture,
        round_row: RoundRow,
        fleet: Fleet,
        polled: Iterable[MachineId],
        *,
        valid_s: float,
    ) -> None:
        """Write a whole poll round in one transaction: the readings of the machines that were polled, the latest
        picture and the round itself. A reading may stand for `valid_s` seconds. What a scan has taken out of the
        fleet meanwhile is left out."""
        valid_ms = round(valid_s * 1000)
        self._new_quotes = {}
        views = {view.machine_id: view for view in picture.views}
        with self._db.atomic():
            site = self._stored_quote(picture.market, picture.terms)
            quotes = {
                machine_id: self._stored_quote(picture.market, each.terms, own=True)
                for machine_id, each in picture.own_terms.items()
            }
            self._db.conn.executemany(
                _INSERT_READING,
                [
                    reading_row(machine, views[machine_id], quotes.get(machine_id, site), valid_ms)
                    for machine_id in polled
                    if (machine := fleet.get(machine_id)) is not None and machine_id in views
                ],
            )
            self._db.conn.executemany(
                _upsert("latest", LATEST_COLUMNS, "machine_id"),
                [
                    latest_row(view, machine.reading)
                    for view in picture.views
                    if (machine := fleet.get(view.machine_id)) is not None
                ],
            )
            self._db.conn.execute(
                "insert or replace into rounds values (?, ?, ?, ?, ?, ?, ?)", round_values(round_row)
            )
        self._quotes = self._new_quotes  # only now: a round that was rolled back took its rows with it

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

    def save_setting(self, name: str, value: str) -> None:
        """Remember something across restarts."""
        with self._db.atomic():
            self._db.conn.execute("insert or replace into settings values (?, ?)", (name, value))

    def setting(self, name: str) -> str | None:
        """What was remembered, or None."""
        for row in self._db.query("select value from settings where name = ?", [name]):
            return str(row["value"])
        return None

    def create_order(self, order: Order) -> Order | None:
        """Store a new order and give it its id; None if the machine has an open one. Its own `order_id` is ignored."""
        try:
            with self._db.atomic():
                return self._insert_order(order)
        except sqlite3.IntegrityError:
            return None

    def advance(self, before: Order, after: Order) -> None:
        """Replace an order by its next state, if it is still as `before`. Raises `StoreError` if it is not.

        That it is being sent is on the disk itself before this returns: with the host's power gone a moment later,
        an order that was sent and not remembered would leave a machine asleep that nobody wakes.
        """
        with self._safe_from_power_loss(after.state is OrderState.DISPATCHING), self._db.atomic():
            self._advance(before, after)

    @contextmanager
    def _safe_from_power_loss(self, wanted: bool) -> Iterator[None]:
        """Have a transaction synced, and all that was committed before it, which is only sure not to be torn."""
        if not wanted:
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
            f"insert into orders ({', '.join(ORDER_COLUMNS)}) values ({marks})",  # noqa: S608 - names of ours
            order_row(order),
        )
        assert cursor.lastrowid is not None  # noqa: S101 - an insert has one
        return replace(order, order_id=cursor.lastrowid)

    def _advance(self, before: Order, after: Order) -> None:
        """Compare and set: two hands on one order, or a restored database, must not repeat a command."""
        updates = ", ".join(f"{name} = ?" for name in ORDER_COLUMNS)
        cursor = self._db.conn.execute(
            f"update orders set {updates} where order_id = ? and state = ? and attempts = ?",  # noqa: S608 - names of ours
            (*order_row(after), before.order_id, before.state.value, before.attempts),
        )
        if cursor.rowcount != 1:
            raise StoreError(f"{self._path}: order {before.order_id} is not {before.state.value} any more")

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

    def save_decisions(self, records: Iterable[DecisionRecord]) -> None:
        """Replace what was decided of these machines."""
        with self._db.atomic():
            self._db.conn.executemany(
                _upsert("decisions", DECISION_COLUMNS, "machine_id"),
                [decision_row(record) for record in records],
            )

    def load_decisions(self) -> list[DecisionRecord]:
        """What was last decided of each machine."""
        return [decision_of(row) for row in self._db.query("select * from decisions")]

    def save_events(self, events: Iterable[Event]) -> None:
        """Append events."""
        with self._db.atomic():
            self._db.conn.executemany(
                "insert into events (at_ms, kind, machine_id, detail) values (?, ?, ?, ?)",
                [(to_ms(event.at), event.kind, event.machine_id, event.detail) for event in events],
            )


class Reader:
    """A read-only connection: works while the agent writes, and while it is down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if not path.is_file():
                raise StoreError(
                    f"{path}: no such database; start the agent with `hashcost run` or name another"
                )
            connection = _connect_read_only(path)
            with _closed_on_failure(connection):
                self._db = Database(connection)
                _refuse_foreign(self._db, path)
                _refuse_newer(self._db, path)
                if migrations.pending(self._db):
                    raise StoreError(
                        f"{path}: of an older version; start the agent once, it brings it up to date"
                    )
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: cannot be read as a hashcost database ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{self._path}: cannot be read ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def latest(self) -> list[MachineView]:
        """The latest picture of every machine, in no order."""
        return [view_of(row) for row in self._db.query(_SELECT_LATEST)]

    def decisions(self) -> dict[MachineId, DecisionRecord]:
        """What the agent last decided of each machine."""
        return {
            record.machine_id: record
            for record in map(decision_of, self._db.query("select * from decisions"))
        }

    def prices(self) -> dict[str, Any]:
        """How the numbers of the market and their sources are doing (`market.report`); empty before the first round."""
        for row in self._db.query("select value from settings where name = ?", [PRICES]):
            found: dict[str, Any] = json.loads(row["value"])
            return found
        return {}

    def conditions(self) -> tuple[Market, Terms] | None:
        """Prices and payout terms in force at the last round (of the terms: fee, reject and overhead)."""
        polled_at = self.last_round_at()
        for row in self._db.query("select * from quotes where not own order by quote_id desc limit 1"):
            return market_of(row, polled_at or from_ms(row["at_ms"])), Terms(
                fee=row["fee"], reject=row["reject"], overhead=row["overhead"]
            )
        return None

    def conditions_of(self, machine_id: MachineId) -> tuple[Market, Terms] | None:
        """The same for one machine, as of its last reading, if its terms are its own and not the site's."""
        polled_at = self.last_round_at()
        for row in self._db.query(_SELECT_OWN_QUOTE, [machine_id]):
            if row["own"]:
                return market_of(row, polled_at or from_ms(row["at_ms"])), Terms(
                    fee=row["fee"], reject=row["reject"], overhead=row["overhead"]
                )
        return None

    def terms(self) -> dict[MachineId, Terms]:
        """What each machine of the live picture runs under, as of its last reading: fee, reject, overhead, the watts of
        sleep, and a price of its own."""
        return {MachineId(row["machine_id"]): terms_of(row) for row in self._db.query(_SELECT_TERMS)}

    def last_round_at(self) -> datetime | None:
        """When the last poll round began; None before the first."""
        for row in self._db.query("select max(began_ms) as began_ms from rounds"):
            return None if row["began_ms"] is None else from_ms(row["began_ms"])
        return None

    def readings_span(self) -> tuple[datetime, datetime] | None:
        """When the first and the last stored reading began."""
        for row in self._db.query("select min(began_ms) as first, max(began_ms) as last from readings"):
            return None if row["first"] is None else (from_ms(row["first"]), from_ms(row["last"]))
        return None

    def machines(self) -> list[MachineRow]:
        """The inventory, by machine id."""
        return [inventory_row(row) for row in self._db.query("select * from machines order by machine_id")]

    def readings(self, start: datetime, end: datetime) -> Iterator[tuple[MachineId, list[ReadingRow]]]:
        """Readings that say something about [start, end), and may begin before it, machine by machine in order of id,
        oldest first."""
        rows = self._db.query(_SELECT_READINGS, {"start_ms": to_ms(start), "end_ms": to_ms(end)})
        for machine_id, group in groupby(rows, key=lambda row: row["machine_id"]):
            yield MachineId(machine_id), [reading_of(row) for row in group]

    def orders(self, limit: int = 1000) -> list[Order]:
        """The last orders, newest first."""
        rows = self._db.query("select * from orders order by order_id desc limit ?", [limit])
        return [order_of(row) for row in rows]

    def sleeps(self) -> dict[MachineId, list[int]]:
        """When, in milliseconds, sleeps that we ordered were confirmed, by machine; also those released since."""
        found: dict[MachineId, list[int]] = {}
        for row in self._db.query(_SELECT_SLEEPS):
            found.setdefault(MachineId(row["machine_id"]), []).append(row["confirmed_ms"])
        return found

    def events(self, limit: int = 100) -> list[Event]:
        """The last events, newest first."""
        rows = self._db.query("select * from events order by event_id desc limit ?", [limit])
        return [event_of(row) for row in rows]

    def last_scan(self) -> list[Event]:
        """The events of the last scan, oldest first: what lies between the last two `scanned`."""
        return [event_of(row) for row in self._db.query(_SELECT_LAST_SCAN)]

    def validity(self) -> timedelta | None:
        """How long the newest reading may stand; None without any."""
        for row in self._db.query("select valid_ms from readings order by began_ms desc limit 1"):
            return timedelta(milliseconds=row["valid_ms"])
        return None


def _is_of_the_disk(error: sqlite3.Error | OSError) -> bool:
    """Whether the disk is at fault, and not what was asked for."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
    }


def damage(path: Path) -> str | None:
    """What is wrong with a database file, in SQLite's words; None if nothing is."""
    try:
        with closing(_connect_read_only(path)) as connection:
            found = [" ".join(str(row[0]).split()) for row in connection.execute("pragma quick_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return None if found == ["ok"] else "; ".join(found)


def copy_database(source: Path, target: Path) -> None:
    """Write one consistent state of a database to a new file, packed and synced; writers go on. Raises `StoreError`."""
    try:
        with closing(_connect_read_only(source)) as connection:
            connection.execute("vacuum into ?", (str(target),))
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except sqlite3.Error as error:
        raise StoreError(f"{source}: cannot be copied to {target} ({error})") from error


@contextmanager
def no_writer(path: Path) -> Iterator[None]:
    """While this lasts no agent can open the database. Raises `StoreError` if one has it."""
    with _only_writer(path):
        yield


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Open without creating anything. A database that was closed cleanly in a directory that we may not write has no
    shared-memory file for its log, and then only opens as the immutable file that it is."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        with _closed_on_failure(connection):
            connection.execute("select 1 from sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if path.with_name(path.name + "-wal").exists():
            raise
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    return connection


@contextmanager
def _closed_on_failure(*resources: sqlite3.Connection | IO[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for resource in resources:
            resource.close()
        raise


def _only_writer(path: Path) -> IO[str]:
    """Hold the lock file beside the database for as long as it is open: one agent, one writer. A lock on the database
    itself would get into the way of SQLite's own."""
    lock = path.with_name(f"{path.name}.lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise StoreError(
            f"{path}: in use by another agent ({holder}); stop that one or name another file"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _refuse_foreign(db: Database, path: Path) -> None:
    """A database with tables, of which none is ours, belongs to another program."""
    if migrations.applied(db):
        return
    if any(not name.startswith("_sqlite") for name in db.table_names()):
        raise StoreError(f"{path}: not a hashcost database, but one of another program; name another file")


def _refuse_newer(db: Database, path: Path) -> None:
    with closing(Database(memory=True)) as empty:
        known = {migration.name for migration in migrations.pending(empty)}
    unknown = [migration.name for migration in migrations.applied(db) if migration.name not in known]
    if unknown:
        raise StoreError(
            f"{path}: written by a newer hashcost (it knows {', '.join(unknown)}); upgrade this one"
        )


def _upsert(table: str, columns: Sequence[str], key: str) -> str:
    keys = {name.strip() for name in key.split(",")}
    kept = {"first_seen_ms"}
    latest = {"last_seen_ms": "max(coalesce(last_seen_ms, 0), excluded.last_seen_ms)"}
    updates = ", ".join(
        f"{name} = {latest.get(name, f'excluded.{name}')}" for name in columns if name not in keys | kept
    )
    return (
        f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))}) "  # noqa: S608 - names of ours
        f"on conflict ({key}) do update set {updates}"
    )


_SELECT_LAST_SCAN = """
    select * from events
    where (kind = 'scan_failure' or kind like 'machine_%')
    and event_id < (select max(event_id) from events where kind = 'scanned')
    and event_id > (
        select coalesce(max(event_id), 0) from events where kind = 'scanned'
        and event_id < (select max(event_id) from events where kind = 'scanned')
    )
    order by event_id
"""
_SELECT_LATEST = """
    select latest.*, mac, host, port, make, model, firmware, machine_group
    from latest join machines using (machine_id)
"""
_INSERT_READING = """
    insert or ignore into readings (machine_id, began_ms, valid_ms, run_state, failure, implausible, hashrate_ths,
    power_w, power_source, power_mode, chip_temp_c, quote_id, ours, decision_margin_usd_per_day)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_QUOTE = """
    insert into quotes (at_ms, difficulty, height, fees_btc, btc_usd, hashprice_usd_per_ph_day, hashprice_source,
    price_usd_per_kwh, price_source, fee, reject, overhead, own) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT_OWN_QUOTE = """
    select quotes.* from readings join quotes using (quote_id)
    where machine_id = ? order by began_ms desc limit 1
"""
_SELECT_TERMS = """
    select machines.machine_id, sleep_power_w, fee, reject, overhead, price_usd_per_kwh, price_source
    from machines join quotes on quote_id = (
        select quote_id from readings where readings.machine_id = machines.machine_id
        order by began_ms desc limit 1
    )
    where retired_ms is null
"""
_SELECT_SLEEPS = (
    "select machine_id, confirmed_ms from orders where action = 'sleep' and confirmed_ms is not null"
)
_SELECT_READINGS = """
    select machine_id, began_ms, valid_ms, run_state, implausible, hashrate_ths, power_w, power_source,
           ours, decision_margin_usd_per_day, hashprice_usd_per_ph_day, price_usd_per_kwh, fee, reject, overhead
    from readings join quotes using (quote_id)
    where began_ms < :end_ms and began_ms >= (
        select coalesce(min(began_ms), :start_ms) from readings
        where began_ms < :start_ms and began_ms + valid_ms > :start_ms
    )
    order by machine_id, began_ms
"""
"""From the oldest reading that reaches into the range: what began since then may have cut it off, and counts too."""
