"""An open store, read-only: the file of a site, or what a fleet keeps of a site in PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlite_utils import Database

from agent.database import StoreError, closed_on_failure, open_read_only, refuse_foreign, refuse_newer
from agent.migrations import migrations

MARKER = "postgres.json"
"""In the directory of a fleet that is kept in PostgreSQL: where that is. Its sites are named as files would be."""


class Opened(Protocol):
    """What a reader needs of a store; its errors are `StoreError` and `sqlite3.Error`."""

    @property
    def db(self) -> Database:
        """Answers queries in SQLite's words."""

    @property
    def identity(self) -> tuple[int, int]:
        """Which store it is: another one has changes with other numbers."""

    @property
    def outdated(self) -> bool:
        """Whether what follows would not be what is: to be opened anew."""

    def moment(self) -> AbstractContextManager[None]:
        """Whatever is read inside is of one moment."""

    def close(self) -> None:
        """Let go of it."""


def open_store(path: Path) -> Opened:
    """Open what has this name. Raises `StoreError`."""
    try:
        marker = path.parent / MARKER
        if not path.exists() and marker.is_file():
            from agent.federation.postgres import SiteInPostgres  # noqa: PLC0415 - of an extra

            return SiteInPostgres(marker, path)
        return StoreFile(path)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: cannot be read as a hashcost database ({error})") from error


class StoreFile:
    """A database file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise StoreError(f"{path}: no such database; start the agent with `hashcost run` or name another")
        # before it is opened: one that is replaced in between is told by `outdated`
        self._stamp = _stamp(path)
        connection, self._immutable = open_read_only(path)
        with closed_on_failure(connection):
            self.db = Database(connection)
            refuse_foreign(self.db, path)
            refuse_newer(self.db, path)
            if migrations.pending(self.db):
                raise StoreError(
                    f"{path}: of an older version; start the agent once, it brings it up to date"
                )

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self._stamp[:2]

    @property
    def outdated(self) -> bool:
        """Another file has taken this one's place, or it was opened as one that nobody writes and somebody did
        since."""
        try:
            now = _stamp(self._path)
        except OSError:
            return True
        if not self._immutable:
            return now[:2] != self._stamp[:2]
        return now != self._stamp or self._path.with_name(f"{self._path.name}-wal").exists()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """However much the agent writes meanwhile."""
        self.db.conn.execute("begin")
        try:
            yield
        finally:
            self.db.conn.rollback()

    def close(self) -> None:
        """Close the file."""
        self.db.close()


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """Which file it is, and, for one that nobody has open, whether it was written since."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
