"""A fleet in PostgreSQL: where it is, its tables, and how one site of it is read as a site's own database is.

The tables are those of a site's database, each row with its site: `hashcost.latest`, `hashcost.ledger`. Views of the
same names in the schema `hashcost_site` hold what is of one site, the one that a session has named, so that what asks a
site's database asks them, in the same words.

AwayError                the server cannot be reached, or does not let us in
"""

import atexit
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from threading import Lock, RLock
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
from pydantic import ValidationError
from sqlite_utils import Database

from agent.config.postgres import PostgresSection
from agent.database import StoreError
from agent.migrations import migrations

Connection = psycopg.Connection[tuple[Any, ...]]
CONNECT_WITHIN_S = 10
_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_WITHIN_S,
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 30,
    "application_name": "hashcost",
    "client_encoding": "UTF8",
}
_TYPES = {"TEXT": 'text collate "C"', "INTEGER": "bigint", "REAL": "double precision"}
"""Of SQLite's types; "C" sorts texts as SQLite does."""
_BOOLEAN = {("quotes", "own")}
"""Columns that queries take for true or false."""
_LAST_ONLY = {"readings": ("machine_id",)}
"""Other keys than on site: of readings a fleet has each machine's last."""
_NUMBERED = {"events": "event_id"}
_INDEXES = {"ledger_hour": "ledger (site, hour_ms)", "orders_of_machine": "orders (site, machine_id)"}
_REWRITTEN = ("latest", "readings")
"""Rows that are written again in every round: with room beside them, so that no index has to be."""
_HYPERTABLES = {"ledger": "hour_ms", "rounds": "began_ms"}
_WEEK_MS = 7 * 86_400_000
_LOCK = 0x68617368
_SITE = "current_setting('hashcost.site', true)"


class AwayError(StoreError):
    """The server cannot be reached, or does not let us in."""


# -- the connection --------------------------------------------------------------------------------------


def read_marker(marker: Path) -> PostgresSection:
    """Where the fleet of this directory is. Raises `StoreError`."""
    try:
        where = PostgresSection(**json.loads(marker.read_text(encoding="utf-8")))
    except ValidationError as error:  # its own text would show what is in the file
        what = "; ".join(each["msg"] for each in error.errors())
        raise StoreError(f"{marker}: {what}") from None
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{marker}: does not say where a fleet is ({error})") from error
    if where.url is None:
        raise StoreError(f"{marker}: does not say where a fleet is (no url)")
    return where


def place_of(where: PostgresSection) -> str:
    """What to call the server."""
    parts = urlsplit(str(where.url))
    return f"PostgreSQL at {parts.netloc.rpartition('@')[2] or 'this host'}{parts.path}"


def connect(where: PostgresSection, **options: Any) -> Connection:
    """Each statement a transaction of its own unless one is begun. Raises `AwayError`."""
    if where.has_secret:
        with suppress(ValueError):  # of the service, and not ours to read: PostgreSQL's own ways are left
            options["password"] = where.secret()
    try:
        return psycopg.connect(str(where.url), autocommit=True, **_OPTIONS, **options)
    except psycopg.Error as error:
        raise told(error, where) from error


def told(error: psycopg.Error, where: PostgresSection) -> StoreError:
    """An error in one line, with what to do where that is known."""
    what = " ".join(str(error).split())
    if isinstance(error, psycopg.errors.InvalidSchemaName | psycopg.errors.UndefinedTable):
        return StoreError(f"{place_of(where)}: no fleet is kept there; start `hashcost fleet run` ({what})")
    if isinstance(error, psycopg.OperationalError):
        return AwayError(f"{place_of(where)}: {what}")
    return StoreError(f"{place_of(where)}: {what}")


# -- the tables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a site's database, as a fleet has it."""

    name: str
    columns: dict[str, str]
    """Name and type of PostgreSQL, without the site."""
    limits: dict[str, str]
    key: tuple[str, ...]
    foreign: tuple[tuple[str, str], ...]
    """Columns that name a row of another table by the same name."""


@cache
def tables() -> tuple[Table, ...]:
    """The tables of a site's database of this version, those that are referred to first."""
    with closing(Database(memory=True)) as db:
        migrations.apply(db)
        names = [
            name for name in db.table_names() if not name.startswith(("_", "sqlite_")) and name != "outbox"
        ]
        found = [_table(db.conn, name) for name in names]
    return tuple(sorted(found, key=lambda table: bool(table.foreign)))


