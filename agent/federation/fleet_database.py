"""The fleet's database, a file per site or all in PostgreSQL, and how far the stream has been read.

FleetError               the directory cannot be used; the message says why
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Protocol

from agent.config.postgres import PostgresSection
from agent.errors import UsageError
from agent.export import write_atomically
from agent.federation.messages import TOKEN, Message, MessageError, Place, decode
from agent.federation.replica import Copy, Replica
from agent.federation.sequence import InOrder
from agent.opened import MARKER
from agent.rows import to_ms
from drivers.driver import utc_now

log = logging.getLogger("hashcost")

STATE_FILE = "fleet.json"
PATIENCE_S = 60.0
"""How long a message waits for the one before it; a server delivers again what was not acknowledged within 30 s."""
PRUNE_EVERY_S = 60.0
PRUNE_ROWS = 5000
"""Of a kind and a site at a time: thirty times what ten thousand machines add."""
MOST_EARLY = 2000
MOST_SITES = 1000


class FleetError(UsageError):
    """The fleet's directory cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message of the stream as it came. `stream_sequence` is its number in the stream."""

    stream_sequence: int
    subject: str
    place: Place | None
    payload: bytes


@dataclass(slots=True, kw_only=True)
class State:
    """What the fleet remembers beside the sites: everything up to `position` of the `stream` is taken or refused. If it
    is lost the stream is read from its beginning, and what was taken is known by its place."""

    fleet_id: str = field(default_factory=lambda: secrets.token_hex(4))
    stream: str = ""
    position: int = 0
    taken: int = 0
    doubles: int = 0
    holes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """By site."""


class Copies(Protocol):
    """Where copies of sites are kept. Raises `sqlite3.Error` and `StoreError`."""

    def open_site(self, name: str, now: Callable[[], datetime]) -> Copy:
        """The writer of one site."""

    def read_state(self) -> str:
        """What is remembered beside the sites, as JSON."""

    def write_state(self, text: str) -> None:
        """Remember it."""

    def close(self) -> None:
        """Let go of it."""


class Files:
    """A file for each site."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open_site(self, name: str, now: Callable[[], datetime]) -> Copy:
        """The writer of one site."""
        return Replica(self._directory / f"{name}.db", name, now)

    def read_state(self) -> str:
        """What is remembered beside the sites."""
        try:
            return (self._directory / STATE_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return "{}"

    def write_state(self, text: str) -> None:
        """Remember it."""
        write_atomically(self._directory / STATE_FILE, text)

    def close(self) -> None:
        """Each site closes its own."""


@dataclass(slots=True)
class _Site:
    copy: Copy
    order: InOrder[tuple[int, Message]]


class FleetDatabase:
    """The writer, to where the directory says (`settle`). Not for use from two threads at once."""

    def __init__(
        self, directory: Path, now: Callable[[], datetime] = utc_now, *, keep: timedelta | None = None
    ) -> None:
        self._now = now
        self._keep = keep
        self._prune_at_s = monotonic()
        self._copies: Copies = _copies(directory)
        self.state = _state_of(self._copies.read_state)
        self._sites: dict[str, _Site] = {}
        self._told: Counter[str] = Counter()
        self._written = ""

    def close(self) -> None:
        """Close every site's database."""
        self._close_sites()
        self._copies.close()

    def _close_sites(self) -> None:
        for site in self._sites.values():
            site.copy.close()
        self._sites.clear()

    def begin(self, stream: str) -> int:
        """The number in the stream to begin at, as the database has it, which may have been put back; another stream
        than the last one is read from its beginning."""
        self.state, self._written = _state_of(self._copies.read_state), ""
        if self.state.stream != stream:
            self.state.stream, self.state.position = stream, 0
        return self.state.position + 1

    def take(self, messages: Sequence[Arrived]) -> None:
        """Write what came, each site in a transaction of its own, and then how far the stream has been read. Raises
        `sqlite3.Error` and `StoreError` of the disk: nothing of it is lost, it will come again."""
        ready: dict[str, list[tuple[int, Message]]] = {}
        for each in messages:
            try:
                site, place, message = self._opened(each)
            except MessageError as error:
                self._refuse(each.subject, str(error))
                continue
            ready.setdefault(message.site, []).extend(
                site.order.offer(place, (each.stream_sequence, message), monotonic())
            )
        for name, site in self._sites.items():
            ready.setdefault(name, []).extend(site.order.overdue(monotonic()))
        try:
            for name, found in ready.items():
                self._write(name, [message for _, message in found])
            self._prune()
            self._remember(messages)
        except BaseException:
            self._close_sites()  # what they had in order is to come again
            raise

    def _opened(self, each: Arrived) -> tuple[_Site, Place, Message]:
        name = each.subject.split(".")[2] if each.subject.count(".") == 3 else ""
        if not TOKEN.fullmatch(name):
            raise MessageError("a subject that is not ours")
        if each.place is None:
            raise MessageError("no place in its headers")
        message = decode(each.payload, told_on=each.subject)
        return self._site(name), each.place, message

    def _site(self, name: str) -> _Site:
        if name not in self._sites:
            if len(self._sites) >= MOST_SITES:
                raise MessageError(f"more than {MOST_SITES} sites")
            copy = self._copies.open_site(name, self._now)
            order = InOrder[tuple[int, Message]](copy.places, patience_s=PATIENCE_S, most=MOST_EARLY)
            self._sites[name] = _Site(copy, order)
        return self._sites[name]

    def _write(self, name: str, messages: Sequence[Message]) -> None:
        if not messages:
            return
        site = self._sites[name]
        refused = site.copy.take(messages, site.order.last)
        self.state.taken += len(messages) - len(refused)
        for message, why in refused:
            self._refuse(f"hashcost.-.{message.site}.{message.kind}", why)

    def _prune(self) -> None:
        """Drop what is older than it is kept for, some of it now and then."""
        if self._keep is None or monotonic() < self._prune_at_s:
            return
        self._prune_at_s = monotonic() + PRUNE_EVERY_S
        before_ms = to_ms(self._now() - self._keep)
        for site in self._sites.values():
            site.copy.drop_old(before_ms, PRUNE_ROWS)

    def _refuse(self, subject: str, why: str) -> None:
        parts = subject.split(".")
        name = parts[2] if len(parts) == 4 and TOKEN.fullmatch(parts[2]) else "unknown"
        self.state.refused[name] = self.state.refused.get(name, 0) + 1
        self._told[name] += 1
        if self._told[name] == 1 or self._told[name] % 1000 == 0:  # a forger must not fill the log either
            log.warning(
                "event=message_refused site=%s subject=%.200r detail=%.200r count=%d",
                name, subject, why, self._told[name],
            )  # fmt: skip

    def _remember(self, messages: Iterable[Arrived]) -> None:
        """Everything below what still waits has been dealt with."""
        last = max((each.stream_sequence for each in messages), default=self.state.position)
        waiting = [sequence for site in self._sites.values() for sequence, _ in site.order.waiting()]
        self.state.position = max(self.state.position, min([last, *(number - 1 for number in waiting)]))
        self.state.doubles = sum(site.order.doubles for site in self._sites.values())
        self.state.holes = sum(site.order.holes for site in self._sites.values())
        if (text := json.dumps(asdict(self.state))) != self._written:
            self._copies.write_state(text)
            self._written = text


