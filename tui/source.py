"""The terminal's only way to data: the agent's store, read-only, whether the agent runs or not."""

from datetime import UTC, datetime
from pathlib import Path

from agent.stored import StoredPicture, stored_picture


class Source:
    """Opens the store for each snapshot: a database that is replaced or restored meanwhile does no harm."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def snapshot(self, now: datetime | None = None) -> StoredPicture:
        """The picture of now. Blocking; call it in a worker. Raises `StoreError` while there is none."""
        return stored_picture(self._database, now or datetime.now(UTC))
