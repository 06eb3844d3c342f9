"""The terminal's only way to data: the agent's store, read-only, whether the agent runs or not."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.store import Reader, StoreError
from agent.view import Picture, by_margin

STALE_AFTER = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The site as the store has it, and when it was last polled."""

    picture: Picture
    polled_at: datetime

    def age(self, now: datetime | None = None) -> timedelta:
        """How old the picture is."""
        return (now or datetime.now(UTC)) - self.polled_at

    def is_stale(self, now: datetime | None = None) -> bool:
        """The agent has not polled for so long that the picture may be history."""
        return self.age(now) > STALE_AFTER


class Source:
    """Opens the store for each snapshot: a database that is replaced or restored meanwhile does no harm."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def snapshot(self) -> Snapshot:
        """The latest picture. Blocking; call it in a worker. Raises `StoreError` while there is none."""
        with Reader(self._database) as reader:
            conditions, polled_at = reader.conditions(), reader.last_round_at()
            if conditions is None or polled_at is None:
                raise StoreError(f"{self._database}: no poll round yet; is `hashcost run` running?")
            market, terms = conditions
            views = by_margin(reader.latest())
        return Snapshot(picture=Picture(market=market, terms=terms, views=views), polled_at=polled_at)