@cache
def types_of(table: str) -> dict[str, str]:
    """The columns of a table with their types."""
    return next(each.columns for each in tables() if each.name == table)


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns, limits, key = {}, {}, {}
    for _, column, kind, required, default, place in connection.execute(f"pragma table_info({name})"):
        is_boolean = (name, column) in _BOOLEAN
        columns[column] = "boolean" if is_boolean else _TYPES[kind]
        value = default if default is None or not is_boolean else str(default != "0").lower()
        limits[column] = (" not null" if required else "") + ("" if value is None else f" default {value}")
        if place:
            key[place] = column
    if name in _NUMBERED:
        limits[_NUMBERED[name]] = " generated by default as identity"
    foreign = {row[3]: row[2] for row in connection.execute(f"pragma foreign_key_list({name})")}
    return Table(
        name=name,
        columns=columns,
        limits=limits,
        key=_LAST_ONLY.get(name, tuple(key[place] for place in sorted(key))),
        foreign=tuple(foreign.items()),
    )


def version() -> int:
    """The version of the tables: how many migrations a site's database has had."""
    with closing(Database(memory=True)) as empty:
        return len(migrations.pending(empty))


def schema() -> Iterator[str]:
    """What makes the tables, and brings them up to date: columns only ever come to them."""
    yield "create schema if not exists hashcost"
    yield "create schema if not exists hashcost_site"
    yield (
        "create table if not exists hashcost.fleet (one boolean primary key default true check (one), "
        "version integer not null, state text not null default '{}')"
    )
    for table in tables():
        lines = [
            f'site text collate "C" not null default {_SITE}',
            *(f"{name} {kind}{table.limits[name]}" for name, kind in table.columns.items()),
            f"primary key (site, {', '.join(table.key)})",
            *(
                f"foreign key (site, {column}) references hashcost.{other} (site, {column})"
                for column, other in table.foreign
            ),
        ]
        room = " with (fillfactor = 70)" if table.name in _REWRITTEN else ""
        yield f"create table if not exists hashcost.{table.name} ({', '.join(lines)}){room}"
        for name, kind in table.columns.items():
            added = f"add column if not exists {name} {kind}{table.limits[name]}"
            yield f"alter table hashcost.{table.name} {added}"
        yield (
            f"create or replace view hashcost_site.{table.name} as select {', '.join(table.columns)} "  # noqa: S608
            f"from hashcost.{table.name} where site = {_SITE}"
        )
    for index, what in _INDEXES.items():
        yield f"create index if not exists {index} on hashcost.{what}"


def hypertables() -> Iterator[str]:
    """What gives the tables that grow with time to TimescaleDB, where it is installed in the database."""
    for table, column in _HYPERTABLES.items():
        yield (
            f"select create_hypertable('hashcost.{table}', '{column}', chunk_time_interval => {_WEEK_MS}::bigint, "
            "if_not_exists => true, migrate_data => true)"
        )


def bring_up_to_date(connection: Connection, where: PostgresSection) -> None:
    """Make the tables, or bring those of an older version up to date. Raises `StoreError` for newer ones."""
    connection.execute("set client_min_messages = warning")
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        if (there := _version_there(connection)) == version():
            return
        refuse_newer(there, where)
        for statement in schema():
            connection.execute(statement)
        if connection.execute("select 1 from pg_extension where extname = 'timescaledb'").fetchone():
            for statement in hypertables():
                connection.execute(statement)
        connection.execute(
            "insert into hashcost.fleet (version) values (%s) on conflict (one) do update set version = %s",
            (version(), version()),
        )


def _version_there(connection: Connection) -> int:
    """0 where there is nothing yet."""
    if connection.execute("select to_regclass('hashcost.fleet')").fetchone() == (None,):
        return 0
    row = connection.execute("select version from hashcost.fleet").fetchone()
    return 0 if row is None else int(row[0])


def refuse_newer(there: int, where: PostgresSection) -> None:
    """Raise `StoreError` for tables of a version that is not known here."""
    if there > version():
        raise StoreError(
            f"{place_of(where)}: written by a newer hashcost (tables of version {there}, here {version()}); "
            "upgrade this one"
        )


# -- reading ---------------------------------------------------------------------------------------------

_MARKS = re.compile(r"\?(\d+)?|:([a-z_]\w*)|%")


@lru_cache(maxsize=200)
def in_postgres(sql: str) -> str:
    """A query of a site's database with its parameters as psycopg has them."""

    def mark(found: re.Match[str]) -> str:
        number, name = found.groups()
        if found[0] == "%":
            return "%%"
        if name is not None:
            return f"%({name})s"
        return "%s" if number is None else f"%(p{number})s"

    return _MARKS.sub(mark, sql)


def _bound(sql: str, parameters: Any) -> Any:
    if "?1" in sql:
        return {f"p{number}": value for number, value in enumerate(parameters, 1)}
    return parameters


