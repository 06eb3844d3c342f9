"""What `hashcost check` finds out about the host: its clock, disk and files; each finding says what to do about it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from agent.config import Config, ObligationsSection
from agent.config.secret import SecretSection
from agent.database import damage
from agent.kernel_clock import KernelClock, kernel_clock
from agent.messenger import is_address
from agent.store import Reader, StoreError
from agent.vitals import Disk, measure_disk

TOLERABLE_ERROR_S = 1.0
"""A tariff's hour and a call of the grid begin by the clock; a second more or less is no money."""
LEAST_FREE_BYTES = 1 << 30
OLD_COPY = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked. `note` is what is well and should be known all the same."""

    what: str
    ok: bool
    detail: str
    note: bool = False


def host_findings(
    config: Config, database: Path, *, config_path: Path | None, now: datetime | None = None
) -> list[Finding]:
    """Everything about the host. Blocks."""
    now = now or datetime.now(UTC)
    return [
        clock_finding(kernel_clock(), matters=_needs_clock(config)),
        *_database(database, now),
        disk_finding(measure_disk(database), config.alerts.disk_free_share),
        _copies(database, now),
        *_archive(config, database),
        *_permissions(config, config_path, database),
        *_targets(config),
    ]


def _needs_clock(config: Config) -> bool:
    """Whether anything but the stamps of readings goes by the hour."""
    return (
        config.power.kind != "fixed"
        or config.market.source == "live"
        or config.obligations != ObligationsSection()
    )


def clock_finding(clock: KernelClock | None, *, matters: bool) -> Finding:
    """Whether prices and calls of the grid come at the right time; where nothing `matters` to them it is a note."""
    if clock is None:
        return Finding(
            what="clock", ok=True, note=True, detail="the kernel does not tell whether NTP keeps it right"
        )
    if not clock.synchronised:
        detail = (
            "no NTP client keeps it right: prices by the hour and calls of the grid may come at the wrong time; "
            "timedatectl set-ntp true, or install chrony"
        )
        return Finding(what="clock", ok=not matters, note=True, detail=detail)
    if clock.max_error_s > TOLERABLE_ERROR_S:
        return Finding(
            what="clock",
            ok=not matters,
            note=True,
            detail=f"NTP says that it may be {clock.max_error_s:.1f} s off; does it reach its servers (chronyc "
            "sources, timedatectl timesync-status)?",
        )
    return Finding(
        what="clock", ok=True, detail=f"kept by NTP, at most {clock.max_error_s * 1000:.0f} ms off"
    )


def disk_finding(disk: Disk, least_share: float) -> Finding:
    """Whether there is room to write for months."""
    if disk.free_bytes is None or disk.free_share is None:
        return Finding(what="disk", ok=True, note=True, detail="its room cannot be found out")
    room = f"{disk.free_bytes / 1e9:.1f} GB free ({disk.free_share:.0%})"
    if disk.free_bytes < LEAST_FREE_BYTES or disk.free_share < least_share:
        return Finding(
            what="disk",
            ok=False,
            detail=f"{room}: when it is full the agent only observes; make room, or move the database "
            "(HASHCOST_DATABASE)",
        )
    return Finding(what="disk", ok=True, detail=room)


def _database(path: Path, now: datetime) -> Iterator[Finding]:
    if not _may_exist(path):
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if os.access(parent, os.W_OK):
            yield Finding(what="database", ok=True, detail=f"{path}: will be created at the first start")
        else:
            detail = f"{path}: cannot be created, {parent} is not writable by this user"
            yield Finding(what="database", ok=False, detail=detail)
        return
    try:
        with Reader(path) as reader:
            polled_at = reader.last_round_at()
    except StoreError as error:
        yield Finding(what="database", ok=False, detail=str(error))
        return
    if (damaged := damage(path)) is not None:
        detail = f"{path}: damaged ({damaged}); put a copy back with `hashcost restore-db`"
        yield Finding(what="database", ok=False, detail=detail)
        return
    last = "no round yet" if polled_at is None else f"last round {polled_at:%Y-%m-%d %H:%M:%S} UTC"
    yield Finding(what="database", ok=True, detail=f"{path}: {last}")
    if polled_at is not None and polled_at > now + timedelta(minutes=1):
        detail = (
            f"the last round is of {polled_at:%Y-%m-%d %H:%M:%S} UTC, which is yet to come: was the clock set back, "
            "or is the database of another host?"
        )
        yield Finding(what="database", ok=False, detail=detail)


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a directory that we may not enter; opening it will say so
        return True


def _copies(database: Path, now: datetime) -> Finding:
    directory = database.parent / "backups"
    try:
        ages = [now.timestamp() - each.stat().st_mtime for each in directory.glob("hashcost-*.db")]
    except OSError as error:
        return Finding(
            what="backup", ok=True, note=True, detail=f"{directory}: cannot be read ({error.strerror})"
        )
    if not ages:
        detail = f"none in {directory}; `hashcost backup` makes one, hashcost-backup.timer one a day"
        return Finding(what="backup", ok=True, note=True, detail=detail)
    newest = timedelta(seconds=min(ages))
    if newest > OLD_COPY and _may_exist(database):
        detail = f"the newest is {newest.days} days old; does hashcost-backup.timer run?"
        return Finding(what="backup", ok=False, detail=detail)
    return Finding(
        what="backup", ok=True, detail=f"{len(ages)}, the newest {newest.total_seconds() / 3600:.0f} h old"
    )


def _archive(config: Config, database: Path) -> Iterator[Finding]:
    """Whether old days can be put away: what cannot stays in the database, which grows."""
    if config.history.archive_directory is None:
        return
    directory = Path(config.history.archive_directory)
    if not config.history.steps_days or not config.history.readings_days:
        detail = f"{directory}: nothing is put there, history.steps_days or readings_days keeps all for ever"
        yield Finding(what="archive", ok=True, note=True, detail=detail)
        return
    nearest = next(each for each in (directory.absolute(), *directory.absolute().parents) if _may_exist(each))
    if nearest.is_dir() and _may_write(nearest, database):
        yield Finding(what="archive", ok=True, detail=f"{directory}: can be written")
        return
    detail = (
        f"{directory}: the agent cannot write there ({nearest}), and old days stay in the database; make it a "
        "directory of the user that runs the agent (install -d -o hashcost)"
    )
    yield Finding(what="archive", ok=False, detail=detail)


def _may_write(directory: Path, database: Path) -> bool:
    """Whether whoever has the database may write into a directory, where root asks; else whether we may."""
    if os.geteuid() != 0 or not _may_exist(database):
        return os.access(directory, os.W_OK | os.X_OK)
    whose, found = database.stat(), directory.stat()
    if whose.st_uid == 0:
        return os.access(directory, os.W_OK | os.X_OK)
    if whose.st_uid == found.st_uid:
        return found.st_mode & 0o300 == 0o300
    if whose.st_gid == found.st_gid:
        return found.st_mode & 0o030 == 0o030
    return found.st_mode & 0o003 == 0o003


def _permissions(config: Config, config_path: Path | None, database: Path) -> list[Finding]:
    """Who could read a password, or tell the agent what to do by changing its files."""
    secrets = sorted(set(_password_files(config)))
    found = [
        f"{path}: everybody may read this password; chmod 600, owned by the user that runs the agent"
        for path in secrets
        if _mode(path) & stat.S_IRWXO
    ]
    found += [
        f"{path}: everybody may change it, and so what the agent does; chmod o-w"
        for path in (config_path, database, database.parent)
        if path is not None and _mode(path) & stat.S_IWOTH and not _mode(path) & stat.S_ISVTX
    ]
    if found:
        return [Finding(what="permissions", ok=False, detail=detail) for detail in found]
    closed = f"; {len(secrets)} password files are closed to others" if secrets else ""
    return [
        Finding(what="permissions", ok=True, detail=f"only owners may change what the agent reads{closed}")
    ]


def _password_files(config: Config) -> Iterator[Path]:
    """Every password file that the configuration names, wherever it stands in it."""
    waiting: list[object] = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, SecretSection) and found.password_file is not None:
            yield Path(found.password_file)
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, BaseModel):
            waiting += [getattr(found, name) for name in type(found).model_fields]


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:  # not there, or out of reach: of no use to others either
        return 0


def _targets(config: Config) -> Iterator[Finding]:
    """Whether who is to be told of alerts can be told."""
    for target in config.alerts.recipients():
        if is_address(target.address):
            detail = "its address is understood; `hashcost alerts test` sends a message"
            yield Finding(what=f"alerts {target.name}", ok=True, detail=detail)
        else:
            detail = "apprise does not understand its address; see the list of services in its wiki"
            yield Finding(what=f"alerts {target.name}", ok=False, detail=detail)
