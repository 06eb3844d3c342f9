"""The fleet's ledger: profitability of every machine of every site, from the hours that the sites booked."""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from agent.export import (
    COLUMNS,
    CSV,
    Cell,
    ExportError,
    Period,
    Tell,
    deliver,
    export_range,
    profitability,
    split,
    tell_of_whole_hours,
    unheard,
)
from agent.federation.fleet_database import site_databases
from agent.reader import Reader

FLEET_COLUMNS = ("site", *COLUMNS)


def export_fleet(
    directory: Path,
    start: datetime | None,
    end: datetime | None,
    by: Period,
    output: Path | None,
    *,
    zone: tzinfo = UTC,
    file_format: str = CSV,
    tell: Tell = unheard,
) -> str:
    """The profitability of a whole fleet over [start, end), with a column of sites, also written to `output`.

    `start` defaults to the first that is known of any site, `end` to now. Of hours that a site has not booked, only its
    machines' last readings are known here. Raises `ExportError` and `StoreError`.
    """
    databases = dict(site_databases(directory))
    end = end or datetime.now(UTC)
    first = [known for database in databases.values() if (known := _first_known(database)) is not None]
    if start is None and not first:
        raise ExportError(f"{directory}: no site has told of any machine yet")
    rows: list[Mapping[str, Cell]] = []
    for site, database in databases.items():
        with Reader(database) as reader, reader.one_moment():
            if reader.first_known_at() is None:
                continue
            since, until = export_range(reader, database, start or min(first), end, by)
            tell_of_whole_hours(reader, split(since, until, by, zone), tell)
            rows += [{"site": site, **row} for row in profitability(reader, since, until, by, zone)]
    return deliver(rows, FLEET_COLUMNS, output, file_format)


def _first_known(database: Path) -> datetime | None:
    with Reader(database) as reader:
        return reader.first_known_at()
