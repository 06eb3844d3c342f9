"""Histories of prices, from CSV files or as the agent recorded them: power by the interval, hashprice by the day or
finer. Gaps stay gaps.

HistoryError         a file that cannot be used; the message names it, the row and what is expected
"""

import csv
import io
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from agent.economics import MINING_YEARS
from agent.errors import UsageError

TIME_COLUMNS = ("timestamp_utc", "start", "time", "timestamp", "date")
"""Where the start of an interval is looked for; without an offset it is UTC."""
PRICE_COLUMNS = {"usd_per_kwh": 1.0, "price_usd_per_kwh": 1.0, "usd_per_mwh": 1e-3, "price_usd_per_mwh": 1e-3}
"""Where the power price is looked for, and what makes USD/kWh of it."""
HASHPRICE_COLUMN = "hashprice_usd_per_ph_day"
HIGHEST_USD_PER_KWH = 20.0
HIGHEST_HASHPRICE = 5_000.0
LONGEST_INTERVAL_S = 31 * 86_400.0
STEP_S = 300.0
"""How finely what was recorded is replayed."""


class HistoryError(UsageError):
    """A history of prices cannot be used."""


@dataclass(frozen=True, slots=True)
class History:
    """A value for each [starts[i], ends[i]), in seconds since 1970 UTC, oldest first, without overlaps.

    What was `recorded` is what was known at the time: from the start of its interval on, and not for how long.
    """

    starts: Sequence[float]
    ends: Sequence[float]
    values: Sequence[float]
    recorded: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def index_at(self, at_s: float) -> int | None:
        """The interval that holds a moment; None in a gap."""
        index = bisect_right(self.starts, at_s) - 1
        return index if index >= 0 and at_s < self.ends[index] else None

    def value_at(self, at_s: float) -> float | None:
        """The value at a moment; None in a gap."""
        index = self.index_at(at_s)
        return None if index is None else self.values[index]

    def within(self, start_s: float, end_s: float) -> "History":
        """The intervals that lie wholly in [start_s, end_s)."""
        return self.only([i for i in range(len(self)) if start_s <= self.starts[i] and self.ends[i] <= end_s])

    def only(self, kept: Sequence[int]) -> "History":
        """Some of the intervals, by their places."""
        return replace(
            self,
            starts=[self.starts[i] for i in kept],
            ends=[self.ends[i] for i in kept],
            values=[self.values[i] for i in kept],
        )

    @property
    def first_known_s(self) -> float:
        """When its first value was known."""
        return self.starts[0] if self.recorded else self.ends[0]


def power_history(path: Path) -> History:
    """Power prices in USD/kWh. Raises `HistoryError`."""
    rows = _rows(path)
    column = next((name for name in PRICE_COLUMNS if name in rows[0]), None)
    if column is None:
        raise HistoryError(
            f"{path}: no column of prices; name it {' or '.join(PRICE_COLUMNS)}, which says the unit"
        )
    factor = PRICE_COLUMNS[column]
    history = _history(path, rows, column, factor)
    dearest = max(abs(value) for value in history.values)
    if dearest > HIGHEST_USD_PER_KWH:
        raise HistoryError(f"{path}: {dearest:g} USD/kWh cannot be; is the column in USD/MWh?")
    return history


def hashprice_history(path: Path) -> History:
    """Hashprices in USD/PH/day. Raises `HistoryError`."""
    rows = _rows(path)
    if HASHPRICE_COLUMN not in rows[0]:
        raise HistoryError(f"{path}: no column {HASHPRICE_COLUMN}")
    history = _history(path, rows, HASHPRICE_COLUMN, 1.0)
    if not all(0 < value < HIGHEST_HASHPRICE for value in history.values):
        raise HistoryError(f"{path}: a hashprice is over 0 and under {HIGHEST_HASHPRICE:g} USD/PH/day")
    return history


