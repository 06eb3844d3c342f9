"""What screens about a table of machines share: rows are marked, opened, and meant by what is done to the site."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from drivers.reading import MachineId
from tui.screens.base import SiteScreen
from tui.widgets.line_table import LineTable

Row = TypeVar("Row")


class TableScreen(SiteScreen, Generic[Row]):
    """A screen with a table in which each row is about a machine."""

    def __init__(self, table: LineTable[Row]) -> None:
        super().__init__()
        self._table = table

    def machine_of(self, row: Row) -> MachineId:
        """The machine that a row is about."""
        raise NotImplementedError

    def markable(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows that something can be done to."""
        return list(rows)

    def meant(self) -> list[Row]:
        """The rows that are marked, or the one under the cursor, as far as something can be done to them."""
        cursor = self._table.cursor
        return self.markable(self._table.marked() or ([] if cursor is None else [cursor]))

    def on_mount(self) -> None:
        """Keys go to the table."""
        self._table.focus()

    def action_mark(self) -> None:
        """Mark the row under the cursor."""
        self._table.toggle_mark()
        self.refresh_site()

    def action_mark_all(self) -> None:
        """Mark what is shown."""
        self._table.mark(self.markable(self._table.rows))
        self.refresh_site()

    def action_mark_none(self) -> None:
        """Mark nothing."""
        self._table.mark(())
        self.refresh_site()

    def action_open(self) -> None:
        """Show the machine of the row under the cursor."""
        if self._table.cursor is not None:
            self.site.open_machine(self.machine_of(self._table.cursor))

    def on_line_table_chosen(self) -> None:
        """The same with the pointer."""
        self.action_open()
