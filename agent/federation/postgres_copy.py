"""Writes a fleet to PostgreSQL: one connection for all sites, a transaction for what came of each."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from agent.config.postgres import PostgresSection
from agent.database import CHANGE, StoreError
from agent.federation.messages import Row
from agent.federation.postgres import (
    Connection,
    bring_up_to_date,
    connect,
    in_postgres,
    place_of,
    read_marker,
    told,
    types_of,
)
from agent.federation.replica import NONSENSE, REPLICA_OF, Copy
from agent.store import updates

_ONE_WRITER = 0x666C6565


class PostgresCopies:
    """The only writer of a fleet. A connection that was lost is made anew when the next site is opened."""

    def __init__(self, marker: Path) -> None:
        self.where: PostgresSection = read_marker(marker)
        self._connection: Connection | None = None
        self.connection()

    def connection(self) -> Connection:
        """The connection, open. Raises `StoreError`."""
        if self._connection is None or self._connection.closed:
            self._connection = self._opened()
        return self._connection

    def _opened(self) -> Connection:
        connection = connect(self.where, prepare_threshold=None)
        try:
            self._be_the_only_one(connection)
            bring_up_to_date(connection, self.where)
            connection.execute("set search_path = hashcost_site")
        except psycopg.Error as error:
            connection.close()
            raise told(error, self.where) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _be_the_only_one(self, connection: Connection) -> None:
        if connection.execute("select pg_try_advisory_lock(%s)", (_ONE_WRITER,)).fetchone() != (True,):
            raise StoreError(f"{place_of(self.where)}: in use by another `hashcost fleet run`; stop that one")

    def open_site(self, name: str, now: Callable[[], datetime]) -> "PostgresCopy":
        """The writer of one site. Raises `StoreError`."""
        with self.careful():
            return PostgresCopy(self.connection(), self.careful, name, now)

    def read_state(self) -> str:
        """What was remembered beside the sites."""
        with self.careful():
            row = self.connection().execute("select state from hashcost.fleet").fetchone()
        return "{}" if row is None else str(row[0])

    def write_state(self, text: str) -> None:
        """Remember it."""
        with self.careful():
            self.connection().execute("update hashcost.fleet set state = %s", (text,))

    @contextmanager
    def careful(self) -> Iterator[None]:
        """Tell errors of the server in our words."""
        try:
            yield
        except psycopg.Error as error:
            raise told(error, self.where) from error

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class PostgresCopy(Copy):
    """The writer of one site's copy."""

    REFUSALS = (*NONSENSE, psycopg.DataError, psycopg.IntegrityError)

    def __init__(
        self,
        connection: Connection,
        careful: Callable[[], AbstractContextManager[None]],
        site: str,
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._careful = careful
        self._site = site
        self._now = now
        self._change = int(self.setting(CHANGE) or 0)
        with self._transaction():
            self._keep(REPLICA_OF, site)

    def close(self) -> None:
        """The connection is there for the others."""

    def setting(self, name: str) -> str | None:
        """What was remembered, or None."""
        row = self._connection.execute(
            "select value from hashcost.settings where site = %s and name = %s", (self._site, name)
        ).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            self._connection.execute("select set_config('hashcost.site', %s, true)", (self._site,))
            yield

    @contextmanager
    def _changing(self) -> Iterator[int]:
        change = self._change + 1
        with self._careful(), self._transaction():
            yield change
            self._keep(CHANGE, str(change))
        self._change = change

    def _message(self) -> AbstractContextManager[Any]:
        return self._connection.transaction()

    def _upsert(self, table: str, columns: Sequence[str], key: str, rows: Iterable[Row]) -> None:
        """Of rows with the same key the last counts, as if they were written one by one."""
        places = [list(columns).index(name.strip()) for name in key.split(",")]
        last = {tuple(row[place] for place in places): row for row in rows}
        self._write(
            table,
            columns,
            last.values(),
            f" on conflict (site, {key}) do update set {updates(table, columns, key)}",
        )

    def _insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        self._write(table, columns, rows, "")

    def _last_readings(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self._upsert("readings", columns, "machine_id", rows)

    def _write(self, table: str, columns: Sequence[str], rows: Iterable[Row], otherwise: str) -> None:
        self._execute(written(table, columns) + otherwise, (json.dumps(as_objects(columns, rows)),))

    def _each(self, sql: str, rows: Iterable[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(in_postgres(sql), list(rows))

    def _run(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
        self._execute(in_postgres(sql), parameters)

    def _number(self, sql: str, parameters: Sequence[Any] = ()) -> int | None:
        row = self._connection.execute(in_postgres(sql), parameters).fetchone()
        return None if row is None else row[0]

    def _execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
        self._connection.execute(sql, parameters)


def written(table: str, columns: Sequence[str]) -> str:
    """SQL that writes rows that are bound as JSON: one statement for all of a message."""
    types = types_of(table)
    told = ", ".join(f"{name} {types[name].partition(' collate')[0]}" for name in columns)
    names = ", ".join(columns)
    return f"insert into hashcost.{table} ({names}) select {names} from json_to_recordset(%s::json) as told ({told})"  # noqa: S608


def as_objects(columns: Sequence[str], rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [dict(zip(columns, row, strict=True)) for row in rows]