class Found:
    """Rows of a query. Inside a moment they come as they are asked for: a ledger may be larger than memory."""

    def __init__(self, cursor: Any, where: PostgresSection) -> None:
        self._cursor = cursor
        self._where = where

    def names(self) -> list[str]:
        """The columns."""
        return [column.name for column in self._cursor.description]

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._cursor
        except psycopg.Error as error:
            raise told(error, self._where) from error
        finally:
            self._cursor.close()


class Link:
    """A connection that all who read in this process share: a fleet has more sites than a server has connections. One
    that was lost is made anew."""

    def __init__(self, where: PostgresSection) -> None:
        self.where = where
        self._lock = RLock()
        self._connection: Connection | None = None
        self._site = ""
        self._moments = 0
        self._numbers = count(1)

    def ask(self, site: str, sql: str, parameters: Any = ()) -> Found:
        """Query as one site. Raises `StoreError`."""
        with self._lock:
            try:
                connection = self._open(site)
                cursor: Any = (
                    connection.cursor(name=f"found_{next(self._numbers)}")
                    if self._moments
                    else connection.cursor()
                )
                cursor.execute(in_postgres(sql), _bound(sql, parameters))
            except psycopg.Error as error:
                raise told(error, self.where) from error
            return Found(cursor, self.where)

    @contextmanager
    def moment(self, site: str) -> Iterator[None]:
        """A transaction; nobody else reads meanwhile."""
        with self._lock:
            try:
                connection = self._open(site)
                if not self._moments:
                    connection.execute("begin isolation level repeatable read, read only")
            except psycopg.Error as error:
                raise told(error, self.where) from error
            self._moments += 1
            try:
                yield
            finally:
                self._moments -= 1
                if not self._moments:
                    self._site = ""  # what was set inside is undone
                    with suppress(psycopg.Error):
                        connection.rollback()

    def _open(self, site: str) -> Connection:
        if self._connection is None or (self._connection.closed and not self._moments):
            self._site = ""
            self._connection = connect(self.where, cursor_factory=psycopg.ClientCursor)
            self._connection.execute("set search_path = hashcost_site")
        if site != self._site:
            self._connection.execute("select set_config('hashcost.site', %s, false)", (site,))
            self._site = site
        return self._connection

    def close(self) -> None:
        """Close it; it is opened again when somebody reads."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


_links: dict[PostgresSection, Link] = {}
_guard = Lock()


def link_to(where: PostgresSection) -> Link:
    """The connection of this process, until it ends."""
    with _guard:
        return _links.setdefault(where, Link(where))


@atexit.register
def close_links() -> None:
    """Close what is open for reading."""
    for link in _links.values():
        link.close()


class _AsSite:
    """What a reader asks of `sqlite_utils.Database` and its connection, answered by PostgreSQL as one site."""

    def __init__(self, link: Link, site: str) -> None:
        self._link = link
        self._site = site
        self.conn = self

    def execute(self, sql: str, parameters: Any = ()) -> Found:
        """As of a connection."""
        return self._link.ask(self._site, sql, parameters)

    def query(self, sql: str, parameters: Any = ()) -> Iterator[dict[str, Any]]:
        """As of a database."""
        found = self.execute(sql, parameters)
        names = found.names()
        return (dict(zip(names, row, strict=True)) for row in found)


class SiteInPostgres:
    """One site of a fleet, opened for reading (`agent.opened.Opened`). Raises `StoreError`."""

    def __init__(self, marker: Path, path: Path) -> None:
        where = read_marker(marker)
        self._link = link_to(where)
        self._site = path.stem
        self.db = cast("Database", _AsSite(self._link, self._site))
        row = self._link.ask(
            self._site,
            "select version, cast(to_regclass('hashcost.latest') as oid), exists (select 1 from settings) "
            "from hashcost.fleet",
        ).fetchone()
        there, table, known = row or (0, 0, False)
        refuse_newer(there, where)
        if there < version():
            raise StoreError(
                f"{place_of(where)}: of an older version; start `hashcost fleet run` once, it brings it up to date"
            )
        if not known:
            raise StoreError(f"{path}: no such site in {place_of(where)}")
        self.identity = (0, int(table))

    @property
    def outdated(self) -> bool:
        """A connection is made anew by itself."""
        return False

    def moment(self) -> Any:
        """However much comes meanwhile."""
        return self._link.moment(self._site)

    def close(self) -> None:
        """The connection is there for others."""


def sites_in(marker: Path) -> Sequence[str]:
    """The sites of a fleet, by name. Raises `StoreError`."""
    found = link_to(read_marker(marker)).ask("", "select distinct site from hashcost.settings order by site")
    return [str(row[0]) for row in found]


def state_in(marker: Path) -> str:
    """What the fleet remembers beside the sites. Raises `StoreError`."""
    row = link_to(read_marker(marker)).ask("", "select state from hashcost.fleet").fetchone()
    return "{}" if row is None else str(row[0])
