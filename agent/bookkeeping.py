"""Books the ledger: hour by hour once they are over, and again when power prices turn out otherwise."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from agent.archive import MS_PER_DAY, TABLES, Archive, ArchiveError, write_day
from agent.books import CORRECTED, ROLLED_UNTIL, STEP_MS, BookedHour, in_force, stored_rows, total
from agent.corrections import Corrections
from agent.database import ARCHIVE
from agent.ledger import MS_PER_HOUR, Sums, add_up
from agent.reader import Reader
from agent.rows import Event, Settled, from_ms, to_ms
from agent.store import Store
from agent.tariff.intervals import IntervalPrice
from drivers.reading import MachineId

log = logging.getLogger("hashcost")

LOOK_BACK = timedelta(hours=48)
"""What is published of times that are longer ago is not looked at again."""
HOURS_AT_A_TIME = 24
"""Booked hours that are appraised again before the next hour is booked, or rolled up before something is dropped."""
PRUNE_ROWS = 2_000
"""Readings that are dropped, or steps that are written, in one transaction: tens of milliseconds."""
SHRINK_PAGES = 2_000
"""Pages that are given back to the disk at a time: 8 MB."""
OLD = ("events", "orders", "rounds", "quotes")
"""What goes with the steps of its time; prices only once nothing refers to them."""
PRUNE_STEPS = 50
"""Transactions in a row; with what is left it goes on at the next look."""
SAME_USD_PER_KWH = 1e-9
SAME_USD = SAME_HOURS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One hour of all machines, ready to be booked; `until_ms` is its end, or the beginning of the next that has any
    readings."""

    hours: Sequence[tuple[MachineId, Sums]]
    until_ms: int


