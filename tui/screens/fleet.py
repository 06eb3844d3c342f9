"""All machines, worst margin first: filter, sort, mark, and what is done to those that are marked."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Input

from agent.selector import SelectorError
from agent.stored import StoredPicture
from agent.summary import doubt_lines
from agent.view import MachineView
from drivers.reading import MachineId
from tui.bindings import FLEET, bindings
from tui.columns import fleet_columns
from tui.filter import choose
from tui.glyphs import glyphs
from tui.screens.table import TableScreen
from tui.source import AgentState, SiteState
from tui.widgets.line_table import LineTable


class FleetScreen(TableScreen[MachineView]):
    """The table of all machines."""

    WHERE = FLEET
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(FLEET)]

    def __init__(self) -> None:
        columns = fleet_columns(glyphs())
        super().__init__(LineTable(columns, key=lambda view: view.machine_id, id="fleet", frozen=2))
        self._filter = Input(
            id="filter",
            placeholder="asleep, model:S21, group:hydro, margin<0, power>3500, !reason:stale; Enter, Esc",
        )
        self._text = ""
        self._mistake: str | None = None
        self._drawn: object = None

    def content(self) -> Iterable[Widget]:
        """The table, and under it the filter while it is asked for."""
        yield self._table
        yield self._filter

    @property
    def cursor(self) -> MachineView | None:
        """The machine under the cursor."""
        return self._table.cursor

    def machine_of(self, row: MachineView) -> MachineId:
        """A row is a machine."""
        return row.machine_id

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """The machines that are asked for; the table only if something changed."""
        picture = state.snapshot.picture
        if self._drawn is not picture:
            self._drawn = picture
            self._table.show(self._choose(picture.views))
        self._notes(state.snapshot)

    def _again(self) -> None:
        self._drawn = None
        self.refresh_site()

    def _choose(self, views: Sequence[MachineView]) -> Sequence[MachineView]:
        if not self._text:
            return views
        try:
            return choose(self._text, views)
        except SelectorError as error:  # it named what was there when it was typed
            self._mistake = _words(error)
            return []

    def _notes(self, snapshot: StoredPicture) -> None:
        lines = [Text(line, "yellow") for line in _doubts(snapshot)]
        if self._mistake is not None:
            lines.append(Text(self._mistake, "yellow"))
        if self._text:
            lines.append(
                Text(
                    f"filter {self._text}: {self._table.row_count} of {len(snapshot.picture.views)} machines",
                    "yellow",
                )
            )
        if self._table.marks:
            lines.append(Text(f"{len(self._table.marks)} marked", "bold"))
        self.note(*lines)

    # -- filter, sort ---------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Ask which machines to show."""
        self._filter.display = True
        self._filter.focus()

    def action_unfilter(self) -> None:
        """Show all machines again."""
        self._filter.value = ""
        self._filtered("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Show the machines that were asked for. What names none changes nothing and says why."""
        text = event.value.strip()
        views = [] if self.site.state is None else self.site.state.snapshot.picture.views
        try:
            if text:
                choose(text, views)
        except SelectorError as error:
            self._mistake = _words(error)
            self.refresh_site()
        else:
            self._filtered(text)

    def _filtered(self, text: str) -> None:
        self._text, self._mistake = text, None
        self._filter.display = False
        self._table.focus()
        self._again()

    def action_sort(self) -> None:
        """By the next column; after the last one by margin again, as the agent gives them."""
        last = self._table.sorted_by
        after = 1 if last is None else last + 1
        self._table.sort(after if after < len(self._table.columns) else None)

    def action_turn(self) -> None:
        """The other way round."""
        if self._table.sorted_by is not None:
            self._table.sort(self._table.sorted_by, descending=not self._table.descending)

    # -- machines -------------------------------------------------------------------------------------

    def action_curtail(self) -> None:
        """Put the marked machines to sleep, or the one under the cursor."""
        self.site.switch("curtail", [view.machine_id for view in self.meant()])

    def action_restore(self) -> None:
        """Wake them."""
        self.site.switch("restore", [view.machine_id for view in self.meant()])


def _words(error: SelectorError) -> str:
    return f"filter {error.part!r}: {error.reason}"


def _doubts(snapshot: StoredPicture) -> list[str]:
    """The first doubt of the last scan, and how many there are besides."""
    first, others = doubt_lines(snapshot.doubts[:1]), len(snapshot.doubts) - 1
    return [f"({others} more in `hashcost status`) {line}" if others else line for line in first]
