"""Orders, events, prices and the site's energy as CSV, and all files of a day at once."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any

from agent.accounts import Books, accounts
from agent.export import COLUMNS as PROFITABILITY_COLUMNS
from agent.export import (
    CSV,
    Cell,
    ExportError,
    Period,
    Tell,
    deliver,
    iso,
    profitability,
    refuse_unwritable,
    tell_of_whole_hours,
    unheard,
)
from agent.ledger import Sums
from agent.ledger_export import COLUMNS as LEDGER_COLUMNS
from agent.ledger_export import machine_rows, site_rows
from agent.reader import Reader
from agent.rows import to_ms

ORDER_COLUMNS = (
    "order_id", "machine_id", "action", "state", "reason", "ordered_by", "created", "dispatched", "confirmed",
    "settled", "power_w", "target_mode", "attempts", "drifts", "failure", "detail",
)  # fmt: skip
EVENT_COLUMNS = ("event_id", "at", "kind", "machine_id", "detail")
PRICE_COLUMNS = (
    "at", "hashprice_usd_per_ph_day", "hashprice_source", "difficulty", "height", "fees_btc", "btc_usd",
    "power_price_usd_per_kwh", "power_price_source", "fee", "reject", "overhead",
)  # fmt: skip
ENERGY_COLUMNS = (
    "interval_start", "interval_end", "machines", "known_hours", "unknown_hours", "energy_kwh", "metered_kwh",
    "reported_kwh", "estimated_kwh", "energy_cost_usd", "priced_hours",
)  # fmt: skip
ENERGY_STEP = timedelta(minutes=15)
MOST_INTERVALS = 20_000

Rows = Iterator[Mapping[str, Cell]]


def order_rows(reader: Reader, start: datetime, end: datetime) -> Rows:
    """Every order that was made in [start, end), in order."""
    return (_cells(row, ORDER_COLUMNS) for row in reader.order_records(to_ms(start), to_ms(end)))


def event_rows(reader: Reader, start: datetime, end: datetime) -> Rows:
    """Every event of [start, end), in order."""
    return (_cells(row, EVENT_COLUMNS) for row in reader.event_records(to_ms(start), to_ms(end)))


def price_rows(reader: Reader, start: datetime, end: datetime) -> Rows:
    """The site's prices and terms as they were acted on: a row for each change in [start, end), after the one that was
    in force at its start."""
    return (_cells(row, PRICE_COLUMNS) for row in reader.price_records(to_ms(start), to_ms(end)))


def _cells(row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, Cell]:
    """A stored row with its moments as exports write them; stored they are milliseconds, named with `_ms`."""
    return {name: _cell(row, name) for name in columns}


def _cell(row: Mapping[str, Any], name: str) -> Cell:
    if name in row:
        value: Cell = row[name]
        return value
    moment_ms = row[f"{name}_ms"]
    return None if moment_ms is None else iso(moment_ms)


def energy_rows(books: Books, start: datetime, end: datetime, step: timedelta) -> Rows:
    """The site's energy in even steps, which begin with full ones of UTC: what grid programmes settle on.

    `known_hours` and `unknown_hours` are of all machines together: what is unknown is in no sum.
    """
    periods = list(_steps(start, end, step))
    totals = [Sums(start_ms=to_ms(since), end_ms=to_ms(until)) for since, until in periods]
    unknown_h = [0.0] * len(periods)
    machines = 0
    for _, sums in accounts(books, periods):
        machines += 1
        for index, each in enumerate(sums):
            totals[index].add(each)
            unknown_h[index] += each.unknown_h
    for each, unknown in zip(totals, unknown_h, strict=True):
        known, priced = each.known_h > 0, each.priced_h > 0
        yield {
            "interval_start": iso(each.start_ms),
            "interval_end": iso(each.end_ms),
            "machines": machines,
            "known_hours": each.known_h,
            "unknown_hours": unknown,
            "energy_kwh": each.energy_kwh if known else None,
            "metered_kwh": each.metered_kwh if known else None,
            "reported_kwh": each.reported_kwh if known else None,
            "estimated_kwh": each.estimated_kwh if known else None,
            "energy_cost_usd": each.energy_cost_usd if priced else None,
            "priced_hours": each.priced_h,
        }


def _steps(start: datetime, end: datetime, step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    since = start
    while since < end:
        until = min(epoch + ((since - epoch) // step + 1) * step, end)
        yield since, until
        since = until


RECORDS: Mapping[str, tuple[Callable[[Reader, datetime, datetime], Rows], tuple[str, ...]]] = {
    "orders": (order_rows, ORDER_COLUMNS),
    "events": (event_rows, EVENT_COLUMNS),
    "prices": (price_rows, PRICE_COLUMNS),
}


def export_records(
    database: Path,
    what: str,
    start: datetime | None,
    end: datetime | None,
    output: Path | None,
    *,
    file_format: str = CSV,
) -> str:
    """The export of orders, events or prices of [start, end), also written to `output` if given."""
    rows, columns = RECORDS[what]
    with Reader(database) as reader, reader.one_moment():
        start, end = _range(reader, database, start, end)
        return deliver(rows(reader, start, end), columns, output, file_format)


def export_energy(
    database: Path,
    start: datetime | None,
    end: datetime | None,
    step: timedelta,
    output: Path | None,
    *,
    file_format: str = CSV,
    tell: Tell = unheard,
) -> str:
    """The export of the site's energy in [start, end), also written to `output` if given."""
    with Reader(database) as reader, reader.one_moment():
        start, end = _range(reader, database, start, end)
        if (end - start) / step > MOST_INTERVALS:
            raise ExportError(
                f"the range gives more than {MOST_INTERVALS:,} rows: set --from and --to closer together"
            )
        tell_of_whole_hours(reader, _steps(start, end, step), tell)
        return deliver(energy_rows(reader, start, end, step), ENERGY_COLUMNS, output, file_format)


