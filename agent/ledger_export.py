"""The ledger as CSV: sums only, per machine or of the whole site. Every ratio can be derived from them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from agent.accounts import Books, accounts
from agent.export import (
    CSV,
    Cell,
    Period,
    Tell,
    deliver,
    export_range,
    iso,
    split,
    tell_of_whole_hours,
    unheard,
)
from agent.ledger import EXTREMES, Sums
from agent.reader import Reader
from agent.rows import MachineRow, to_ms

COLUMNS = (
    "period_start", "period_end", "machine_id", "model", "group", "machines",
    "mining_hours", "low_power_hours", "asleep_hours", "unknown_hours",
    "energy_kwh", "metered_kwh", "reported_kwh", "estimated_kwh", "hash_ths_hours",
    "priced_hours", "revenue_usd", "energy_cost_usd", "margin_usd",
    "avoided_loss_usd", "forgone_profit_usd", "switching_cost_usd", "curtailments",
    "least_hashrate_ths", "most_hashrate_ths", "least_power_w", "most_power_w", "least_chip_temp_c", "most_chip_temp_c",
)  # fmt: skip


def export_ledger(
    database: Path,
    start: datetime | None,
    end: datetime | None,
    by: Period,
    output: Path | None,
    *,
    site: bool = False,
    zone: tzinfo = UTC,
    file_format: str = CSV,
    tell: Tell = unheard,
) -> str:
    """The export of [start, end), also written to `output` if given. Raises `StoreError` and `ExportError`."""
    with Reader(database) as reader, reader.one_moment():
        start, end = export_range(reader, database, start, end, by)
        tell_of_whole_hours(reader, split(start, end, by, zone), tell)
        rows = site_rows if site else machine_rows
        return deliver(rows(reader, start, end, by, zone), COLUMNS, output, file_format)


def machine_rows(
    books: Books, start: datetime, end: datetime, by: Period, zone: tzinfo = UTC
) -> Iterator[Mapping[str, Cell]]:
    """A row for each machine and period."""
    for machine, sums in accounts(books, list(split(start, end, by, zone))):
        for each in sums:
            yield _row(each, machine, 1, each.unknown_h)


def site_rows(
    books: Books, start: datetime, end: datetime, by: Period, zone: tzinfo = UTC
) -> Iterator[Mapping[str, Cell]]:
    """A row for each period of the whole site. Days, months and ranges are the sums of the site's hours."""
    periods = list(split(start, end, by, zone))
    hours = [hour for since, until in periods for hour in split(since, until, Period.HOUR)]
    totals = [Sums(start_ms=to_ms(since), end_ms=to_ms(until)) for since, until in hours]
    unknown_h = [0.0] * len(hours)
    machines = 0
    for _, sums in accounts(books, hours):
        machines += 1
        for index, each in enumerate(sums):
            totals[index].add(each)
            unknown_h[index] += each.unknown_h
    index = 0
    for since, until in periods:
        period, unknown = Sums(start_ms=to_ms(since), end_ms=to_ms(until)), 0.0
        while index < len(hours) and hours[index][0] < until:
            period.add(totals[index])
            unknown += unknown_h[index]
            index += 1
        yield _row(period, None, machines, unknown)


def _row(sums: Sums, machine: MachineRow | None, machines: int, unknown_h: float) -> dict[str, Cell]:
    known, priced = sums.known_h > 0, sums.priced_h > 0
    return {
        "period_start": iso(sums.start_ms),
        "period_end": iso(sums.end_ms),
        "machine_id": None if machine is None else machine.machine_id,
        "model": None if machine is None else machine.model,
        "group": None if machine is None else machine.group,
        "machines": machines,
        "mining_hours": sums.mining_h,
        "low_power_hours": sums.low_power_h,
        "asleep_hours": sums.asleep_h,
        "unknown_hours": unknown_h,
        "energy_kwh": sums.energy_kwh if known else None,
        "metered_kwh": sums.metered_kwh if known else None,
        "reported_kwh": sums.reported_kwh if known else None,
        "estimated_kwh": sums.estimated_kwh if known else None,
        "hash_ths_hours": sums.hash_phd * 24_000 if known else None,
        "priced_hours": sums.priced_h,
        "revenue_usd": sums.revenue_usd if priced else None,
        "energy_cost_usd": sums.energy_cost_usd if priced else None,
        "margin_usd": sums.revenue_usd - sums.energy_cost_usd if priced else None,
        "avoided_loss_usd": sums.avoided_loss_usd,
        "forgone_profit_usd": sums.forgone_profit_usd,
        "switching_cost_usd": sums.switching_cost_usd,
        "curtailments": sums.curtailments,
        **{name: None if machine is None else getattr(sums, name) for name in EXTREMES},
    }
