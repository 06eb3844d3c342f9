"""The fleet's database: a directory with one database per site, and how far the stream has been read.

FleetError               the directory cannot be used; the message says why
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic

from agent.errors import UsageError
from agent.export import write_atomically
from agent.federation.messages import TOKEN, Message, MessageError, Place, decode
from agent.federation.replica import Replica
from agent.federation.sequence import InOrder
from drivers.driver import utc_now

log = logging.getLogger("hashcost")

STATE_FILE = "fleet.json"
PATIENCE_S = 60.0
"""How long a message waits for the one before it; a server delivers again what was not acknowledged within 30 s."""
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


@dataclass(slots=True)
class _Site:
    replica: Replica
    order: InOrder[tuple[int, Message]]


class FleetDatabase:
    """The writer. Not for use from two threads at once."""

    def __init__(self, directory: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._directory = directory
        self._now = now
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetError(f"{directory}: cannot be made a directory ({error.strerror})") from error
        self.state = read_state(directory)
        self._sites: dict[str, _Site] = {}
        self._told: Counter[str] = Counter()
        self._written = ""

    def close(self) -> None:
        """Close every site's database."""
        for site in self._sites.values():
            site.replica.close()

    def begin(self, stream: str) -> int:
        """The number in the stream to begin at; another stream than the last one is read from its beginning."""
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
        for name, found in ready.items():
            self._write(name, [message for _, message in found])
        self._remember(messages)

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
            replica = Replica(self._directory / f"{name}.db", name, self._now)
            order = InOrder[tuple[int, Message]](replica.places, patience_s=PATIENCE_S, most=MOST_EARLY)
            self._sites[name] = _Site(replica, order)
        return self._sites[name]

    def _write(self, name: str, messages: Sequence[Message]) -> None:
        if not messages:
            return
        site = self._sites[name]
        try:
            refused = site.replica.take(messages, site.order.last)
        except BaseException:
            del self._sites[name]  # what it had in order is to come again
            site.replica.close()
            raise
        self.state.taken += len(messages) - len(refused)
        for message, why in refused:
            self._refuse(f"hashcost.-.{message.site}.{message.kind}", why)

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
            write_atomically(self._directory / STATE_FILE, text)
            self._written = text


def read_state(directory: Path) -> State:
    """What the fleet remembers; anew if there is nothing, or nothing that can be read."""
    try:
        values = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        return State(**values)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError) as error:
        log.warning("event=fleet_state_lost detail=%r", str(error))
        return State()


def is_fleet(path: Path) -> bool:
    """Whether this is the directory of a fleet."""
    try:
        return (path / STATE_FILE).is_file()
    except OSError:  # not for us to see: opening it will say so
        return False


def site_databases(directory: Path) -> Iterator[tuple[str, Path]]:
    """Name and database of every site of a fleet, by name."""
    for path in sorted(directory.glob("*.db")):
        if TOKEN.fullmatch(path.stem):
            yield path.stem, path
