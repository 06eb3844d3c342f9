"""The past in a few cells: lines of blocks for histories, bars for shares. Pure text."""

from collections.abc import Sequence

from rich.text import Text

from tui.glyphs import Glyphs

GAP = " "
SCALE = 8


LEAST_KNOWN = 3
"""Fewer values are no line."""


def sparkline(values: Sequence[float | None], shown: Glyphs) -> str:
    """A cell for each value from the first that is known, between the lowest and the highest; a gap where nothing is.
    Empty while too little is known."""
    known = [value for value in values if value is not None]
    if len(known) < LEAST_KNOWN:
        return ""
    values = values[next(index for index, value in enumerate(values) if value is not None) :]
    low, high = min(known), max(known)
    return "".join(GAP if value is None else _level(value, low, high, shown.levels) for value in values)


def _level(value: float, low: float, high: float, levels: str) -> str:
    if high <= low:
        return levels[len(levels) // 2]
    return levels[round((value - low) / (high - low) * (len(levels) - 1))]


def thinned(values: Sequence[float | None], most: int) -> Sequence[float | None]:
    """At most so many values: means of as many neighbours as that takes."""
    each = -(-len(values) // max(1, most))
    parts = [
        [value for value in values[first : first + each] if value is not None]
        for first in range(0, len(values), each)
    ]
    return [sum(part) / len(part) if part else None for part in parts]


def column_chart(
    values: Sequence[float | None],
    shown: Glyphs,
    *,
    width: int,
    height: int,
    style: str,
    low: float | None = None,
) -> list[Text]:
    """Rows of columns, the top first, with the scale to the left; from `low`, else from a little under the lowest."""
    values = thinned(values, width - SCALE)
    known = [value for value in values if value is not None]
    if not known:
        return [Text("nothing is known of this time", "dim")]
    high = max(known) if low is None else max(low, *known)
    bottom = min(known) - 0.1 * (high - min(known)) if low is None else min(low, *known)
    span = (high - bottom) or 1.0
    eighths = len(shown.levels)
    filled = [None if value is None else (value - bottom) / span * height * eighths for value in values]
    rows = []
    for row in range(height - 1, -1, -1):
        label = _scale(high) if row == height - 1 else _scale(bottom) if row == 0 else ""
        cells = "".join(_cell(each, row, eighths, shown) for each in filled)
        rows.append(Text.assemble((f"{label:>{SCALE - 1}} ", "dim"), (cells, style)))
    return rows


def _cell(filled: float | None, row: int, eighths: int, shown: Glyphs) -> str:
    if filled is None:
        return GAP
    over = filled - row * eighths
    if over <= 0:
        return shown.levels[0] if row == 0 else GAP
    return shown.levels[min(eighths - 1, int(over))]


def _scale(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bar(share: float, width: int, shown: Glyphs) -> str:
    """A bar of so many cells for a share of 1; something that is not nothing is seen."""
    cells = round(max(0.0, min(1.0, share)) * width)
    return shown.bar * (cells or (1 if share > 0 else 0))
