"""The database file: who may open it, for what, and what is wrong with it.

StoreError           the file cannot be used; the message says which and what to do
`-- UnusableStoreError        it is damaged, or cannot be written
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import IO

from sqlite_utils import Database

from agent import notify
from agent.errors import UsageError
from agent.migrations import migrations

BUSY_TIMEOUT_S = 5.0
WORK_TOLD_EVERY_S, WORK_MAY_PAUSE_S = 5.0, 600.0
_STEPS = 100_000
"""Of SQLite's machine: a few milliseconds."""
PRICES = "prices"
"""Setting that holds how prices and their sources are doing."""
TAKEN = "outbox_taken"
"""Setting that holds the place of the last message that the fleet took."""
ARCHIVE = "archive"
"""Setting that says where old days are and which (`agent.archive`)."""
HELD, MODE = "held", "mode"
"""Settings: whether a person holds the site, and the mode that the agent last ran in."""
TENURE, FIRST_ORDER_ID, INHERITED = "tenure", "first_order_id", "inherited"
"""Settings of an agent that others stand by for: the tenure in which the database was last written, and where the
numbers of its orders go on from those of another."""
HEARD = "fleet_heard_ms"
"""Setting of a fleet's copy of a site: when the site's last round came, by the fleet's clock and not by the site's."""
CHANGE = "change"
"""Setting that holds the number of the last change that readers may want: it only grows."""


class StoreError(UsageError):
    """The database cannot be used."""


class UnusableStoreError(StoreError):
    """The database is damaged, or the disk lets nobody write it."""


def is_of_the_disk(error: sqlite3.Error | OSError, path: Path) -> bool:
    """Whether the disk is at fault, and not what was asked for."""
    if isinstance(error, OSError):
        return error.errno in {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if (
        code == sqlite3.SQLITE_CANTOPEN
    ):  # all that SQLite says where it cannot make its log; also of a bad path
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    return code in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
    }


def is_damage(error: sqlite3.Error | OSError) -> bool:
    """Whether the database itself is broken."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def damage(path: Path) -> str | None:
    """What is wrong with a database file, in SQLite's words; None if nothing is."""
    try:
        with closing(connect_read_only(path)) as connection, long_work(connection, f"looking through {path}"):
            found = [" ".join(str(row[0]).split()) for row in connection.execute("pragma quick_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return None if found == ["ok"] else "; ".join(found)


def copy_database(source: Path, target: Path) -> None:
    """Write one consistent state of a database to a new file, packed and synced; writers go on. Raises `StoreError`."""
    try:
        with closing(connect_read_only(source)) as connection:
            # the copy of a file that cannot shrink can
            if connection.execute("pragma auto_vacuum").fetchone() == (0,):
                connection.execute("pragma auto_vacuum = incremental")
            connection.execute("vacuum into ?", (str(target),))
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except sqlite3.Error as error:
        raise StoreError(f"{source}: cannot be copied to {target} ({error})") from error


@contextmanager
def no_writer(path: Path) -> Iterator[None]:
    """While this lasts no agent can open the database. Raises `StoreError` if one has it."""
    with only_writer(path):
        yield


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open without creating anything; see `open_read_only`."""
    return open_read_only(path)[0]


def open_read_only(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open without creating anything, and say whether as an immutable file: a database that was closed cleanly in a
    directory that we may not write has no shared-memory file for its log, and only opens so. Such a connection never
    sees what is written later."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
    )
    try:
        with closed_on_failure(connection):
            connection.execute("select 1 from sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if path.with_name(path.name + "-wal").exists():
            raise
        immutable = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        return sqlite3.connect(immutable, uri=True, check_same_thread=False), True
    return connection, False


@contextmanager
def long_work(connection: sqlite3.Connection, what: str) -> Iterator[None]:
    """Tell the service manager that a connection is at work while it is. It ends a start that takes longer than
    most do, and the next one of a big database would begin from nothing and be ended as well."""
    told_s = monotonic()

    def go_on() -> int:
        nonlocal told_s
        if monotonic() - told_s >= WORK_TOLD_EVERY_S:
            told_s = monotonic()
            notify.tell(notify.more_time(WORK_MAY_PAUSE_S), notify.ALIVE, notify.status(what))
        return 0

    connection.set_progress_handler(go_on, _STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


@contextmanager
def closed_on_failure(*resources: sqlite3.Connection | IO[str]) -> Iterator[None]:
    """Close what was opened if what follows fails."""
    try:
        yield
    except BaseException:
        for resource in resources:
            resource.close()
        raise


def only_writer(path: Path) -> IO[str]:
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


def refuse_foreign(db: Database, path: Path) -> None:
    """A database with tables, of which none is ours, belongs to another program."""
    if migrations.applied(db):
        return
    if any(not name.startswith("_sqlite") for name in db.table_names()):
        raise StoreError(f"{path}: not a hashcost database, but one of another program; name another file")


def refuse_newer(db: Database, path: Path) -> None:
    """A database with migrations that this version does not know was written by a newer one."""
    with closing(Database(memory=True)) as empty:
        known = {migration.name for migration in migrations.pending(empty)}
    unknown = [migration.name for migration in migrations.applied(db) if migration.name not in known]
    if unknown:
        raise StoreError(
            f"{path}: written by a newer hashcost (it knows {', '.join(unknown)}); upgrade this one"
        )