def _range(
    reader: Reader, database: Path, start: datetime | None, end: datetime | None
) -> tuple[datetime, datetime]:
    first = reader.first_known_at()
    if first is None:
        raise ExportError(f"{database}: holds no readings yet")
    start, end = start or first, end or datetime.now(UTC)
    if start >= end:
        raise ExportError(
            f"the range is empty: --from {start.isoformat()} is not before --to {end.isoformat()}"
        )
    return start, end


def export_day(
    database: Path,
    directory: Path,
    day: datetime,
    zone: tzinfo,
    *,
    file_format: str = CSV,
    tell: Tell = unheard,
) -> list[Path]:
    """Write the files of the day before the one that `day` lies in, each whole or not at all; their paths."""
    today = day.astimezone(zone).date()
    yesterday = today - timedelta(days=1)
    start, end = (datetime.combine(date, time(), tzinfo=zone).astimezone(UTC) for date in (yesterday, today))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{directory}: cannot be made ({error.strerror})") from error
    refuse_unwritable(directory / "file")
    written = []
    with Reader(database) as reader, reader.one_moment():
        tell_of_whole_hours(reader, _steps(start, end, ENERGY_STEP), tell)
        files: dict[str, tuple[Rows, tuple[str, ...]]] = {
            "profitability": (profitability(reader, start, end, Period.HOUR, zone), PROFITABILITY_COLUMNS),
            "ledger": (machine_rows(reader, start, end, Period.DAY, zone), LEDGER_COLUMNS),
            "site": (site_rows(reader, start, end, Period.HOUR, zone), LEDGER_COLUMNS),
            "energy": (energy_rows(reader, start, end, ENERGY_STEP), ENERGY_COLUMNS),
            **{name: (rows(reader, start, end), columns) for name, (rows, columns) in RECORDS.items()},
        }
        for name, (rows, columns) in files.items():
            path = directory / f"{name}-{yesterday.isoformat()}.{file_format}"
            deliver(rows, columns, path, file_format)
            written.append(path)
    return written
