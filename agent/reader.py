"""What the agent has stored, for all others: status, exports, the terminal. Read-only, whether the agent runs or not.

Times are integer milliseconds since 1970 UTC; None is NULL.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent import books, economics
from agent.appraisal import Terms
from agent.archive import MS_PER_DAY, TABLES, Archive, Row
from agent.baseline import Baseline
from agent.books import BookedHour
from agent.database import (
    ARCHIVE,
    CHANGE,
    HEARD,
    HELD,
    MODE,
    PRICES,
    StoreError,
)
from agent.decisions import DecisionRecord, decision_of
from agent.detail import MachineDetail, detail_of
from agent.history import (
    MachineHistory,
    OrderEvidence,
    SiteHistory,
    SiteRound,
    machine_history,
    site_history,
)
from agent.market.quote import Market
from agent.opened import open_store
from agent.order_rows import order_of
from agent.orders import POLICY, Order
from agent.queries import (
    SELECT_ENDED_ORDERS,
    SELECT_EVENTS,
    SELECT_GONE,
    SELECT_LAST_READING,
    SELECT_LAST_SCAN,
    SELECT_LATEST,
    SELECT_NEXT_ROUND,
    SELECT_OPEN_ORDERS,
    SELECT_OWN_QUOTE,
    SELECT_PRICES,
    SELECT_PRICES_OF_ROUNDS,
    SELECT_READINGS,
    SELECT_READINGS_OF_ONE,
    SELECT_ROUNDS,
    SELECT_SLEEPS,
    SELECT_SWITCHES,
    SELECT_TERMS,
    SELECT_WHOLE_HOUR,
)
from agent.rows import (
    Event,
    MachineRow,
    ReadingRow,
    Settled,
    Switch,
    baseline_of,
    event_of,
    from_ms,
    inventory_row,
    market_of,
    reading_of,
    terms_of,
    to_ms,
    view_of,
)
from agent.view import MachineView
from drivers.reading import MachineId

DEFAULT_POINTS = 120
"""Steps of a history unless somebody asks for more: about what a screen is wide."""

PRICES_STAND = timedelta(minutes=15)
"""Prices of a round stand for so long if no other comes: as long as the agent acts on them."""
_SELECT = {"events": SELECT_EVENTS, "orders": SELECT_ENDED_ORDERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far somebody has read: which file (device and inode), and the number of the last change in it."""

    file: tuple[int, int]
    change: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed between two marks, as one moment saw it.

    `whole` says that this is everything and what was known before is to be thrown away; else `views` and `decisions`
    replace those of the same machines, and the machines `gone` are out of the picture.
    """

    mark: Mark
    whole: bool
    views: list[MachineView]
    decisions: list[DecisionRecord]
    gone: frozenset[MachineId]


class Reader:
    """A read-only connection: works while the agent writes, and while it is down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open_orders: dict[int, tuple[dict[str, Any], Order]] = {}
        self._file = open_store(path)
        self._db = self._file.db

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{self.path}: cannot be read ({error})") from error

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def held(self) -> bool:
        """A person holds the whole site as it is."""
        return self._setting(HELD) == "yes"

    def mode(self) -> str | None:
        """The mode that the agent last ran in."""
        return self._setting(MODE)

    def _setting(self, name: str) -> str | None:
        for row in self._db.query("select value from settings where name = ?", [name]):
            return str(row["value"])
        return None

    @property
    def outdated(self) -> bool:
        """Another file has taken this one's place, or it was opened as one that nobody writes and somebody did since:
        what follows would not be what is. To be opened anew."""
        return self._file.outdated

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Whatever is read inside is of one moment, however much the agent writes meanwhile."""
        with self._file.moment():
            yield

    def changes(self, since: Mark | None = None) -> Changes:
        """What changed since a mark, or everything: without a mark, or with one of another file. Another model, group
        or address of a machine counts as a change from the next round on."""
        file = self._file.identity
        change = self._last_change()
        if since == Mark(file=file, change=change):
            return Changes(mark=since, whole=False, views=[], decisions=[], gone=frozenset())
        with self.one_moment():
            change = self._last_change()
            whole = since is None or since.file != file or since.change > change
            after = -1 if since is None or whole else since.change
            gone = [] if whole else list(self._db.query(SELECT_GONE, [after]))
            return Changes(
                mark=Mark(file=file, change=change),
                whole=whole,
                views=[view_of(row) for row in self._db.query(f"{SELECT_LATEST} where change > ?", [after])],
                decisions=[
                    decision_of(row)
                    for row in self._db.query("select * from decisions where change > ?", [after])
                ],
                gone=frozenset(MachineId(row["machine_id"]) for row in gone),
            )

    def _last_change(self) -> int:
        for row in self._db.conn.execute("select value from settings where name = ?", [CHANGE]):
            return int(row[0])
        return 0

    def latest(self) -> list[MachineView]:
        """The latest picture of every machine, in no order."""
        return [view_of(row) for row in self._db.query(SELECT_LATEST)]

    def decisions(self) -> dict[MachineId, DecisionRecord]:
        """What the agent last decided of each machine."""
        return {
            record.machine_id: record
            for record in map(decision_of, self._db.query("select * from decisions"))
        }

    def prices(self) -> dict[str, Any]:
        """How the numbers of the market and their sources are doing (`market.report`); empty before the first round."""
        for row in self._db.query("select value from settings where name = ?", [PRICES]):
            found: dict[str, Any] = json.loads(row["value"])
            return found
        return {}

    def conditions(self) -> tuple[Market, Terms] | None:
        """Prices and payout terms in force at the last round (of the terms: fee, reject and overhead)."""
        polled_at = self.last_round_at()
        for row in self._db.query("select * from quotes where not own order by quote_id desc limit 1"):
            return market_of(row, polled_at or from_ms(row["at_ms"])), Terms(
                fee=row["fee"], reject=row["reject"], overhead=row["overhead"]
            )
        return None

    def conditions_of(self, machine_id: MachineId) -> tuple[Market, Terms] | None:
        """The same for one machine, as of its last reading, if its terms are its own and not the site's."""
        polled_at = self.last_round_at()
        for row in self._db.query(SELECT_OWN_QUOTE, [machine_id]):
            if row["own"]:
                return market_of(row, polled_at or from_ms(row["at_ms"])), Terms(
                    fee=row["fee"], reject=row["reject"], overhead=row["overhead"]
                )
        return None

    def terms(self) -> dict[MachineId, Terms]:
        """What each machine of the live picture runs under, as of its last reading: fee, reject, overhead, the watts of
        sleep, and a price of its own."""
        return {MachineId(row["machine_id"]): terms_of(row) for row in self._db.query(SELECT_TERMS)}

    def last_round_at(self) -> datetime | None:
        """When the last poll round began; None before the first."""
        for row in self._db.query("select max(began_ms) as began_ms from rounds"):
            return None if row["began_ms"] is None else from_ms(row["began_ms"])
        return None

    def heard_at(self) -> datetime | None:
        """Of a fleet's copy of a site: when its last round came, by the clock of the fleet."""
        found = self._setting(HEARD)
        return None if found is None else from_ms(int(found))

    def readings_span(self) -> tuple[datetime, datetime] | None:
        """When the first and the last stored reading began."""
        for row in self._db.query("select min(began_ms) as first, max(began_ms) as last from readings"):
            return None if row["first"] is None else (from_ms(row["first"]), from_ms(row["last"]))
        return None

    def first_known_at(self) -> datetime | None:
        """From when on anything is known of any machine, by readings or booked hours; None if nothing is."""
        firsts = [
            row[0]
            for query in ("select min(began_ms) from readings", "select min(hour_ms) from ledger")
            for row in self._db.conn.execute(query)
            if row[0] is not None
        ]
        if (archive := self.archive()) is not None:
            firsts.append(archive.from_ms)
        return from_ms(min(firsts)) if firsts else None

    def machines(self) -> list[MachineRow]:
        """The inventory, by machine id."""
        return [inventory_row(row) for row in self._db.query("select * from machines order by machine_id")]

    def readings(self, start: datetime, end: datetime) -> Iterator[tuple[MachineId, list[ReadingRow]]]:
        """Readings that say something about [start, end), and may begin before it, machine by machine in order of id,
        oldest first."""
        rows = self._db.query(SELECT_READINGS, {"start_ms": to_ms(start), "end_ms": to_ms(end)})
        for machine_id, group in groupby(rows, key=lambda row: row["machine_id"]):
            yield MachineId(machine_id), [reading_of(row) for row in group]

    def booked_until_ms(self) -> int | None:
        """Hours of the ledger before this are booked; None if none is."""
        return books.booked_until(self._db)

    def booked(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]:
        """The booked hours that begin in [start_ms, end_ms), machine by machine in order of id, oldest first."""
        return books.by_machine(self._with_archive("ledger", start_ms, end_ms))

    def rolled_until_ms(self) -> int | None:
        """Of hours before this there are steps, and no readings any more; None if there are none."""
        found = self._setting(books.ROLLED_UNTIL)
        return None if found is None else int(found)

    def steps(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]:
        """The steps of five minutes that begin in [start_ms, end_ms), machine by machine as above."""
        return books.by_machine(self._with_archive("steps", start_ms, end_ms))

    def whole_hours(self, hours_ms: Sequence[int]) -> int:
        """Of how many of these hours nothing is left but the booked sums of the whole hour."""
        archive = self.archive()
        here = [at for at in hours_ms if archive is None or not archive.from_ms <= at < archive.until_ms]
        found = [self._db.conn.execute(SELECT_WHOLE_HOUR, [hour_ms]).fetchone() for hour_ms in here]
        return sum(each is not None for each in found)

    def stored_rows(self, table: str, start_ms: int, end_ms: int) -> Iterator[Row]:
        """Rows of a kind of the archive as the database itself has them, in the same order."""
        if table == "prices":
            return self._stored_prices(start_ms, end_ms)
        if table in _SELECT:
            query = _SELECT[table].format(", ".join(TABLES[table].columns))
            return iter(self._db.conn.execute(query, [start_ms, end_ms]))
        return books.stored(self._db, table, start_ms, end_ms)

    def _stored_prices(self, start_ms: int, end_ms: int) -> Iterator[Row]:
        """The prices of the rounds in a range, and from when until when they stood: until the next round, unless that
        took too long."""
        (next_ms,) = self._db.conn.execute(SELECT_NEXT_ROUND, [end_ms]).fetchone()
        stand = max(PRICES_STAND, self.validity() or PRICES_STAND)
        return stretches(
            self._db.conn.execute(SELECT_PRICES_OF_ROUNDS, [start_ms, end_ms]),
            next_ms,
            round(stand.total_seconds() * 1000),
        )

    def archive(self) -> Archive | None:
        """Where the days are that the database keeps no more; None if there are none."""
        found = self._setting(ARCHIVE)
        return None if found is None else Archive.of_text(found)

    def _with_archive(self, table: str, start_ms: int, end_ms: int) -> Iterator[Row]:
        archive = self.archive()
        if archive is None or start_ms >= archive.until_ms:
            return self.stored_rows(table, start_ms, end_ms)
        here = self.stored_rows(table, archive.until_ms, end_ms)
        return TABLES[table].in_order([archive.rows(table, start_ms, end_ms), here])

    def reaching_ms(self, at_ms: int) -> int:
        """When the first reading began that reaches over this moment; the moment itself if none does."""
        row = self._db.conn.execute(
            "select min(began_ms) from readings where began_ms < ?1 and began_ms + valid_ms > ?1", [at_ms]
        ).fetchone()
        return at_ms if row[0] is None else int(row[0])

    def curtailment_worth(self, start_ms: int) -> tuple[float, float]:
        """Avoided loss and forgone profit of the hours that are booked from then on, USD."""
        return books.curtailment_worth(self._db, start_ms)

    def settlements(self, start_ms: int, end_ms: int) -> list[Settled]:
        """Power prices that were found out later for times in [start_ms, end_ms), oldest first."""
        return books.settlements(self._db, start_ms, end_ms)

    def switches(self, start_ms: int, end_ms: int) -> dict[MachineId, list[Switch]]:
        """Sleeps and wakes on our order confirmed in [start_ms, end_ms), by machine, with what they cost."""
        return books.switches(self._db, start_ms, end_ms)

    def next_reading_ms(self, since_ms: int) -> int | None:
        """When the first reading from then on began."""
        for row in self._db.conn.execute(
            "select min(began_ms) from readings where began_ms >= ?", [since_ms]
        ):
            return None if row[0] is None else int(row[0])
        return None

    def orders(self, limit: int = 1000) -> list[Order]:
        """The last orders, newest first."""
        rows = self._db.query("select * from orders order by order_id desc limit ?", [limit])
        return [order_of(row) for row in rows]

    def order_records(self, start_ms: int, end_ms: int) -> Iterator[dict[str, Any]]:
        """Rows of the orders that were made in [start_ms, end_ms), in order."""
        here = self._db.query(
            "select * from orders where created_ms >= ? and created_ms < ? order by order_id",
            [start_ms, end_ms],
        )
        archive = self.archive()
        if archive is None or start_ms >= archive.until_ms:
            return here
        contents = TABLES["orders"]
        old = (  # they are put away by the day on which they ended
            dict(zip(contents.columns, row, strict=True))
            for row in archive.rows("orders", start_ms, archive.until_ms)
        )
        both = {row["order_id"]: row for row in chain(old, here) if start_ms <= row["created_ms"] < end_ms}
        return iter([both[order_id] for order_id in sorted(both)])

    def event_records(self, start_ms: int, end_ms: int) -> Iterator[dict[str, Any]]:
        """Rows of the events of [start_ms, end_ms), in order."""
        columns = TABLES["events"].columns
        rows = self._with_archive("events", start_ms, end_ms)
        return (dict(zip(columns, row, strict=True)) for row in rows)

    def price_records(self, start_ms: int, end_ms: int) -> Iterator[dict[str, Any]]:
        """Rows of the site's prices and terms, from the one in force at `start_ms` on."""
        here = list(self._db.query(SELECT_PRICES, {"start_ms": start_ms, "end_ms": end_ms}))
        archive = self.archive()
        if archive is None or start_ms >= archive.until_ms:
            return iter(here)
        columns = TABLES["prices"].columns
        old = [
            dict(zip(columns, row, strict=True))
            for row in archive.rows("prices", _before(archive, start_ms), end_ms)
        ]
        both = {row["quote_id"]: row for row in (*old, *here)}
        known = [both[quote_id] for quote_id in sorted(both) if both[quote_id]["at_ms"] < end_ms]
        first = max((index for index, row in enumerate(known) if row["at_ms"] <= start_ms), default=0)
        return iter(known[first:])

    def price_stretches(self, start_ms: int, end_ms: int) -> Iterator[dict[str, Any]]:
        """The site's prices as rounds went by them, each with from when until when (`from_ms`, `until_ms`), oldest
        first, for rounds that began in [start_ms, end_ms)."""
        columns = TABLES["prices"].columns
        rows = self._with_archive("prices", start_ms, end_ms)
        return (dict(zip(columns, row, strict=True)) for row in rows)

    def unsettled(self, since: datetime) -> list[Order]:
        """Orders that ended since then as somebody should know: failed, or wanted by a person and not carried out;
        newest first. What the agent wanted and nobody took up comes again by itself, each hour anew."""
        rows = self._db.query(
            "select * from orders where settled_ms > ? and "
            "(state = 'failed' or (state = 'expired' and ordered_by <> ?)) order by order_id desc",
            [to_ms(since), POLICY],
        )
        return [order_of(row) for row in rows]

    def sleeps(self) -> dict[MachineId, list[int]]:
        """When, in milliseconds, sleeps that we ordered were confirmed, by machine; also those released since."""
        found: dict[MachineId, list[int]] = {}
        for row in self._db.query(SELECT_SLEEPS):
            found.setdefault(MachineId(row["machine_id"]), []).append(row["confirmed_ms"])
        return found

    def events(self, limit: int = 100) -> list[Event]:
        """The last events, newest first."""
        rows = self._db.query("select * from events order by event_id desc limit ?", [limit])
        return [event_of(row) for row in rows]

    def last_scan(self) -> list[Event]:
        """The events of the last scan, oldest first: what lies between the last two `scanned`."""
        return [event_of(row) for row in self._db.query(SELECT_LAST_SCAN)]

    def validity(self) -> timedelta | None:
        """How long the newest reading may stand; None without any."""
        for row in self._db.query("select valid_ms from readings order by began_ms desc limit 1"):
            return timedelta(milliseconds=row["valid_ms"])
        return None

    def detail(self, machine_id: MachineId) -> MachineDetail | None:
        """Boards, fans, pools and errors of a machine as they were last worth a write; None if it never told any."""
        for row in self._db.query("select * from details where machine_id = ?", [machine_id]):
            return detail_of(row)
        return None

    def switch_orders(self, most: int) -> Iterator[tuple[Order, datetime | None]]:
        """The last confirmed sleeps and wakes of each model, so many of each, with when the next order was sent."""
        for row in self._db.query(SELECT_SWITCHES, {"most": most}):
            yield order_of(row), None if row["next_ms"] is None else from_ms(row["next_ms"])

    def readings_of(self, machine_id: MachineId, start: datetime, end: datetime) -> list[ReadingRow]:
        """One machine's readings in [start, end), and the last one before it, oldest first."""
        span = {"machine_id": machine_id, "start_ms": to_ms(start), "end_ms": to_ms(end)}
        return [reading_of(row) for row in self._db.query(SELECT_READINGS_OF_ONE, span)]

    def baselines(self, machine_id: MachineId) -> list[Baseline]:
        """What a machine is known to do, by power mode; the newest first."""
        rows = self._db.query(
            "select * from baselines where machine_id = ? order by as_of_ms desc", [machine_id]
        )
        return [baseline_of(row) for row in rows]

    def machine_history(
        self, machine_id: MachineId, start: datetime, end: datetime, *, points: int = DEFAULT_POINTS
    ) -> MachineHistory:
        """What one machine did in [start, end), in `points` even steps."""
        span = {"machine_id": machine_id, "start_ms": to_ms(start), "end_ms": to_ms(end)}
        with self.one_moment():
            rows = list(self._db.query(SELECT_READINGS_OF_ONE, span))
            known = self._db.query("select sleep_power_w from machines where machine_id = ?", [machine_id])
            sleep_power_w = next((row["sleep_power_w"] for row in known), None) or 0.0
        return machine_history(
            [reading_of(row) for row in rows],
            [row["chip_temp_c"] for row in rows],
            start,
            end,
            points=points,
            sleep_power_w=sleep_power_w,
        )

    def site_history(self, start: datetime, end: datetime, *, points: int = DEFAULT_POINTS) -> SiteHistory:
        """Prices and the site's sums in [start, end), in `points` even steps."""
        with self.one_moment():
            valid = self.validity() or timedelta()
            span = {"since_ms": to_ms(start - valid), "end_ms": to_ms(end)}
            rounds = [_site_round(row) for row in self._db.query(SELECT_ROUNDS, span)]
        return site_history(rounds, start, end, points=points, valid=valid)

    def open_orders(self) -> list[Order]:
        """Orders of which something is still to be done or seen, oldest first. Those that did not change since they
        were asked for last are the same ones: there may be one for every machine, and they are asked for often."""
        known, self._open_orders = self._open_orders, {}
        for row in self._db.query(SELECT_OPEN_ORDERS):
            before = known.get(row["order_id"])
            same = before is not None and before[0] == row
            self._open_orders[row["order_id"]] = (
                before if before is not None and same else (row, order_of(row))
            )
        return [order for _, order in self._open_orders.values()]

    def orders_of(self, machine_id: MachineId, limit: int = 20) -> list[OrderEvidence]:
        """The last orders of one machine, newest first, each with the readings before and after it."""
        with self.one_moment():
            rows = list(
                self._db.query(
                    "select * from orders where machine_id = ? order by order_id desc limit ?",
                    [machine_id, limit],
                )
            )
            return [self._with_evidence(row) for row in rows]

    def _with_evidence(self, row: dict[str, Any]) -> OrderEvidence:
        sent_ms = row["dispatched_ms"]
        ended_ms = row["confirmed_ms"] or row["settled_ms"]
        before = self._last_reading(
            row["machine_id"], None, row["created_ms"] if sent_ms is None else sent_ms
        )
        after = None if sent_ms is None else self._last_reading(row["machine_id"], sent_ms, ended_ms)
        return OrderEvidence(order=order_of(row), before=before, after=after)

    def _last_reading(self, machine_id: str, after_ms: int | None, until_ms: int | None) -> ReadingRow | None:
        """The last reading of a machine that began in (after, until]; None is no limit."""
        span = {"machine_id": machine_id, "after_ms": after_ms, "until_ms": until_ms}
        for row in self._db.query(SELECT_LAST_READING, span):
            return reading_of(row)
        return None