def settle(directory: Path, postgres: PostgresSection) -> None:
    """Have the fleet of a directory kept where the configuration says, and its readers find it there. Raises
    `FleetError` if it is kept elsewhere already."""
    marker = directory / MARKER
    _make(directory)
    try:
        if postgres.url is None:
            if marker.exists():
                raise FleetError(
                    f"{directory}: is kept in PostgreSQL; give fleet.postgres.url, or another directory"
                )
            return
        if (directory / STATE_FILE).exists():
            raise FleetError(f"{directory}: is kept in files; name another directory for fleet.postgres.url")
        write_atomically(marker, postgres.model_dump_json(exclude_none=True) + "\n")
    except OSError as error:
        raise FleetError(
            f"{directory}: cannot be made the directory of a fleet ({error.strerror})"
        ) from error


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(f"{directory}: cannot be made a directory ({error.strerror})") from error


def _copies(directory: Path) -> Copies:
    if not (directory / MARKER).is_file():
        _make(directory)
        return Files(directory)
    from agent.federation.postgres_copy import PostgresCopies  # noqa: PLC0415 - of an extra

    return PostgresCopies(directory / MARKER)


def read_state(directory: Path) -> State:
    """What the fleet remembers; anew if there is nothing, or nothing that can be read."""
    if not (directory / MARKER).is_file():
        return _state_of(Files(directory).read_state)
    from agent.federation.postgres import state_in  # noqa: PLC0415 - of an extra

    return _state_of(lambda: state_in(directory / MARKER))


def _state_of(read: Callable[[], str]) -> State:
    try:
        return State(**json.loads(read()))
    except (OSError, ValueError, TypeError) as error:
        log.warning("event=fleet_state_lost detail=%r", str(error))
        return State()


def is_fleet(path: Path) -> bool:
    """Whether this is the directory of a fleet."""
    try:
        return (path / STATE_FILE).is_file() or (path / MARKER).is_file()
    except OSError:  # not for us to see: opening it will say so
        return False


def site_databases(directory: Path) -> Iterator[tuple[str, Path]]:
    """Name and database of every site of a fleet, by name. Raises `StoreError` of PostgreSQL."""
    if (directory / MARKER).is_file():
        from agent.federation.postgres import sites_in  # noqa: PLC0415 - of an extra

        yield from ((site, directory / f"{site}.db") for site in sites_in(directory / MARKER))
        return
    for path in sorted(directory.glob("*.db")):
        if TOKEN.fullmatch(path.stem):
            yield path.stem, path
