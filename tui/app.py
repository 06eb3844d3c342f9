"""The operators' terminal: the fleet, worst margin first, under the prices that make it so. Read-only."""

import asyncio
from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from agent.store import StoreError
from agent.summary import COLUMNS, cells, header_lines, total_lines
from agent.view import totals
from tui.source import Snapshot, Source

REFRESH_S = 2.0


class FleetApp(App[None]):
    """One screen: prices, a table of all machines, the site's totals."""

    TITLE = "hashcost"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #prices { height: auto; padding: 0 1; background: $panel; }
    #fleet { height: 1fr; }
    #totals { height: auto; padding: 0 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit (the agent goes on)"),
        Binding("home", "worst", "Worst margin"),
        Binding("end", "best", "Best margin"),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def compose(self) -> ComposeResult:
        """Prices above, the fleet between, totals below."""
        yield Static(id="prices")
        yield DataTable(id="fleet", cursor_type="row", zebra_stripes=True)
        yield Static(id="totals")
        yield Footer()

    def on_mount(self) -> None:
        """Lay the table out and begin to refresh."""
        self.query_one("#fleet", DataTable).add_columns(*(heading for heading, _ in COLUMNS))
        self.run_worker(self._refresh_forever(), exclusive=True)

    def action_worst(self) -> None:
        """Jump to the machine with the worst margin."""
        self.query_one("#fleet", DataTable).move_cursor(row=0)

    def action_best(self) -> None:
        """Jump to the other end of the table."""
        table = self.query_one("#fleet", DataTable)
        table.move_cursor(row=table.row_count - 1)

    async def _refresh_forever(self) -> None:
        while True:
            try:
                snapshot = await asyncio.to_thread(self._source.snapshot)
            except StoreError as error:
                self.query_one("#totals", Static).update(Text(str(error), "bold red"))
            else:
                self._show(snapshot)
            await asyncio.sleep(REFRESH_S)

    def _show(self, snapshot: Snapshot) -> None:
        picture = snapshot.picture
        self.query_one("#prices", Static).update(Group(*header_lines(picture.market, picture.terms)))
        self._show_fleet(snapshot)
        lines = [*total_lines(totals(picture.views)), _age_line(snapshot)]
        self.query_one("#totals", Static).update(Group(*lines))

    def _show_fleet(self, snapshot: Snapshot) -> None:
        """Fill the table anew, with the cursor on the machine that it was on."""
        table = self.query_one("#fleet", DataTable)
        chosen = None
        if table.row_count:
            chosen = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        table.clear()
        row = 0
        for index, view in enumerate(snapshot.picture.views):
            table.add_row(*cells(view), key=view.machine_id)
            if view.machine_id == chosen:
                row = index
        table.move_cursor(row=row, scroll=chosen is not None)


def _age_line(snapshot: Snapshot) -> Text:
    seconds = int(snapshot.age().total_seconds())
    if snapshot.is_stale():
        return Text(f"STALE: last poll {seconds} s ago; is the agent running?", "bold red")
    return Text(f"last poll {seconds} s ago", "dim")


def run(database: Path) -> None:
    """Open the terminal on a database. Raises `StoreError` at once if there is nothing to show."""
    source = Source(database)
    source.snapshot()
    FleetApp(source).run()
