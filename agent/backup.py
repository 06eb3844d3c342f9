"""Copies of the database: taken while the agent writes, kept in rotation, checked, and put back.

BackupError          exit 2: the copy or its place cannot be used; nothing was changed
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.errors import UsageError
from agent.store import Reader, copy_database, damage, no_writer

STAMP = "%Y%m%dT%H%M%SZ"
REPLACED_KEPT = 3
"""Of the databases in whose place a copy was put, so many of the newest stay."""
_COMPANIONS = ("-wal", "-shm")


class BackupError(UsageError):
    """A copy of the database cannot be made, used or put back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. `kept` is where the database went that was there before, if there was one."""

    last_round_at: datetime | None
    kept: Path | None


def back_up(database: Path, directory: Path, *, keep: int, now: datetime) -> Path:
    """Copy the database into the directory as `hashcost-TIME.db`, whole or not at all, and remove all but the newest
    `keep` copies. The agent goes on writing meanwhile. Raises `BackupError` or `StoreError`."""
    with Reader(database):  # refuses what is not ours
        pass
    target = directory / f"hashcost-{now.strftime(STAMP)}.db"
    new = target.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupError(f"{directory}: cannot hold backups ({error.strerror})") from error
    try:
        new.unlink(missing_ok=True)
        copy_database(database, new)
        if (found := damage(new)) is not None:
            raise BackupError(
                f"{database}: its copy is damaged ({found}); restore an older one: `restore-db`"
            )
        new.chmod(0o640)
        new.replace(target)
        for old in sorted(directory.glob("hashcost-*.db"))[:-keep]:
            old.unlink()
    except OSError as error:
        raise BackupError(f"{directory}: cannot hold backups ({error.strerror})") from error
    finally:
        new.unlink(missing_ok=True)
    return target


def restore(copy: Path, database: Path, *, now: datetime) -> Restored:
    """Put a copy in the place of the database, of which everything is kept beside it, with the newest of those that
    were replaced before. Raises `BackupError` if the copy is damaged, `StoreError` if it is not ours or newer than we
    are, or if the agent is running."""
    with Reader(copy) as reader:
        last_round_at = reader.last_round_at()
    if (found := damage(copy)) is not None:
        raise BackupError(f"{copy}: is damaged ({found}); take another copy")
    new = database.with_name(f".{database.name}.restored")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with no_writer(database):
            new.unlink(missing_ok=True)
            copy_database(copy, new)
            kept = _keep(database, f".before-{now.strftime(STAMP)}")
            # a log of the old database must never be applied to the new one
            for suffix in _COMPANIONS:
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            new.replace(database)
            _drop_replaced(database, but=kept)
    except OSError as error:
        raise BackupError(f"{database}: cannot be replaced ({error.strerror})") from error
    finally:
        new.unlink(missing_ok=True)
    return Restored(last_round_at=last_round_at, kept=kept)


def _keep(database: Path, mark: str) -> Path | None:
    """Give the files of a database second names, under which they are whole; None if there are none."""
    if not database.exists():
        return None
    kept = database.with_name(database.name + mark)
    for suffix in ("", *_COMPANIONS):
        part = database.with_name(database.name + suffix)
        if part.exists():
            kept.with_name(kept.name + suffix).hardlink_to(part)
    return kept


def _drop_replaced(database: Path, *, but: Path | None) -> None:
    """Remove all but the newest databases that were replaced, and never that one, whatever the clock says."""
    name = re.compile(re.escape(database.name) + r"\.before-\d{8}T\d{6}Z")
    older = sorted(path for path in database.parent.iterdir() if name.fullmatch(path.name) and path != but)
    for path in older[: max(0, len(older) + (but is not None) - REPLACED_KEPT)]:
        for suffix in ("", *_COMPANIONS):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
