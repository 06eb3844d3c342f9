"""The operators' terminal: the fleet, worst margin first, under the prices that make it so. Read-only."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Input, Static

from agent.selector import Selector, SelectorError, parse, select
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
from agent.view import MachineView, totals
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
    #filter { height: 1; border: none; padding: 0 1; display: none; }
    #totals { height: auto; padding: 0 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "unfilter", "All machines"),
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
        self._filter = Input(
            id="filter", placeholder="margin<0, group:hydro, model:S21, 10.0.0.7; Enter, Esc"
        )
        self._chosen: tuple[str, Selector] | None = None
        self._mistake: str | None = None
        self._snapshot: StoredPicture | None = None
        self._totals = Static(id="totals")

    def compose(self) -> ComposeResult:
        """Prices above, the fleet between, totals below."""
        yield self._prices
        yield self._fleet
        yield self._filter
        yield self._totals
        yield Footer()

    def on_mount(self) -> None:
        """Begin to refresh."""
        self._fleet.focus()
        self.run_worker(self._refresh_forever(), exclusive=True)

    def action_worst(self) -> None:
        """Jump to the machine with the worst margin."""
        self._fleet.move_to(0)

    def action_best(self) -> None:
        """Jump to the other end of the table."""
        self._fleet.move_to(self._fleet.row_count - 1)

    def action_filter(self) -> None:
        """Ask which machines to show, in the grammar of the command line."""
        self._filter.display = True
        self._filter.focus()

    def action_unfilter(self) -> None:
        """Show all machines again."""
        self._filter.value = ""
        self._filtered(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Show the machines that were asked for. What names none changes nothing and says why."""
        text = event.value.strip()
        if not text:
            self._filtered(None)
            return
        try:
            selector = parse(text)
            if self._snapshot is not None:
                select(selector, self._snapshot.picture.views)
        except SelectorError as error:
            self._mistake = f"filter {error.part!r}: {error.reason}"
            self._show_again()
        else:
            self._filtered((text, selector))

    def _filtered(self, chosen: tuple[str, Selector] | None) -> None:
        self._chosen, self._mistake = chosen, None
        self._filter.display = False
        self._fleet.focus()
        self._show_again()

    def _show_again(self) -> None:
        if self._snapshot is not None:
            self._show(self._snapshot)

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
        self._snapshot = snapshot
        picture = snapshot.picture
        self._prices.update(Group(*header_lines(picture.market, picture.terms)))
        shown, notes = self._choose(picture.views)
        self._fleet.show(shown)
        doubts = [Text(line, "yellow") for line in _doubts_in_a_line(snapshot)]
        lines = [*total_lines(totals(picture.views)), *doubts, *notes, _age_line(snapshot)]
        self._totals.update(Group(*lines))

    def _choose(self, views: Sequence[MachineView]) -> tuple[Sequence[MachineView], list[Text]]:
        """The machines to show, and a line that says so unless it is all of them."""
        mistake = [] if self._mistake is None else [Text(self._mistake, "yellow")]
        if self._chosen is None:
            return views, mistake
        text, selector = self._chosen
        try:
            shown = select(selector, views)
        except SelectorError as error:  # it named machines that were there when it was typed
            return [], [*mistake, Text(f"filter {error.part!r}: {error.reason}", "yellow")]
        return shown, [*mistake, Text(f"filter {text}: {len(shown)} of {len(views)} machines", "yellow")]


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
