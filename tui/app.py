"""The operators' terminal: the fleet, worst margin first, under the prices that make it so. Read-only."""

import asyncio
from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static

from agent.store import StoreError
from agent.stored import StoredPicture
from agent.summary import (
    COST,
    EFFICIENCY,
    HASHRATE,
    MACHINE,
    MARGIN,
    MODEL,
    POWER,
    POWER_SOURCE,
    RECOMMENDATION,
    REVENUE,
    STATE,
    STRIKE,
    doubt_lines,
    header_lines,
    total_lines,
)
from agent.view import totals
from tui.source import Source
from tui.vanished import end_with_terminal
from tui.widgets.fleet_table import FleetTable

REFRESH_S = 2.0
COLUMNS = (
    MACHINE, MARGIN, RECOMMENDATION, STATE, POWER, POWER_SOURCE, HASHRATE, EFFICIENCY, MODEL, REVENUE, COST, STRIKE,
)  # fmt: skip
"""What decides comes first: a narrow terminal shows it without scrolling."""


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
        Binding("home", "worst", "Worst margin", priority=True),
        Binding("end", "best", "Best margin", priority=True),
    ]
    """Home and end have priority: the table would take them for columns."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._prices = Static(id="prices")
        self._fleet = FleetTable(COLUMNS, id="fleet")
        self._totals = Static(id="totals")

    def compose(self) -> ComposeResult:
        """Prices above, the fleet between, totals below."""
        yield self._prices
        yield self._fleet
        yield self._totals
        yield Footer()

    def on_mount(self) -> None:
        """Begin to refresh."""
        self.run_worker(self._refresh_forever(), exclusive=True)

    def action_worst(self) -> None:
        """Jump to the machine with the worst margin."""
        self._fleet.move_to(0)

    def action_best(self) -> None:
        """Jump to the other end of the table."""
        self._fleet.move_to(self._fleet.row_count - 1)

    async def _refresh_forever(self) -> None:
        while True:
            try:
                snapshot = await asyncio.to_thread(self._source.snapshot)
            except StoreError as error:
                self._totals.update(Text(str(error), "bold red"))
            else:
                self._show(snapshot)
            await asyncio.sleep(REFRESH_S)

    def _show(self, snapshot: StoredPicture) -> None:
        picture = snapshot.picture
        self._prices.update(Group(*header_lines(picture.market, picture.terms)))
        self._fleet.show(picture.views)
        doubts = [Text(line, "yellow") for line in _doubts_in_a_line(snapshot)]
        lines = [*total_lines(totals(picture.views)), *doubts, _age_line(snapshot)]
        self._totals.update(Group(*lines))


def _doubts_in_a_line(snapshot: StoredPicture) -> list[str]:
    """The first doubt of the last scan, and how many there are besides."""
    first, others = doubt_lines(snapshot.doubts[:1]), len(snapshot.doubts) - 1
    return [f"({others} more in `hashcost status`) {line}" if others else line for line in first]


def _age_line(snapshot: StoredPicture) -> Text:
    seconds = int(snapshot.age.total_seconds())
    if snapshot.is_stale:
        return Text(f"STALE: last poll {seconds} s ago; is the agent running?", "bold red")
    return Text(f"last poll {seconds} s ago", "dim")


def run(database: Path) -> None:
    """Open the terminal on a database. Raises `StoreError` at once if there is nothing to show."""
    source = Source(database)
    source.snapshot()
    end_with_terminal()
    FleetApp(source).run()