def stretches(rows: Iterable[Row], next_ms: int | None, stand_ms: int) -> Iterator[Row]:
    """Rounds, oldest first, each a moment and then what it went by, its first the number of the prices: as stretches of
    the same prices with their beginning and their end. `next_ms` is when the round after them began."""
    began_ms = last_ms = 0
    what: Row | None = None
    for at_ms, *values in rows:
        if what is not None and (values[0] != what[0] or at_ms - last_ms > stand_ms):
            yield began_ms, min(at_ms, last_ms + stand_ms), *what
            what = None
        if what is None:
            began_ms, what = at_ms, tuple(values)
        last_ms = at_ms
    if what is not None:
        yield began_ms, last_ms if next_ms is None else min(next_ms, last_ms + stand_ms), *what


def _before(archive: Archive, at_ms: int) -> int:
    """The first moment of the last day before this one with prices in the archive, of which the last was in force; the
    moment itself if there is none."""
    day_ms = at_ms // MS_PER_DAY * MS_PER_DAY
    while day_ms >= archive.from_ms:
        if next(archive.rows("prices", day_ms, min(day_ms + MS_PER_DAY, at_ms)), None) is not None:
            return day_ms
        day_ms -= MS_PER_DAY
    return at_ms


def _site_round(row: dict[str, Any]) -> SiteRound:
    margin, price = row["margin_usd_per_day"], row["price_usd_per_kwh"]
    efficiency = None
    if row["fee"] is not None:
        efficiency = economics.breakeven_efficiency_j_per_th(
            hashprice_usd_per_ph_day=row["hashprice_usd_per_ph_day"],
            price_usd_per_kwh=price,
            fee=row["fee"],
            reject=row["reject"],
            overhead=row["overhead"],
        )
    return SiteRound(
        began_ms=row["began_ms"],
        hashprice_usd_per_ph_day=row["hashprice_usd_per_ph_day"],
        price_usd_per_kwh=price,
        breakeven_efficiency_j_per_th=efficiency,
        power_kw=row["power_kw"],
        hashrate_phs=row["hashrate_phs"],
        margin_usd_per_hour=None if margin is None else margin / economics.HOURS_PER_DAY,
    )
