"""Profitability per machine and period as CSV: stable columns, no cell that a spreadsheet executes, no half file."""

import csv
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path

from agent.accounts import Books, accounts, cut_hours
from agent.errors import UsageError
from agent.ledger import Sums
from agent.output import ReaderLeft
from agent.reader import Reader
from agent.rows import MachineRow, from_ms

COLUMNS = (
    "machine_id", "mac", "ip", "make", "model", "firmware", "group", "period_start", "period_end",
    "mining_hours", "asleep_hours", "unknown_hours", "hashrate_ths", "power_w", "power_source", "efficiency_j_per_th",
    "energy_kwh", "revenue_usd", "energy_cost_usd", "margin_usd",
    "hashprice_usd_per_ph_day", "power_price_usd_per_kwh", "hashcost_usd_per_ph_day",
    "strike_price_usd_per_kwh", "breakeven_hashprice_usd_per_ph_day",
    "avoided_loss_usd", "forgone_profit_usd", "curtailments",
)  # fmt: skip
MOST_ROWS = 2_000_000
"""More than spreadsheets open and than a person meant."""
_STEP = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=28)}
_DESCRIPTORS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
Cell = str | int | float | None
Tell = Callable[[str], None]
"""Says to a person what an export cannot say in its cells."""
CSV, PARQUET = "csv", "parquet"


def unheard(text: str) -> None:
    """Nobody is there to be told."""
    del text


class ExportError(UsageError):
    """The range or the file cannot be used; the message names it."""


class Period(StrEnum):
    """How a range is cut into rows of a machine."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    MACHINE = "machine"
    """One row for the whole range."""


def profitability(
    reader: Books, start: datetime, end: datetime, by: Period, zone: tzinfo = UTC
) -> Iterator[Mapping[str, Cell]]:
    """Rows of the profitability export over [start, end), machine by machine, a mapping from column to cell.

    Periods are UTC hours, or days or months of the zone, cut off at the ends of the range. Machines of which nothing is
    known in the range get a row of unknown hours too: a gap is shown, not left out.
    """
    for machine, sums in accounts(reader, list(split(start, end, by, zone))):
        for each in sums:
            yield _row(machine, each)


def export_profitability(
    database: Path,
    start: datetime | None,
    end: datetime | None,
    by: Period,
    output: Path | None,
    *,
    zone: tzinfo = UTC,
    file_format: str = CSV,
    tell: Tell = unheard,
) -> str:
    """The export of [start, end) from the store, also written to `output` if given.

    `start` defaults to the first reading, `end` to now. Raises `StoreError` and `ExportError`.
    """
    with Reader(database) as reader, reader.one_moment():
        start, end = export_range(reader, database, start, end, by)
        tell_of_whole_hours(reader, split(start, end, by, zone), tell)
        return deliver(profitability(reader, start, end, by, zone), COLUMNS, output, file_format)


def deliver(
    rows: Iterable[Mapping[str, Cell]], columns: Sequence[str], output: Path | None, file_format: str = CSV
) -> str:
    """Write rows to a file in a format, if one is named; the text, where it is one. Raises `ExportError`."""
    if file_format == PARQUET:
        from agent.parquet import to_parquet  # noqa: PLC0415 - it needs this module

        if output is None:
            raise ExportError("--format parquet: is no text; name a file with -o")
        write_atomically(output, to_parquet(rows, columns))
        return ""
    text = to_csv(rows, columns)
    if output is not None:
        write_atomically(output, text)
    return text


def tell_of_whole_hours(reader: Reader, periods: Iterable[tuple[datetime, datetime]], tell: Tell) -> None:
    """Tell how many hours the periods cut of which only the sums of the whole hour are kept."""
    hours = reader.whole_hours(cut_hours(list(periods)))
    if hours:
        tell(
            f"{reader.path}: of {hours} of the hours that these periods cut only the whole is kept: they are unknown "
            "time here, and known in periods of full hours of UTC"
        )


def export_range(
    reader: Reader, database: Path, start: datetime | None, end: datetime | None, by: Period
) -> tuple[datetime, datetime]:
    """The range of an export; by default from the first that is known until now. Raises `ExportError`."""
    first = reader.first_known_at()
    if first is None:
        raise ExportError(f"{database}: holds no readings yet")
    start, end = start or first, end or datetime.now(UTC)
    if start >= end:
        raise ExportError(
            f"the range is empty: --from {start.isoformat()} is not before --to {end.isoformat()}"
        )
    _refuse_too_many(len(reader.machines()), start, end, by)
    return start, end


def _refuse_too_many(machines: int, start: datetime, end: datetime, by: Period) -> None:
    periods = 1 if by is Period.MACHINE else (end - start) // _STEP[by] + 1
    if machines * periods > MOST_ROWS:
        raise ExportError(
            f"the range gives {machines * periods:,} rows, more than {MOST_ROWS:,}: "
            "set --from and --to closer together, or --by day, month or machine"
        )


def split(
    start: datetime, end: datetime, by: Period, zone: tzinfo = UTC
) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) cut at full UTC hours, or at midnights or months of the zone; those are not of equal length where
    clocks change."""
    since = start
    while since < end:
        until = min(_next(since, by, zone), end) if by is not Period.MACHINE else end
        yield since, until
        since = until


