"""Who is told, within the store's own transactions, of what is written: nobody, unless the site belongs to a fleet."""

from collections.abc import Callable, Iterable, Sequence
from sqlite3 import Connection
from typing import Any, Protocol

Row = Sequence[Any]


class Journal(Protocol):
    """What the store tells. Called in its thread, inside the transaction that writes the rows; it neither waits nor
    fails but with the database."""

    def machines(self, rows: Iterable[Row]) -> None:
        """Rows of `machines`."""

    def gone(self, machine_ids: Iterable[str], at_ms: int) -> None:
        """Machines that turned out to be others."""

    def round(self, rows: Iterable[Row], quote_ids: Iterable[int], sums: Row) -> None:
        """Rows of `latest` without their change, with the quote, whether we hold it asleep, and how long it may stand
        (ms), made as they are asked for; the quotes in force; the row of `rounds`."""

    def decisions(self, rows: Sequence[Row]) -> None:
        """Rows of `decisions`."""

    def order(self, order_id: int, row: Row) -> None:
        """An order as it is from now on."""

    def events(self, rows: Sequence[Row]) -> None:
        """Rows of `events`, without their ids."""

    def ledger(self, rows: Sequence[Row]) -> None:
        """Rows of `ledger`."""

    def written(self) -> None:
        """The transaction that it was told of last has been committed."""


class NoJournal:
    """Nobody is told."""

    def machines(self, rows: Iterable[Row]) -> None:
        """Nothing."""

    def gone(self, machine_ids: Iterable[str], at_ms: int) -> None:
        """Nothing."""

    def round(self, rows: Iterable[Row], quote_ids: Iterable[int], sums: Row) -> None:
        """Nothing."""

    def decisions(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    def order(self, order_id: int, row: Row) -> None:
        """Nothing."""

    def events(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    def ledger(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    def written(self) -> None:
        """Nothing."""


OpenJournal = Callable[[Connection], Journal]
"""Opens a journal on the store's own connection."""
