"""A table on Textual's line API: only the rows in sight are drawn, each once until it changes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.bindings import TABLES, bindings
from tui.glyphs import glyphs

GAP = 2
LEAST_TEXT = 10
"""A text that does not fit is cut if so much of it can be read."""
MOST_STRIPS = 2000
"""Rows that stay drawn; a site has more machines than anybody looks at."""
_CURSOR = Style(reverse=True)
_HEADING = Style(bold=True, underline=True)
_MARK = Style(bold=True)
Row = TypeVar("Row")


@dataclass(frozen=True)  # no slots: typing notes the kind of row on it
class Column(Generic[Row]):
    """A column: its heading, a cell's text and style, and what it is sorted by (None comes last, either way)."""

    heading: str
    content: Callable[[Row], tuple[str, str]]
    order: Callable[[Row], Any]
    right: bool = False


class LineTable(ScrollView, Generic[Row], can_focus=True):
    """Rows under a heading that stays. The cursor is on a row's key, wherever the row goes; so are marks. Columns
    stand in the order of their worth: what does not fit whole is left out at the right, and scrolled to."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(TABLES)]

    class Chosen(Message):
        """A row was clicked a second time."""

        def __init__(self, table: "LineTable[Any]") -> None:
            super().__init__()
            self.table = table

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        *,
        key: Callable[[Row], str],
        id: str,  # noqa: A002 - Textual's word
        frozen: int = 1,
    ) -> None:
        super().__init__(id=id)
        self.columns = columns
        self.cursor_row = 0
        self.marks: set[str] = set()
        self.sorted_by: int | None = None
        self.descending = False
        self._key = key
        self._frozen = frozen
        self._glyphs = glyphs()
        self._widths = [len(column.heading) + 1 for column in columns]
        self._given: Sequence[Row] = ()
        self._rows: Sequence[Row] = ()
        self._chosen: str | None = None
        self._strips: dict[tuple[str, bool], tuple[Row, Strip]] = {}
        self._frame = (0, 0, Style())
        self._lines: dict[tuple[str, bool, bool], tuple[Row, Strip]] = {}

    # -- what is in it -----------------------------------------------------------------------------------

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, in the order that they are shown in."""
        return self._rows

    @property
    def cursor(self) -> Row | None:
        """The row that the cursor is on."""
        return self._rows[self.cursor_row] if self._rows else None

    def marked(self) -> list[Row]:
        """The rows that are marked, in the order shown."""
        return [row for row in self._rows if self._key(row) in self.marks]

    def show(self, rows: Sequence[Row]) -> None:
        """Show these, in this order or as they are sorted. The view follows the cursor's row if it was in sight, and
        stays where somebody scrolled to if it was not; a cursor whose row is gone stays in its place. Marks of rows
        that are not shown are dropped: nothing is done to what nobody sees."""
        seen = self.cursor_row in self.rows_in_sight()
        self._given = rows
        self._rows = self._in_order(rows)
        if self.marks:
            self.marks &= {self._key(row) for row in rows}
        index = next((at for at, row in enumerate(self._rows) if self._key(row) == self._chosen), None)
        self._fit()
        self.move_to(self.cursor_row if index is None else index, scroll=seen)
        self.refresh()

    def sort(self, column: int | None, *, descending: bool = False) -> None:
        """Sort by a column; None is the order that rows are given in."""
        self.sorted_by, self.descending = column, descending
        self.show(self._given)

    def _in_order(self, rows: Sequence[Row]) -> Sequence[Row]:
        if self.sorted_by is None:
            return rows
        order = self.columns[self.sorted_by].order
        ordered = [(order(row), row) for row in rows]
        known = [pair for pair in ordered if pair[0] is not None]
        known.sort(key=lambda pair: pair[0], reverse=self.descending)
        return [row for _, row in (*known, *(pair for pair in ordered if pair[0] is None))]

    # -- marks -------------------------------------------------------------------------------------------

    def toggle_mark(self) -> None:
        """Mark the row under the cursor, or mark it no more; and go to the next."""
        if (row := self.cursor) is not None:
            self.marks ^= {self._key(row)}
            self.move_to(self.cursor_row + 1)

    def mark(self, rows: Iterable[Row]) -> None:
        """Mark these rows and no others."""
        self.marks = {self._key(row) for row in rows}
        self.refresh()

    # -- moving ------------------------------------------------------------------------------------------

    def move_to(self, row: int, *, scroll: bool = True) -> None:
        """Put the cursor on a row, the nearest if there is no such row."""
        left, offset = self.cursor_row, self.scroll_offset
        self.cursor_row = max(0, min(row, self.row_count - 1))
        self._chosen = self._key(self._rows[self.cursor_row]) if self._rows else None
        if scroll and self.row_count:
            sight = self.rows_in_sight()
            above, below = sight.start - self.cursor_row, self.cursor_row - sight.stop + 1
            if above > 0 or below > 0:
                to = sight.start - above if above > 0 else sight.start + below
                self.scroll_to(y=to, animate=False, force=True, immediate=True)
        if self.scroll_offset == offset:
            self.refresh_line(left + 1)
            self.refresh_line(self.cursor_row + 1)
        else:
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

    def action_first(self) -> None:
        """Go to the first row."""
        self.move_to(0)

    def action_last(self) -> None:
        """Go to the last row."""
        self.move_to(self.row_count - 1)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row under the pointer; the second click chooses it. A heading is sorted by."""
        if event.y == 0:
            self._sort_at(event.x)
        elif (row := self.scroll_offset.y + event.y - 1) < self.row_count:
            again = row == self.cursor_row and event.chain > 1
            self.move_to(row)
            if again:
                self.post_message(self.Chosen(self))

    def _sort_at(self, x: int) -> None:
        left = 0
        for index, width in enumerate(self._widths):
            left += width + GAP
            if x + self.scroll_offset.x < left:
                self.sort(index, descending=index == self.sorted_by and not self.descending)
                return

    # -- drawing -----------------------------------------------------------------------------------------

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Rows that come into sight may be wider."""
        super().watch_scroll_y(old_value, new_value)
        self._fit()

    def on_resize(self) -> None:
        """More rows are in sight."""
        self._fit()

    def _fit(self) -> None:
        """Columns as wide as what is in sight; they only grow: nothing jumps about when a number gets shorter."""
        sight = self.rows_in_sight()
        seen = self._rows[sight.start : sight.stop]
        widths = [
            max([width, *(cell_len(_printable(column.content(row)[0])) for row in seen)])
            for column, width in zip(self.columns, self._widths, strict=True)
        ]
        if widths != self._widths:
            self._widths = widths
            self._strips.clear()
            self._lines.clear()
        self.virtual_size = Size(sum(self._widths) + GAP * len(self._widths), self.row_count + 1)

    def render_line(self, y: int) -> Strip:
        """The heading at the top, then the rows from where it is scrolled to."""
        left, width, style = self.scroll_offset.x, self.scrollable_content_region.width, self.rich_style
        if self._frame != (left, width, style):
            self._frame = (left, width, style)
            self._lines.clear()
        index = self.scroll_offset.y + y - 1
        if y == 0:
            return self._cut(self._heading(), left, width).apply_style(style)
        if index >= self.row_count:
            return self._cut(Strip.blank(width), left, width).apply_style(style)
        return self._line(self._rows[index], under=index == self.cursor_row)

    def _line(self, row: Row, *, under: bool) -> Strip:
        """A row as it is on the screen, drawn once until it changes; `under` the cursor or not."""
        left, width, style = self._frame
        key = self._key(row)
        place = (key, key in self.marks, under)
        cached = self._lines.get(place)
        if cached is not None and cached[0] == row:
            return cached[1]
        strip = self._strip(row)
        strip = strip.apply_style(_CURSOR) if under else strip
        strip = self._cut(strip, left, width).apply_style(style)
        if len(self._lines) >= MOST_STRIPS:
            self._lines.clear()
        self._lines[place] = (row, strip)
        return strip

    def _cut(self, strip: Strip, left: int, width: int) -> Strip:
        """Whole columns only; the first ones stay in sight when the rest is scrolled to the side."""
        first = sum(self._widths[: self._frozen]) + GAP * self._frozen
        if left == 0 or width <= first:
            whole = self._whole(width)
            return strip.crop_extend(0, min(width, whole), None).extend_cell_length(width)
        return Strip.join([strip.crop(0, first), strip.crop_extend(first + left, left + width, None)])

    def _whole(self, width: int) -> int:
        """Cells of the columns that fit whole; the first ones are cut if even they do not."""
        used = 0
        for index, each in enumerate(self._widths):
            if index >= self._frozen and used + each > width:
                text = not self.columns[index].right
                return width if text and width - used >= LEAST_TEXT else used
            used += each + GAP
        return used

    def _heading(self) -> Strip:
        segments = []
        for index, (column, width) in enumerate(zip(self.columns, self._widths, strict=True)):
            arrow = self._glyphs.down if self.descending else self._glyphs.up
            text = column.heading + (arrow if index == self.sorted_by else "")
            segments.append(Segment(_set(text, width, right=column.right), _HEADING))
        return Strip(segments)

    def _strip(self, row: Row) -> Strip:
        key = self._key(row)
        marked = key in self.marks
        cached = self._strips.get((key, marked))
        if cached is not None and cached[0] == row:
            return cached[1]
        segments = []
        for index, (column, width) in enumerate(zip(self.columns, self._widths, strict=True)):
            text, name = column.content(row)
            style = Style.parse(name)
            if marked and index == 0:
                text, style = f"{self._glyphs.mark}{text}", style + _MARK
            segments.append(Segment(_set(text, width, right=column.right), style))
        strip = Strip(segments)
        if len(self._strips) >= MOST_STRIPS:
            self._strips.clear()
        self._strips[key, marked] = (row, strip)
        return strip


def _set(text: str, width: int, *, right: bool) -> str:
    """The text in as many cells, and the gap to the next column."""
    text = _printable(text)
    padded = " " * (width - cell_len(text)) + text if right else text
    return set_cell_size(padded, width + GAP)


def _printable(text: str) -> str:
    """What a machine calls itself moves no cursor of the terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
