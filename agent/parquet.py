"""Exports as Parquet, with the columns of the CSV and a type for each. Needs pyarrow, which comes with the extra."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.export import Cell, ExportError

WHOLE = frozenset({"curtailments", "machines", "order_id", "event_id", "attempts", "drifts", "height"})
MOMENTS = frozenset({
    "period_start", "period_end", "interval_start", "interval_end", "at", "created", "dispatched", "confirmed",
    "settled",
})  # fmt: skip
TEXTS = frozenset({
    "machine_id", "mac", "ip", "make", "model", "firmware", "group", "power_source", "action", "state", "reason",
    "ordered_by", "target_mode", "failure", "detail", "kind", "hashprice_source", "power_price_source",
    "site",
})  # fmt: skip
"""Columns that are no floating-point numbers, by type."""


def to_parquet(rows: Iterable[Mapping[str, Cell]], columns: Sequence[str]) -> bytes:
    """A Parquet file of these rows. Moments are milliseconds of UTC, unknown is null; texts are as they were, since
    nothing of such a file is executed. Raises `ExportError` where pyarrow is missing."""
    try:
        import pyarrow  # noqa: PLC0415 - of the extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ExportError(
            "--format parquet: pyarrow is not installed; install hashcost with the extra `parquet`"
        ) from error
    kinds = {
        **dict.fromkeys(WHOLE, pyarrow.int64()),
        **dict.fromkeys(MOMENTS, pyarrow.timestamp("ms", tz="UTC")),
        **dict.fromkeys(TEXTS, pyarrow.string()),
    }
    values: list[list[Any]] = [[] for _ in columns]
    for row in rows:
        for name, column in zip(columns, values, strict=True):
            cell = row[name]
            column.append(datetime.fromisoformat(str(cell)) if name in MOMENTS and cell is not None else cell)
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns])
    arrays = [pyarrow.array(column, type=field.type) for column, field in zip(values, schema, strict=True)]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    written: bytes = sink.getvalue().to_pybytes()
    return written