def _next(at: datetime, by: Period, zone: tzinfo) -> datetime:
    """The end of the hour, day or month that a moment lies in."""
    if by is Period.HOUR:
        return at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    local = at.astimezone(zone)
    if by is Period.DAY:
        date = local.date() + timedelta(days=1)
    else:
        date = (local.date().replace(day=1) + timedelta(days=32)).replace(day=1)
    return datetime.combine(date, time(), tzinfo=zone).astimezone(UTC)


def _row(machine: MachineRow, sums: Sums) -> dict[str, Cell]:
    known, priced = sums.known_h > 0, sums.priced_h > 0
    return {
        "machine_id": machine.machine_id,
        "mac": machine.mac,
        "ip": machine.ip,
        "make": machine.make,
        "model": machine.model,
        "firmware": machine.firmware,
        "group": machine.group,
        "period_start": iso(sums.start_ms),
        "period_end": iso(sums.end_ms),
        "mining_hours": sums.mining_h,
        "asleep_hours": sums.asleep_h,
        "unknown_hours": sums.unknown_h,
        "hashrate_ths": _ratio(sums.hash_phd * 24 * 1000, sums.known_h),
        "power_w": _ratio(sums.energy_kwh * 1000, sums.known_h),
        "power_source": sums.power_source.value if sums.power_source else None,
        "efficiency_j_per_th": _ratio(sums.energy_kwh * 3.6e6, sums.hash_phd * 1000 * 86_400),
        "energy_kwh": sums.energy_kwh if known else None,
        "revenue_usd": sums.revenue_usd if priced else None,
        "energy_cost_usd": sums.energy_cost_usd if priced else None,
        "margin_usd": sums.revenue_usd - sums.energy_cost_usd if priced else None,
        "hashprice_usd_per_ph_day": _ratio(sums.hashprice_h, sums.priced_h),
        "power_price_usd_per_kwh": _ratio(sums.price_h_usd_per_kwh, sums.priced_h),
        "hashcost_usd_per_ph_day": _ratio(sums.energy_cost_usd, sums.priced_phd),
        "strike_price_usd_per_kwh": _ratio(sums.revenue_usd, sums.avoidable_priced_kwh),
        "breakeven_hashprice_usd_per_ph_day": _ratio(sums.avoidable_cost_usd, sums.paid_phd),
        "avoided_loss_usd": sums.avoided_loss_usd,
        "forgone_profit_usd": sums.forgone_profit_usd,
        "curtailments": sums.curtailments,
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def iso(milliseconds: int) -> str:
    """A moment as exports write it."""
    return from_ms(milliseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_csv(rows: Iterable[Mapping[str, Cell]], columns: Sequence[str] = COLUMNS) -> str:
    """Header and rows as CSV text, `.` decimals, empty for unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row[column]) for column in columns])
    return text.getvalue()


def cell(value: Cell) -> str:
    """A value as a cell: `.` decimals, empty for unknown, text that no spreadsheet executes."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return neutralise(str(value))


def neutralise(text: str) -> str:
    """A cell that a spreadsheet takes for text: one that would start a formula gets a leading apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def refuse_unwritable(path: Path) -> None:
    """Raise `ExportError` if it can be seen now that `write_atomically` will fail."""
    target = Path(os.path.realpath(path))
    if _is_stream(path):
        writable = os.access(path, os.W_OK)
    elif not os.path.isdir(target.parent):  # noqa: PTH112 - is_dir raises where we may not look
        raise ExportError(f"{path}: there is no directory {target.parent}")
    else:
        writable = os.access(target.parent, os.W_OK | os.X_OK)
    if not writable:
        raise ExportError(f"{path}: cannot be written by this user")


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a whole file or none: a reader sees the old one or the new one, and a failure leaves the old one.

    A link stays and its target is written; a device, a pipe or one of our own streams is written to and not replaced.
    A new file gets the mode that the umask gives; one that is replaced passes its mode on.
    """
    try:
        if _is_stream(path):
            _write_into(path, text)
        else:
            _replace(Path(os.path.realpath(path)), text)
    except BrokenPipeError as error:
        raise ReaderLeft from error
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror})") from error


def _is_stream(path: Path) -> bool:
    if str(path.absolute()).startswith(_DESCRIPTORS):
        return True
    mode = _mode(path)
    return mode is not None and not stat.S_ISREG(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:  # not there, or not for us to see: writing will say so
        return None


def _write_into(path: Path, text: str | bytes) -> None:
    """Appends: standard output may be a file with something in it."""
    with path.open("ab") as file:
        file.write(_encoded(text))


def _encoded(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def _replace(path: Path, text: str | bytes) -> None:
    mode = _mode(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_encoded(text))
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
