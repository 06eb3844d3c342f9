"""The rival of `bench/terminal.py`: the same machines and the same changes in Textual's own DataTable.

`python bench/stock_table.py DATABASE`. Only cells whose text changed are updated.
"""

import asyncio
import sys
from pathlib import Path

from textual.app import App, ComposeResult
from textual.widgets import DataTable

from agent.reader import Changes, Reader
from agent.summary import COLUMNS
from agent.view import MachineView, by_margin

REFRESH_S = 0.25


class StockApp(App[None]):
    """One table of all machines."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._reader = reader
        self._shown: dict[str, list[str]] = {}

    def compose(self) -> ComposeResult:
        """Nothing but the table."""
        yield DataTable(cursor_type="row")

    def on_mount(self) -> None:
        """Load everything, then only what changed."""
        self.run_worker(self._refresh_forever())

    async def _refresh_forever(self) -> None:
        table = self.query_one(DataTable)
        changes = await asyncio.to_thread(self._reader.changes)
        table.add_columns(*((column.heading, column.heading) for column in COLUMNS))
        for view in by_margin(changes.views):
            texts = self._shown[view.machine_id] = _texts(view)
            table.add_row(*texts, key=view.machine_id)
        while True:
            await asyncio.sleep(REFRESH_S)
            changes = await asyncio.to_thread(self._reader.changes, changes.mark)
            self._update(table, changes)

    def _update(self, table: "DataTable[str]", changes: Changes) -> None:
        for view in changes.views:
            texts, before = _texts(view), self._shown[view.machine_id]
            for column, text, old in zip(COLUMNS, texts, before, strict=True):
                if text != old:
                    table.update_cell(view.machine_id, column.heading, text)
            self._shown[view.machine_id] = texts


def _texts(view: MachineView) -> list[str]:
    return [column.content(view)[0] for column in COLUMNS]


if __name__ == "__main__":
    StockApp(Reader(Path(sys.argv[1]))).run()
