"""Old days as Parquet files, one for each day of UTC and kind: what the database keeps no more. Needs pyarrow.

ArchiveError         a file that is missing or cannot be used, or pyarrow is not installed
"""

import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from agent.books import HOUR_COLUMNS, STEP_COLUMNS
from agent.errors import UsageError
from agent.order_rows import ORDER_COLUMNS
from agent.rows import from_ms

MISSING = "needs pyarrow, which is not installed: pip install 'hashcost[parquet]'"
MS_PER_DAY = 86_400_000
Row = tuple[Any, ...]
PRICE_COLUMNS = (
    "from_ms", "until_ms", "quote_id", "at_ms", "hashprice_usd_per_ph_day", "hashprice_source", "difficulty", "height",
    "fees_btc", "btc_usd", "power_price_usd_per_kwh", "power_price_source", "fee", "reject", "overhead",
)  # fmt: skip
"""Prices and terms of the site, and from when until when rounds went by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file of a kind holds: rows of the day in which `moment` lies, in the order of `order`."""

    columns: Sequence[str]
    moment: str
    order: Sequence[str]

    def place(self, name: str) -> int:
        """Where a column is in a row."""
        return self.columns.index(name)

    def in_order(self, rows: Iterable[Iterator[Row]]) -> Iterator[Row]:
        """Rows of several origins as one."""
        return heapq.merge(*rows, key=itemgetter(*map(self.place, self.order)))


TABLES: Mapping[str, Contents] = {
    "steps": Contents(columns=STEP_COLUMNS, moment="step_ms", order=("machine_id", "step_ms")),
    "ledger": Contents(columns=HOUR_COLUMNS, moment="hour_ms", order=("machine_id", "hour_ms")),
    "prices": Contents(columns=PRICE_COLUMNS, moment="from_ms", order=("from_ms",)),
    "events": Contents(
        columns=("event_id", "at_ms", "kind", "machine_id", "detail"), moment="at_ms", order=("event_id",)
    ),
    "orders": Contents(columns=("order_id", *ORDER_COLUMNS), moment="settled_ms", order=("order_id",)),
}
"""What is archived."""
_WHOLE = {"curtailments", "quote_id", "height", "event_id", "order_id", "attempts", "drifts"}
_TEXTS = {
    "machine_id", "power_source", "hashprice_source", "power_price_source", "kind", "detail", "action", "state",
    "reason", "ordered_by", "target_mode", "restore", "failure", "snapshot",
}  # fmt: skip
_ROWS, _ROWS_READ, _FEWEST_READ, _ROWS_HELD = 20_000, 2_000, 250, 90_000
"""Written and read at a time, and held of all files: a day of ten thousand machines does not fit into the memory of an
agent, and the files of days are read side by side."""
_OPEN = 100
"""Files that stay open between what is read of them; of more days than that each is opened again each time, for a
process has 256 descriptors on some hosts."""


class ArchiveError(UsageError):
    """The archive cannot be read or written."""


def is_possible() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where old days are, and which: every day of [from_ms, until_ms) has its files, and what the database has of it
    too does not count."""

    directory: str
    from_ms: int
    until_ms: int

    @classmethod
    def of_text(cls, text: str) -> Self:
        """As it was stored."""
        return cls(**json.loads(text))

    def as_text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    def rows(self, table: str, start_ms: int, end_ms: int) -> Iterator[Row]:
        """The archived rows of [start_ms, end_ms), in the order of their kind. Raises `ArchiveError`."""
        first = max(start_ms, self.from_ms) // MS_PER_DAY * MS_PER_DAY
        files = [
            day_file(Path(self.directory), table, day_ms)
            for day_ms in range(first, min(end_ms, self.until_ms), MS_PER_DAY)
        ]
        if missing := [file for file in files if not file.is_file()]:
            raise ArchiveError(f"{missing[0]}: is missing from the archive of old days; put it back")
        contents = TABLES[table]
        if contents.order == (contents.moment,):  # day after day
            return chain.from_iterable(_read(file, contents, start_ms, end_ms) for file in files)
        rows, stays_open = (
            max(_FEWEST_READ, min(_ROWS_READ, _ROWS_HELD // max(1, len(files)))),
            len(files) <= _OPEN,
        )
        return contents.in_order(
            _read(file, contents, start_ms, end_ms, rows=rows, stays_open=stays_open) for file in files
        )


def day_file(directory: Path, table: str, day_ms: int) -> Path:
    """Where a day is kept."""
    return directory / f"{table}-{from_ms(day_ms):%Y-%m-%d}.parquet"


def write_day(directory: Path, table: str, day_ms: int, rows: Iterable[Row]) -> None:
    """Write the rows of a day, whole or not at all. Raises `ArchiveError`."""
    target = day_file(directory, table, day_ms)
    new = target.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            _write(file, TABLES[table].columns, rows)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
        _sync_directory(directory)  # what the database drops next must not come back as a file of no name
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise ArchiveError(f"{target}: cannot be written ({error.strerror})") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: Any, columns: Sequence[str], rows: Iterable[Row]) -> None:
    pyarrow, parquet = _libraries()
    kinds = {
        name: pyarrow.string()
        if name in _TEXTS
        else pyarrow.int64()
        if _is_whole(name)
        else pyarrow.float64()
        for name in columns
    }
    schema = pyarrow.schema(list(kinds.items()))
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for bite in _bites(rows):
            columns_of = zip(zip(*bite, strict=True), kinds.values(), strict=True)
            values = [pyarrow.array(column, type=kind) for column, kind in columns_of]
            writer.write_table(pyarrow.Table.from_arrays(values, schema=schema))


def _is_whole(name: str) -> bool:
    return name in _WHOLE or name.endswith("_ms")


def _bites(rows: Iterable[Row]) -> Iterator[list[Row]]:
    bite: list[Row] = []
    for row in rows:
        bite.append(row)
        if len(bite) == _ROWS:
            yield bite
            bite = []
    if bite:
        yield bite


def _read(
    path: Path,
    contents: Contents,
    start_ms: int,
    end_ms: int,
    *,
    rows: int = _ROWS_READ,
    stays_open: bool = True,
) -> Iterator[Row]:
    pyarrow, _ = _libraries()
    moment, columns = contents.place(contents.moment), list(contents.columns)
    bites = _bites_at_once if stays_open else _bites_apart
    try:
        for bite in bites(path, columns, rows):
            for row in bite:
                if start_ms <= row[moment] < end_ms:
                    yield row
    except (OSError, pyarrow.ArrowException) as error:
        raise ArchiveError(f"{path}: cannot be read ({error})") from error


def _bites_at_once(path: Path, columns: Sequence[str], rows: int) -> Iterator[Sequence[Row]]:
    _, parquet = _libraries()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            yield _rows_of(batch)


def _bites_apart(path: Path, columns: Sequence[str], rows: int) -> Iterator[Sequence[Row]]:
    """The same, and the file is closed after each."""
    _, parquet = _libraries()
    group, first = 0, 0
    while True:
        with parquet.ParquetFile(path) as file:
            if group == file.num_row_groups:
                return
            table = file.read_row_group(group, columns=columns)
        bite = _rows_of(table.slice(first, rows))
        first += rows
        if first >= table.num_rows:
            group, first = group + 1, 0
        del table  # it is many times what is held of it
        yield bite


def _rows_of(table: Any) -> Sequence[Row]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415 - of the extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ArchiveError(f"the archive of old days {MISSING}") from error
    return pyarrow, parquet
