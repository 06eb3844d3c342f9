"""Prices of power markets through the libraries that know most of them, written to the CSV that `power.kind = "file"`
reads. It runs beside the agent, from a timer: what these libraries pull in and how long they take stay outside of it.

LibraryError         a library that is not there, does not know the market, or brings nothing that is a price
"""

import csv
import io
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.errors import AgentError
from agent.export import write_atomically

DAY = timedelta(days=1)


class LibraryError(AgentError):
    """No prices were brought."""


def fetch(library: str, market: str, location: str, output: Path, *, key: str | None, now: datetime) -> int:
    """Bring the prices around now and write them, by the MWh in the market's own currency; how many there are. What
    was there before stays unless all of it is good. Raises `LibraryError`."""
    bring = {"entsoe": _entsoe, "gridstatus": _gridstatus}[library]
    module = _module(library)
    try:
        prices = sorted(_rows(bring(module, market, location, key, now)))
    except LibraryError:
        raise
    except Exception as error:
        raise LibraryError(f"{library} {market} {location}: {type(error).__name__}: {error}") from error
    if not prices:
        raise LibraryError(f"{library} {market}: no prices for {location!r}")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("start", "price"))
    rows.writerows((start.isoformat(), f"{price:g}") for start, price in prices)
    write_atomically(output, table.getvalue())
    return len(prices)


def _module(library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise LibraryError(f"{library} is not installed: pip install 'hashcost[markets]'") from error


def _rows(found: Iterable[tuple[Any, Any]]) -> Iterable[tuple[datetime, float]]:
    """Times in UTC and prices; a price that is not known yet is left out."""
    for moment, value in found:
        start, price = datetime.fromisoformat(moment.isoformat()), float(value)
        if start.tzinfo is None:
            raise LibraryError(f"a time has no zone: {moment}")
        if math.isfinite(price):
            yield start.astimezone(UTC), price


def _entsoe(
    module: Any, market: str, location: str, key: str | None, now: datetime
) -> Iterable[tuple[Any, Any]]:
    """Day-ahead prices of a bidding zone (`DE_LU`), EUR/MWh."""
    if key is None:
        raise LibraryError("entsoe wants the key of an account: --key-file")
    if market != "day_ahead":
        raise LibraryError(f"entsoe: {market!r} is no market here; day_ahead is")
    pandas = import_module("pandas")
    client = module.EntsoePandasClient(api_key=key)
    start, end = (pandas.Timestamp(moment) for moment in (now - DAY, now + 2 * DAY))
    return [*client.query_day_ahead_prices(location, start=start, end=end).items()]


def _gridstatus(
    module: Any, market: str, location: str, key: str | None, now: datetime
) -> Iterable[tuple[Any, Any]]:
    """Five-minute prices of a node of a North American market (`CAISO`, `MISO`, `NYISO`, `ISONE`), USD/MWh."""
    del key, now
    iso = getattr(module, market, None)
    if iso is None or not hasattr(iso, "get_lmp"):
        raise LibraryError(f"gridstatus: {market!r} has no prices by node; CAISO, ISONE, MISO and NYISO have")
    table = iso().get_lmp(date="today", market="REAL_TIME_5_MIN", locations=[location])
    start = "Interval Start" if "Interval Start" in table else "Time"
    return [
        (moment, price)
        for moment, place, price in zip(table[start], table["Location"], table["LMP"], strict=True)
        if str(place) == location
    ]
