"""Real-time and day-ahead prices of power markets: what to ask each for, and what its answer says in USD/kWh.

Each function takes the page of one market and gives interval prices. Times are the market's own, made aware; what
is implausible is for `intervals.absurd` to judge.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from agent.fetch import SourceError, data_of, text_of
from agent.market.sources import at, number, stamp
from agent.tariff.intervals import Band, IntervalPrice

UNITS: Mapping[str, float] = {
    "usd_per_kwh": 1.0,
    "usd_per_mwh": 1e-3,
    "cents_per_kwh": 1e-2,
}
"""Factors to a currency unit per kWh; `currency_usd` makes USD of it."""
_LEAP_SECOND = re.compile(r"(:\d\d):60(?=$|[.,Z+-])")
FIVE_MINUTES, QUARTER, HALF_HOUR, HOUR = (timedelta(minutes=each) for each in (5, 15, 30, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a market. `location` is its settlement point, zone, area or tariff; `currency_usd` what a
    unit of its currency is worth."""

    location: str = ""
    currency_usd: float = 1.0
    unit: str = "usd_per_kwh"
    interval: timedelta = HOUR
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    pointer: str = ""
    time_pointer: str = ""
    time_column: str = ""
    price_column: str = ""


Parse = Callable[[bytes, Wanted, datetime], list[IntervalPrice]]
Path = Callable[[Wanted, datetime], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """One market: where it publishes, how it is read, what its load settles on, and what its prices can be.
    `url` is empty where there is no public address without an account of one's own."""

    url: str
    path: Path
    parse: Parse
    settlement: timedelta
    band: Band = field(default_factory=Band)
    needs_location: bool = True
    foreign: bool = False
    """Its prices are not in USD."""


def instant(text: Any, zone: ZoneInfo | None = None, *, again: bool = False) -> datetime:
    """An ISO-8601 time, in `zone` if it has no offset of its own. Raises `SourceError`."""
    if not isinstance(text, str):
        raise SourceError("malformed", f"a time is {type(text).__name__}")
    try:
        moment = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", text.strip()))
    except ValueError as error:
        raise SourceError("malformed", f"{text!r:.40} is no time") from error
    if moment.tzinfo is None:
        if zone is None:
            raise SourceError("malformed", f"{text!r:.40} has no time zone")
        moment = moment.replace(tzinfo=zone, fold=int(again))
    return moment.astimezone(UTC)


def _rows(data: Any, what: str) -> list[Any]:
    if not isinstance(data, list) or not data:
        raise SourceError("unknown" if data == [] else "malformed", f"{what} has no prices")
    return data


def comed(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Five-minute prices, cents as texts, stamped in milliseconds."""
    del wanted
    prices = []
    for row in _rows(data_of(body), "the feed"):
        start = stamp(number(at(row, "millisUTC"), "millisUTC") / 1000, now + FIVE_MINUTES)
        cents = number(at(row, "price"), "price")
        prices.append(IntervalPrice(start=start, end=start + FIVE_MINUTES, usd_per_kwh=cents / 100))
    return prices


def octopus(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Half-hourly rates of a tariff, pence by the kWh without VAT."""
    del now
    rows = _rows(at(data_of(body), "results"), "results")
    return [
        IntervalPrice(
            start=instant(at(row, "valid_from")),
            end=_octopus_end(row),
            usd_per_kwh=number(at(row, "value_exc_vat"), "value_exc_vat") / 100 * wanted.currency_usd,
        )
        for row in rows
    ]


def _octopus_end(row: Any) -> datetime:
    """The last rate of a tariff has no end yet."""
    end = at(row, "valid_to")
    return instant(at(row, "valid_from")) + HALF_HOUR if end is None else instant(end)


def nord_pool(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Day-ahead prices of a delivery area, by the MWh."""
    del now
    rows = _rows(at(data_of(body), "multiAreaEntries"), "multiAreaEntries")
    return [
        IntervalPrice(
            start=instant(at(row, "deliveryStart")),
            end=instant(at(row, "deliveryEnd")),
            usd_per_kwh=number(at(row, "entryPerArea", wanted.location), wanted.location)
            / 1000
            * wanted.currency_usd,
        )
        for row in rows
    ]


def ercot(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Five-minute locational prices (np6-788-cd) of a settlement point, USD/MWh, in Texan wall time; `repeatHourFlag`
    tells the second of the hours that there are twice."""
    del now
    answer = data_of(body)
    names = [at(field, "name") for field in _rows(at(answer, "fields"), "fields")]
    prices = []
    for row in _rows(at(answer, "data"), "data"):
        values = dict(zip(names, row, strict=False))
        if at(values, "settlementPoint") != wanted.location:
            continue
        local = instant(at(values, "SCEDTimestamp"), ZoneInfo("UTC")).replace(tzinfo=None)
        again = 1 if at(values, "repeatHourFlag") else 0
        start = local.replace(tzinfo=ZoneInfo("America/Chicago"), fold=again).astimezone(UTC)
        price = number(at(values, "LMP"), "LMP") / 1000
        prices.append(IntervalPrice(start=start, end=start + FIVE_MINUTES, usd_per_kwh=price))
    return _rows(prices, wanted.location)


def miso(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """The last five-minute price of a node, USD/MWh. Its time is in `RefId`, in EST all the year."""
    del now
    told = at(data_of(body), "LMPData")
    reference = str(at(told, "RefId"))
    try:
        local = datetime.strptime(reference, "%d-%b-%Y - Interval %H:%M EST")  # noqa: DTZ007 - EST is added
    except ValueError as error:
        raise SourceError("malformed", f"RefId is {reference!r:.50}") from error
    start = local.replace(tzinfo=timezone(timedelta(hours=-5))).astimezone(UTC)
    for node in _rows(at(told, "FiveMinLMP", "PricingNode"), "PricingNode"):
        if at(node, "name") == wanted.location:
            price = number(at(node, "LMP"), "LMP") / 1000
            return [IntervalPrice(start=start, end=start + FIVE_MINUTES, usd_per_kwh=price)]
    raise SourceError("unknown", f"there is no node {wanted.location}")


def nyiso(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Five-minute prices of a zone as CSV, USD/MWh; stamps are of the interval's end in New York, without offset: on
    the day that has an hour twice, the file's order tells which one is meant."""
    del now
    zone, prices = ZoneInfo("America/New_York"), []
    last = datetime(1970, 1, 1, tzinfo=UTC)
    for row in csv.DictReader(io.StringIO(text_of(body))):
        if row.get("Name") != wanted.location:
            continue
        try:
            local = datetime.strptime(row.get("Time Stamp") or "", "%m/%d/%Y %H:%M:%S").replace(tzinfo=zone)
        except ValueError as error:
            raise SourceError("malformed", f"Time Stamp is {row.get('Time Stamp')!r:.30}") from error
        end = local.astimezone(UTC)
        if end < last:
            end = local.replace(fold=1).astimezone(UTC)
        last = end
        price = number(row.get("LBMP ($/MWHr)"), "LBMP") / 1000
        prices.append(IntervalPrice(start=end - FIVE_MINUTES, end=end, usd_per_kwh=price))
    return _rows(prices, wanted.location)


def json_page(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Any JSON: `pointer` (RFC 6901) leads to the price, or to a list of rows in which `price_column` and
    `time_column` are names; `time_pointer` to the price's time, which is else that of asking."""
    data = data_of(body)
    found = _point(data, wanted.pointer)
    if isinstance(found, list):
        return _table(found, wanted)
    start = now if not wanted.time_pointer else _time(_point(data, wanted.time_pointer), wanted)
    return [_interval(start, found, wanted)]


def table(body: bytes, wanted: Wanted, now: datetime) -> list[IntervalPrice]:
    """Any CSV with a header: `time_column` is the interval's start, `price_column` its price."""
    del now
    return _table(list(csv.DictReader(io.StringIO(text_of(body)))), wanted)


def _table(rows: Iterable[Any], wanted: Wanted) -> list[IntervalPrice]:
    prices: list[IntervalPrice] = []
    for number_of, row in enumerate(rows, start=1):
        try:
            start = _time(at(row, wanted.time_column), wanted)
            if (
                prices and start <= prices[-1].start
            ):  # on the day that has an hour twice, the order tells which
                start = _time(at(row, wanted.time_column), wanted, again=True)
            prices.append(_interval(start, at(row, wanted.price_column), wanted))
        except SourceError as error:
            raise SourceError(error.kind, f"row {number_of}: {error.detail}") from error
    return _rows(prices, "the table")


def _interval(start: datetime, value: Any, wanted: Wanted) -> IntervalPrice:
    price = number(value, "the price") * UNITS[wanted.unit] * wanted.currency_usd
    return IntervalPrice(start=start, end=start + wanted.interval, usd_per_kwh=price)


def _time(value: Any, wanted: Wanted, *, again: bool = False) -> datetime:
    """Seconds or milliseconds since 1970, or a text; `again` is the second of two equal times of the wall clock."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if value > 1e11 else value
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, OSError, ValueError) as error:
            raise SourceError("malformed", f"{value!r:.30} is no time") from error
    return instant(value, wanted.zone, again=again)


def _point(data: Any, pointer: str) -> Any:
    """What a JSON pointer leads to. Raises `SourceError`."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        data = at(data, int(key) if isinstance(data, list) and key.lstrip("-").isdigit() else key)
    return data


def _octopus_path(wanted: Wanted, now: datetime) -> str:
    since = (now - HOUR).strftime("%Y-%m-%dT%H:00Z")
    product = wanted.location[wanted.location.find("AGILE") :].rpartition("-")[0]
    return f"/v1/products/{product}/electricity-tariffs/{wanted.location}/standard-unit-rates/?period_from={since}"


def _nord_pool_path(wanted: Wanted, now: datetime) -> str:
    day = now.astimezone(ZoneInfo("Europe/Oslo")).date()
    area = wanted.location
    return f"/api/DayAheadPrices?date={day}&market=DayAhead&deliveryArea={area}&currency=EUR"


def _ercot_path(wanted: Wanted, now: datetime) -> str:
    since = (now - HOUR).astimezone(ZoneInfo("America/Chicago")).strftime("%Y-%m-%dT%H:%M:%S")
    point = wanted.location
    return (
        f"/api/public-reports/np6-788-cd/lmp_node_zone_hub?settlementPoint={point}&SCEDTimestampFrom={since}"
    )


def _nyiso_path(wanted: Wanted, now: datetime) -> str:
    del wanted
    day: date = now.astimezone(ZoneInfo("America/New_York")).date()
    return f"/public/csv/realtime/{day:%Y%m%d}realtime_zone.csv"


_MISO_PATH = "/MISORTWDDataBroker/DataBrokerServices.asmx?messageType=getlmpconsolidatedtable&returnType=json"
MARKETS: Mapping[str, Market] = {
    "comed": Market(
        url="https://hourlypricing.comed.com",
        path=lambda _w, _n: "/api?type=5minutefeed&format=json",
        parse=comed,
        settlement=HOUR,
        needs_location=False,
    ),
    "ercot": Market(
        url="https://api.ercot.com",
        path=_ercot_path,
        parse=ercot,
        settlement=QUARTER,
        band=Band(low=-0.5, high=6.0),  # its cap is 5 USD/kWh
    ),
    "nord_pool": Market(
        url="https://dataportal-api.nordpoolgroup.com",
        path=_nord_pool_path,
        parse=nord_pool,
        settlement=QUARTER,
        band=Band(low=-0.6, high=5.0),
        foreign=True,
    ),
    "octopus": Market(
        url="https://api.octopus.energy",
        path=_octopus_path,
        parse=octopus,
        settlement=HALF_HOUR,
        band=Band(low=-0.5, high=2.0),  # its cap is a pound
        foreign=True,
    ),
    "miso": Market(
        url="https://api.misoenergy.org",
        path=lambda _w, _n: _MISO_PATH,
        parse=miso,
        settlement=HOUR,
        band=Band(low=-0.6, high=4.0),
    ),
    "nyiso": Market(
        url="http://mis.nyiso.com",
        path=_nyiso_path,
        parse=nyiso,
        settlement=HOUR,
        band=Band(low=-1.1, high=4.0),
    ),
    "json": Market(url="", path=lambda _w, _n: "", parse=json_page, settlement=HOUR, needs_location=False),
    "csv": Market(url="", path=lambda _w, _n: "", parse=table, settlement=HOUR, needs_location=False),
}
"""By the name that the configuration calls them."""