class Bookkeeper:
    """Reckons beside the agent's loops on a connection of its own, and writes through the agent's one writer.

    `write` runs a function of the store in its thread. `settled` gives the site's power prices as they were finally
    published, with the name of who says so.
    """

    def __init__(
        self,
        database: Path,
        store: Store,
        write: Callable[..., Awaitable[Any]],
        *,
        clock: Callable[[], datetime],
        settled: Callable[[datetime], tuple[Sequence[IntervalPrice], str]] = lambda _: ((), ""),
        wait: timedelta = timedelta(),
        keep: timedelta | None = None,
        keep_steps: timedelta | None = None,
        archive: Path | None = None,
        corrections: Corrections | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._write = write
        self._clock = clock
        self._settled = settled
        self._wait = wait
        self._keep = keep
        self._keep_steps = keep_steps
        self._archive = None if archive is None else archive.absolute()
        self._archive_problem: str | None = None
        self._corrections = corrections

    async def catch_up(self) -> None:
        """Book all that is over."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """Book one hour if one is over, for at least as long as prices may take; True if another may be."""
        await self._take_prices()
        page = await asyncio.to_thread(next_page, self._database, self._wait)
        if page is None:
            return False
        await self._write(self._store.book, page.hours, page.until_ms)
        return True

    async def prune(self) -> int:
        """Roll up readings that are booked and older than they are kept for, and drop them, a few at a time so that a
        round never waits long for it; how many were dropped."""
        if self._keep is None:
            return 0
        for hour_ms in await asyncio.to_thread(prunable, self._database, self._keep):
            await self._roll_up(hour_ms)
        before_ms = await asyncio.to_thread(droppable, self._database)
        dropped = await self._in_bites("readings", before_ms)
        if self._keep_steps is not None:
            await self._put_away(self._keep_steps)
        await self._write(self._store.shrink, SHRINK_PAGES)
        return dropped

    async def _roll_up(self, hour_ms: int) -> None:
        """Write an hour's steps; after a crash in between they are written once more."""
        steps = StepsOfHour(self._database, hour_ms)
        try:
            while (bite := await asyncio.to_thread(steps.next)) is not None:
                await self._write(self._store.roll_up, bite)
        finally:
            await asyncio.to_thread(steps.close)
        await self._write(self._store.save_setting, ROLLED_UNTIL, str(hour_ms + MS_PER_HOUR))

    async def _put_away(self, keep: timedelta) -> None:
        """Move days that are older than steps are kept for into the archive; where there is none, drop all of them but
        the ledger."""
        if self._archive is None:
            before_ms = await asyncio.to_thread(old_until, self._database, keep)
            await self._drop(before_ms, ("steps", *OLD))
            return
        try:
            archive = await asyncio.to_thread(archive_one_day, self._database, self._archive, keep)
        except ArchiveError as error:
            await self._tell_once(str(error))
            return
        if self._archive_problem is not None:
            log.info("event=archive_recovered")
        self._archive_problem = None
        if archive is None:
            return
        await self._write(self._store.save_setting, ARCHIVE, archive.as_text())
        await self._drop(archive.until_ms, ("steps", "ledger", *OLD))

    async def _drop(self, before_ms: int, tables: Sequence[str]) -> None:
        for table in tables:
            await self._in_bites(table, before_ms)
        told_ms = to_ms(self._clock() - LOOK_BACK)  # what may be told once more must not be new then
        await self._in_bites("settlements", min(before_ms, told_ms))

    async def _tell_once(self, problem: str) -> None:
        """Nothing is dropped that could not be put away: the database grows until somebody sees to it."""
        if problem != self._archive_problem:
            log.error("event=archive_failed detail=%r", problem)
            event = Event(at=self._clock(), kind="archive_failed", detail=problem)
            await self._write(self._store.save_events, [event])
        self._archive_problem = problem

    async def _in_bites(self, table: str, before_ms: int) -> int:
        """Drop what is before then; with what is left it goes on at the next look."""
        dropped = 0
        for _ in range(PRUNE_STEPS):
            count = await self._write(self._store.prune, table, before_ms, PRUNE_ROWS)
            dropped += count
            if count < PRUNE_ROWS:
                break
        return dropped

    async def _take_prices(self) -> None:
        """Keep what is new of final prices, and appraise booked hours again that they touch."""
        now = self._clock()
        prices, source = self._settled(now)
        told = [
            Settled(start_ms=to_ms(each.start), end_ms=to_ms(each.end), price_usd_per_kwh=each.usd_per_kwh)
            for each in prices
            if now - each.end < LOOK_BACK
        ]
        await self._appraise_by(told, source)
        if self._corrections is not None:
            await self._appraise_by(await asyncio.to_thread(self._corrections.read), CORRECTED)

    async def _appraise_by(self, told: Sequence[Settled], source: str) -> None:
        """Keep what is new of these prices, some hours at a time: what is left is as new at the next look."""
        new, now = await asyncio.to_thread(unknown_prices, self._database, told), self._clock()
        lost_hours = 0
        for hour_ms in _first_hours(new):
            changed = await asyncio.to_thread(outdated, self._database, hour_ms, new)
            lost_hours += changed.is_lost
            if changed.hours:
                await self._write(self._store.rebook, changed.hours, changed.event(source, now))
                log.info("event=ledger_reappraised source=%s detail=%r", source, changed.in_words())
            # only now, and only what reaches no further: after a crash in between they are new once more
            done = [each for each in new if _hours_of(each)[-1] == hour_ms]
            if done:
                await self._write(self._store.settle, done, source, now)
        if lost_hours:
            detail = (
                f"prices of {source}: {lost_hours} booked hours stay as they are, their readings are gone"
            )
            log.warning("event=ledger_not_reappraised detail=%r", detail)
            event = Event(at=now, kind="ledger_not_reappraised", detail=detail)
            await self._write(self._store.save_events, [event])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reappraisal:
    """Machines of which the money of a booked hour is other than it was booked."""

    hour_ms: int
    hours: Sequence[tuple[MachineId, Sums]]
    cost_change_usd: float
    is_lost: bool = False
    """Of some machines nothing is left that the hour could be appraised by."""

    def in_words(self) -> str:
        """For events and logs."""
        return (
            f"the hour from {from_ms(self.hour_ms):%Y-%m-%d %H:%M} UTC, {len(self.hours)} machines: "
            f"energy cost {self.cost_change_usd:+.2f} USD"
        )

    def event(self, source: str, at: datetime) -> Event:
        """The trace that it leaves."""
        return Event(at=at, kind="ledger_reappraised", detail=f"prices of {source}: {self.in_words()}")


def next_page(database: Path, wait: timedelta) -> Page | None:
    """The next hour that is over and not booked; None if there is none yet."""
    with Reader(database) as reader:
        last_round, span = reader.last_round_at(), reader.readings_span()
        if last_round is None or span is None:
            return None
        since_ms = reader.booked_until_ms()
        if since_ms is None:
            since_ms = _hour_of(to_ms(span[0]))
        if since_ms + MS_PER_HOUR + _milliseconds(wait) > to_ms(last_round):
            return None
        hours = list(reckon(reader, since_ms))
        if hours:
            return Page(hours=hours, until_ms=since_ms + MS_PER_HOUR)
        following = reader.next_reading_ms(since_ms + MS_PER_HOUR)
        until_ms = _hour_of(to_ms(last_round) if following is None else following)
        return Page(hours=(), until_ms=max(until_ms, since_ms + MS_PER_HOUR))


def prunable(database: Path, keep: timedelta) -> list[int]:
    """The first hours that are booked and not rolled up, and whose readings are older than they are kept for; some of
    them at a time."""
    with Reader(database) as reader:
        last_round, booked_ms, span = reader.last_round_at(), reader.booked_until_ms(), reader.readings_span()
        if last_round is None or booked_ms is None or span is None:
            return []
        since_ms = max(reader.rolled_until_ms() or 0, _hour_of(to_ms(span[0])))
        until_ms = _hour_of(min(to_ms(last_round - keep), booked_ms - MS_PER_HOUR))
    return list(range(since_ms, until_ms, MS_PER_HOUR))[:HOURS_AT_A_TIME]


def droppable(database: Path) -> int:
    """Readings that began before this are rolled up, and reach into no hour that is not."""
    with Reader(database) as reader:
        return reader.reaching_ms(reader.rolled_until_ms() or 0)


def old_until(database: Path, keep: timedelta) -> int:
    """Days of UTC before this are rolled up and older than steps are kept for."""
    with Reader(database) as reader:
        last_round, rolled_ms = reader.last_round_at(), reader.rolled_until_ms()
    if last_round is None or rolled_ms is None:
        return 0
    return min(to_ms(last_round - keep), rolled_ms) // MS_PER_DAY * MS_PER_DAY


def archive_one_day(database: Path, directory: Path, keep: timedelta) -> Archive | None:
    """Write the files of the next day that is old enough, if there is one, and say what the archive holds then."""
    until_ms = old_until(database, keep)
    with Reader(database) as reader:
        known, first = reader.archive(), reader.first_known_at()
        if first is None:
            return None
        day_ms = to_ms(first) // MS_PER_DAY * MS_PER_DAY if known is None else known.until_ms
        if day_ms >= until_ms:
            return None if known is None else replace(known, directory=str(directory))
        for table in TABLES:
            write_day(directory, table, day_ms, reader.stored_rows(table, day_ms, day_ms + MS_PER_DAY))
    from_ms = day_ms if known is None else known.from_ms
    return Archive(directory=str(directory), from_ms=from_ms, until_ms=day_ms + MS_PER_DAY)


class StepsOfHour:
    """The steps of an hour, some rows at a time, for threads: who is cancelled leaves a thread that still reads, and
    the reader is closed only after it."""

    def __init__(self, database: Path, hour_ms: int) -> None:
        self._database = database
        self._hour_ms = hour_ms
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._bites: Iterator[Sequence[BookedHour]] = iter(())
        self._closed = False

    def next(self) -> Sequence[BookedHour] | None:
        """The next rows; None if there are no more, or nobody wants them any more."""
        with self._lock:
            if self._closed:
                return None
            if self._reader is None:
                self._reader = Reader(self._database)
                self._bites = step_rows(self._reader, self._hour_ms)
            return next(self._bites, None)

    def close(self) -> None:
        """Wait for what is being read, and close."""
        with self._lock:
            self._closed = True
            if self._reader is not None:
                self._reader.close()


def step_rows(reader: Reader, hour_ms: int) -> Iterator[Sequence[BookedHour]]:
    """The steps of an hour, so many rows at a time as are written at once."""
    bite: list[BookedHour] = []
    for machine_id, add in _reckoning(reader, hour_ms):
        steps = (add(since, since + STEP_MS) for since in range(hour_ms, hour_ms + MS_PER_HOUR, STEP_MS))
        bite += stored_rows([(machine_id, sums) for sums in steps if _says_something(sums)])
        if len(bite) >= PRUNE_ROWS:
            yield bite
            bite = []
    yield bite


def reckon(reader: Reader, hour_ms: int, told: Sequence[Settled] = ()) -> list[tuple[MachineId, Sums]]:
    """The sums of every machine of which something is known in an hour, by the prices that are kept and those that are
    `told` now."""
    sums = (
        (machine_id, add(hour_ms, hour_ms + MS_PER_HOUR))
        for machine_id, add in _reckoning(reader, hour_ms, told)
    )
    return [(machine_id, each) for machine_id, each in sums if _says_something(each)]


def _says_something(sums: Sums) -> bool:
    return sums.known_h > 0 or bool(sums.switching_cost_usd) or bool(sums.curtailments)


def _reckoning(
    reader: Reader, hour_ms: int, told: Sequence[Settled] = ()
) -> Iterator[tuple[MachineId, Callable[[int, int], Sums]]]:
    """For every machine with readings in an hour what adds up any part of it."""
    end_ms = hour_ms + MS_PER_HOUR
    sleep_power_w = {machine.machine_id: machine.sleep_power_w for machine in reader.machines()}
    now = [each for each in told if each.start_ms < end_ms and each.end_ms > hour_ms]
    settled = in_force(now, reader.settlements(hour_ms, end_ms))
    switches = reader.switches(hour_ms, end_ms)
    for machine_id, readings in reader.readings(from_ms(hour_ms), from_ms(end_ms)):
        yield (
            machine_id,
            partial(
                add_up,
                readings,
                sleep_power_w=sleep_power_w[machine_id],
                settled=settled,
                switches=switches.get(machine_id, ()),
            ),
        )


def unknown_prices(database: Path, told: Sequence[Settled]) -> list[Settled]:
    """The prices that are not kept yet, or are kept otherwise, but for those of times that somebody corrected."""
    if not told:
        return []
    with Reader(database) as reader:
        settled = reader.settlements(told[0].start_ms, told[-1].end_ms)
    corrected = [each for each in settled if each.corrected]
    kept = {
        (each.start_ms, each.end_ms): each.price_usd_per_kwh
        for each in settled
        if each.corrected is told[0].corrected
    }
    free = told if told[0].corrected else in_force(corrected, told)
    return [
        each
        for each in free
        if each.corrected is told[0].corrected
        and abs(kept.get((each.start_ms, each.end_ms), float("inf")) - each.price_usd_per_kwh)
        > SAME_USD_PER_KWH
    ]


def outdated(database: Path, hour_ms: int, prices: Sequence[Settled]) -> Reappraisal:
    """The machines of a booked hour whose money these prices change, with their sums as they are now. Where readings
    of it are not kept any more a machine stays as it was booked; so does an hour that is in the archive, which is not
    even looked at: it may be out of reach."""
    changed: list[tuple[MachineId, Sums]] = []
    with Reader(database) as reader:
        archive = reader.archive()
        lost = archive is not None and archive.from_ms <= hour_ms < archive.until_ms
        cost_change = 0.0
        if not lost and hour_ms < (reader.booked_until_ms() or 0):
            booked = {
                machine_id: total(hours, hour_ms, hour_ms + MS_PER_HOUR)
                for machine_id, hours in reader.booked(hour_ms, hour_ms + 1)
            }
            now = dict(reckon(reader, hour_ms, prices)) if booked else {}
            for machine_id, before in booked.items():
                sums = now.get(machine_id)
                if sums is None or abs(sums.known_h - before.known_h) > SAME_HOURS:
                    lost = True
                elif _other_money(before, sums):
                    changed.append((machine_id, sums))
                    cost_change += sums.energy_cost_usd - before.energy_cost_usd
    return Reappraisal(hour_ms=hour_ms, hours=changed, cost_change_usd=cost_change, is_lost=lost)


def _other_money(one: Sums, other: Sums) -> bool:
    names = ("revenue_usd", "energy_cost_usd", "avoided_loss_usd", "forgone_profit_usd", "priced_h")
    return any(abs(getattr(one, name) - getattr(other, name)) > SAME_USD for name in names)


def _first_hours(prices: Sequence[Settled]) -> list[int]:
    """The hours that these prices touch, as many as are appraised at a time, but all of the first price."""
    hours = sorted({hour_ms for each in prices for hour_ms in _hours_of(each)})
    if not hours:
        return []
    whole = len(_hours_of(min(prices, key=lambda each: each.start_ms)))
    return hours[: max(HOURS_AT_A_TIME, whole)]


def _hours_of(price: Settled) -> range:
    return range(_hour_of(price.start_ms), price.end_ms, MS_PER_HOUR)


def _hour_of(at_ms: int) -> int:
    return at_ms // MS_PER_HOUR * MS_PER_HOUR


def _milliseconds(length: timedelta) -> int:
    return round(length.total_seconds() * 1000)
