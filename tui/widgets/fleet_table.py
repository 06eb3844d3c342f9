"""The table of machines on Textual's line API: only the rows in sight are drawn, each once until it changes."""

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from agent.summary import Column
from agent.view import MachineView
from drivers.reading import MachineId

_GAP = 2
_CURSOR = Style(reverse=True)
_HEADING = Style(bold=True, underline=True)


class FleetTable(ScrollView, can_focus=True):
    """Rows of machines under a heading that stays. The cursor is on a machine, wherever its row goes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
    ]

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:  # noqa: A002 - Textual's word
        super().__init__(id=id)
        self._columns = columns
        self._widths = [len(column.heading) for column in columns]
        self._views: Sequence[MachineView] = ()
        self._chosen: MachineId | None = None
        self._strips: dict[MachineId, tuple[MachineView, Strip]] = {}
        self.cursor_row = 0

    @property
    def row_count(self) -> int:
        """Machines in the table."""
        return len(self._views)

    @property
    def views(self) -> Sequence[MachineView]:
        """The machines, in the order that they are shown in."""
        return self._views

    def show(self, views: Sequence[MachineView]) -> None:
        """Show these machines, in this order. The view follows the cursor's machine if it was in sight, and stays
        where somebody scrolled to if it was not; a cursor whose machine is gone stays on its row."""
        seen = self.cursor_row in self.rows_in_sight()
        self._views = views
        self._widen()
        row = next((index for index, view in enumerate(views) if view.machine_id == self._chosen), None)
        self.virtual_size = Size(sum(self._widths) + _GAP * len(self._widths), len(views) + 1)
        self.move_to(self.cursor_row if row is None else row, scroll=seen)

    def move_to(self, row: int, *, scroll: bool = True) -> None:
        """Put the cursor on a row, the nearest if there is no such row."""
        self.cursor_row = max(0, min(row, self.row_count - 1))
        self._chosen = self._views[self.cursor_row].machine_id if self._views else None
        if scroll and self.row_count:
            sight = self.rows_in_sight()
            above, below = sight.start - self.cursor_row, self.cursor_row - sight.stop + 1
            if above > 0 or below > 0:
                offset = sight.start - above if above > 0 else sight.start + below
                self.scroll_to(y=offset, animate=False, force=True, immediate=True)
        self.refresh()

    def rows_in_sight(self) -> range:
        """Rows between the heading and the lower edge."""
        first = self.scroll_offset.y
        return range(first, first + max(1, self.scrollable_content_region.height - 1))

    def action_move(self, rows: int) -> None:
        """Move the cursor by so many rows."""
        self.move_to(self.cursor_row + rows)

    def action_page(self, direction: int) -> None:
        """Move the cursor by what fits on the screen."""
        self.move_to(self.cursor_row + direction * len(self.rows_in_sight()))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row under the pointer."""
        if event.y > 0 and (row := self.scroll_offset.y + event.y - 1) < self.row_count:
            self.move_to(row)

    def render_line(self, y: int) -> Strip:
        """The heading at the top, then the rows from where it is scrolled to."""
        left, width = self.scroll_offset.x, self.scrollable_content_region.width
        row = self.scroll_offset.y + y - 1
        if y == 0:
            strip = self._heading()
        elif row < self.row_count:
            strip = self._strip(self._views[row])
            strip = strip.apply_style(_CURSOR) if row == self.cursor_row else strip
        else:
            strip = Strip.blank(width)
        return self._frozen_first(strip, left, width).apply_style(self.rich_style)

    def _frozen_first(self, strip: Strip, left: int, width: int) -> Strip:
        """The machine's name stays in sight when the rest is scrolled to the side."""
        first = self._widths[0] + _GAP
        if left == 0 or width <= first:
            return strip.crop_extend(0, width, None)
        return Strip.join([strip.crop(0, first), strip.crop_extend(first + left, left + width, None)])

    def _heading(self) -> Strip:
        cells = zip(self._columns, self._widths, strict=True)
        segments = [
            Segment(_set(column.heading, width, right=column.justify == "right"), _HEADING)
            for column, width in cells
        ]
        return Strip(segments)

    def _strip(self, view: MachineView) -> Strip:
        cached = self._strips.get(view.machine_id)
        if cached is not None and cached[0] == view:
            return cached[1]
        segments = []
        for column, width in zip(self._columns, self._widths, strict=True):
            text, style = column.content(view)
            segments.append(Segment(_set(text, width, right=column.justify == "right"), Style.parse(style)))
        strip = Strip(segments)
        self._strips[view.machine_id] = (view, strip)
        return strip

    def _widen(self) -> None:
        """Columns only ever grow, so that nothing jumps about when a number gets shorter."""
        widths = [
            max([width, *(cell_len(_printable(column.content(view)[0])) for view in self._views)])
            for column, width in zip(self._columns, self._widths, strict=True)
        ]
        if widths != self._widths:
            self._widths = widths
            self._strips.clear()


def _set(text: str, width: int, *, right: bool) -> str:
    """The text in as many cells, and the gap to the next column."""
    text = _printable(text)
    padded = " " * (width - cell_len(text)) + text if right else text
    return set_cell_size(padded, width + _GAP)


def _printable(text: str) -> str:
    """What a machine calls itself moves no cursor of the terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