Stretch = tuple[float, float, float | None]
"""A value, None if it was not known, in [start, end), in seconds since 1970 UTC."""


def recorded_power(stretches: Iterable[Stretch]) -> History:
    """Prices as the agent went by them, oldest first: cut where they changed, and at every full five minutes."""
    return _recorded(_cut(stretches))


def recorded_hashprice(stretches: Iterable[Stretch]) -> History:
    """The same, but looked at every full five minutes, and after gaps: it changes with every price of bitcoin."""
    pieces: list[list[float]] = []
    for start, end, value in _cut(stretches):
        if pieces and pieces[-1][1] == start and start % STEP_S:
            pieces[-1][1] = end
        else:
            pieces.append([start, end, value])
    return _recorded(pieces)


def _cut(stretches: Iterable[Stretch]) -> Iterator[tuple[float, float, float]]:
    """Those of known value, at every full five minutes; what follows on the same value is one with it."""
    waiting: tuple[float, float, float] | None = None
    for start, end, value in stretches:
        if value is None:
            continue
        if waiting is not None and waiting[1:] == (start, value):
            waiting = (waiting[0], end, value)
            continue
        if waiting is not None:
            yield from _at_full_steps(*waiting)
        waiting = (start, end, value)
    if waiting is not None:
        yield from _at_full_steps(*waiting)


def _at_full_steps(start: float, end: float, value: float) -> Iterator[tuple[float, float, float]]:
    while start < end:
        until = min(end, (start // STEP_S + 1) * STEP_S)
        yield start, until, value
        start = until


def _recorded(pieces: Iterable[Sequence[float]]) -> History:
    starts, ends, values = [list(each) for each in zip(*pieces, strict=True)] or ([], [], [])
    return History(starts, ends, values, recorded=True)


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        rows: list[dict[str, str | None]] = list(
            csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HistoryError(f"{path}: cannot be read as a CSV ({error})") from error
    if len(rows) < 2:
        raise HistoryError(f"{path}: a history is a header and two rows at least")
    return rows


def _history(path: Path, rows: Sequence[dict[str, str | None]], value_column: str, factor: float) -> History:
    time_column = next((name for name in TIME_COLUMNS if name in rows[0]), None)
    if time_column is None:
        raise HistoryError(f"{path}: no column of times; name it {' or '.join(TIME_COLUMNS)}")
    points = list(_points(path, rows, time_column, value_column))
    for (before, _, _), (after, _, line) in pairwise(points):
        if after <= before:
            raise HistoryError(f"{path}: line {line}: its time is not after the one before")
    starts = [start for start, _, _ in points]
    step = _step(starts)
    if step > LONGEST_INTERVAL_S:
        raise HistoryError(f"{path}: its intervals are longer than a month")
    following = [*starts[1:], starts[-1] + step]
    ends = [min(start + step, after) for start, after in zip(starts, following, strict=True)]
    return History(starts, ends, [value * factor for _, value, _ in points])


def _points(
    path: Path, rows: Sequence[dict[str, str | None]], time_column: str, value_column: str
) -> Iterator[tuple[float, float, int]]:
    """(start, value, line) of each row that has a value; one without is a gap."""
    for line, row in enumerate(rows, start=2):
        text = (row.get(value_column) or "").strip()
        if not text:
            continue
        try:
            moment = datetime.fromisoformat((row.get(time_column) or "").strip())
        except ValueError:
            raise HistoryError(f"{path}: line {line}: {row.get(time_column)!r:.40} is not a time") from None
        if moment.year not in MINING_YEARS:
            raise HistoryError(f"{path}: line {line}: there are no bitcoins to be mined in {moment.year}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise HistoryError(f"{path}: line {line}: {text!r:.40} is not a price")
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        yield aware.timestamp(), value, line


def _step(starts: Sequence[float]) -> float:
    """The usual length of an interval, seconds."""
    lengths = Counter(after - before for before, after in pairwise(starts))
    return lengths.most_common(1)[0][0]
