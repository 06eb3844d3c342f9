"""What the grid is owed: calls to shed load, when they hold and what they come to. Pure but for reading a schedule.

ScheduleError          a schedule that cannot be read, with the line
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from agent.economics import MINING_YEARS
from agent.errors import UsageError

SEAM = timedelta(minutes=1)
"""Calls that follow each other so closely are one to the load."""
PAST = timedelta(minutes=15)
OPERATOR = "operator"
SCHEDULE = "schedule"


class ScheduleError(UsageError):
    """The schedule of obligations cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call to shed: to `to_kw`, or by `by_kw` under `reference_kw`, which is what the site drew before it. It
    holds in [start, end), for ever without an end."""

    call_id: str
    source: str
    by: str
    start: datetime
    end: datetime | None = None
    to_kw: float | None = None
    by_kw: float | None = None
    reference_kw: float | None = None

    def holds_at(self, now: datetime) -> bool:
        """Whether it is in force."""
        return self.start <= now and (self.end is None or now < self.end)

    def is_over(self, now: datetime) -> bool:
        """Whether it will never be in force again."""
        return self.end is not None and self.end <= now

    @property
    def target_kw(self) -> float | None:
        """Load that the site may draw; None while it is not known from what it is to shed."""
        if self.to_kw is not None:
            return self.to_kw
        if self.by_kw is None or self.reference_kw is None:
            return None
        return max(0.0, self.reference_kw - self.by_kw)

    def as_data(self) -> dict[str, Any]:
        """As plain data; times as ISO-8601 UTC."""
        return {
            "call_id": self.call_id,
            "source": self.source,
            "by": self.by,
            "start": self.start.isoformat(),
            "end": self.end and self.end.isoformat(),
            "to_kw": self.to_kw,
            "by_kw": self.by_kw,
            "reference_kw": self.reference_kw,
            "target_kw": self.target_kw,
        }


def call_of(data: Mapping[str, Any]) -> Call:
    """What `as_data` made."""
    return Call(
        call_id=data["call_id"],
        source=data["source"],
        by=data["by"],
        start=datetime.fromisoformat(data["start"]),
        end=None if data["end"] is None else datetime.fromisoformat(data["end"]),
        to_kw=data["to_kw"],
        by_kw=data["by_kw"],
        reference_kw=data["reference_kw"],
    )


def begun(
    calls: Iterable[Call], now: datetime, load_kw: float | None, past: Iterable[Call] = ()
) -> list[Call]:
    """The calls that are not over; those that begin now remember what the site draws, as soon as that is known. One
    that begins while another holds, or on the end of one of the `past`, remembers what that one did: the load is shed
    already, and to shed by so much is not meant on top of it."""
    known = list(calls)

    def reference(call: Call) -> float | None:
        before = [
            each.reference_kw
            for each in (*known, *past)
            if each.reference_kw is not None
            and each.start <= call.start
            and (each.end is None or each.end >= call.start - SEAM)
        ]
        return max(before, default=load_kw)

    return [
        replace(call, reference_kw=reference(call))
        if load_kw is not None and call.reference_kw is None and call.holds_at(now)
        else call
        for call in known
        if not call.is_over(now)
    ]


def owed(calls: Iterable[Call], now: datetime) -> Call | None:
    """The call in force that lets the site draw least."""
    holding = [call for call in calls if call.holds_at(now) and call.target_kw is not None]
    return min(holding, key=lambda call: (call.target_kw or 0.0, call.call_id), default=None)


def read_schedule(path: Path) -> list[Call]:
    """The calls of a CSV file: start, end, to_kw, by_kw. Raises `ScheduleError` with the line of the first mistake."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{path}: cannot be read ({error})") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if not line.startswith("#")]
    rows = csv.DictReader(line for _, line in numbered)
    wanted = {"start", "end", "to_kw", "by_kw"}
    try:
        if not wanted <= set(rows.fieldnames or ()):
            raise ScheduleError(f"{path}: the first line must name start,end,to_kw,by_kw")
        return [_scheduled(path, numbered[rows.line_num - 1][0], row) for row in rows]
    except csv.Error as error:
        line = numbered[rows.reader.line_num - 1][0]
        raise ScheduleError(f"{path}: line {line}: {error}") from error


def _scheduled(path: Path, line: int, row: Mapping[str, str | None]) -> Call:
    try:
        start, end = (moment(row[name] or "") for name in ("start", "end"))
        to_kw, by_kw = (float(row[name] or "") if row[name] else None for name in ("to_kw", "by_kw"))
        check(start, end, to_kw, by_kw)
    except ValueError as error:
        raise ScheduleError(f"{path}: line {line}: {error}") from error
    what = f"to-{to_kw:g}" if to_kw is not None else f"by-{by_kw:g}"
    return Call(
        # not by its line, which moves: a call that is known must not begin again
        call_id=f"schedule-{start:%Y%m%dT%H%M%S}-{end:%Y%m%dT%H%M%S}-{what}",
        source=SCHEDULE,
        by=str(path),
        start=start,
        end=end,
        to_kw=to_kw,
        by_kw=by_kw,
    )


def moment(text: str) -> datetime:
    """A time with an offset, as UTC. Raises `ValueError`."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is no time; write it like 2026-07-01T15:00-05:00") from error
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; write it like 2026-07-01T15:00-05:00")
    if found.year not in MINING_YEARS:
        raise ValueError(f"{text!r}: there are no bitcoins to be mined in that year")
    return found.astimezone(UTC)


def check(
    start: datetime,
    end: datetime | None,
    to_kw: float | None,
    by_kw: float | None,
    *,
    now: datetime | None = None,
) -> None:
    """Raise `ValueError` for what makes no sense, and for what is over `now`."""
    if (to_kw is None) == (by_kw is None):
        raise ValueError("give either to_kw or by_kw")
    kw = to_kw if to_kw is not None else by_kw
    if kw is None or not 0 <= kw < 1e7:
        raise ValueError(f"{kw} kW is no load to shed to or by")
    if end is not None and end <= start:
        raise ValueError("it ends before it begins")
    if end is not None and now is not None and end <= now:
        raise ValueError("it is over already")


class Standing(StrEnum):
    """How a site stands to what it owes, by what it is seen to draw."""

    MET = "met"
    SHEDDING = "shedding"
    """It draws too much yet, and has time left."""
    SHORT = "short"
    """It draws too much, and should not any more."""
    UNKNOWN = "unknown"
    """Too many machines are silent to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is owed and what is drawn. `load_kw` None is not known."""

    call_id: str
    target_kw: float
    load_kw: float | None
    standing: Standing

    def in_words(self) -> str:
        """For people."""
        drawn = "not known" if self.load_kw is None else f"{self.load_kw:.1f} kW"
        short = (
            f", {self.load_kw - self.target_kw:.1f} kW short"
            if self.load_kw is not None and self.standing is Standing.SHORT
            else ""
        )
        return f"{self.call_id}: {self.standing.value}, the load is {drawn} of {self.target_kw:g} kW{short}"


def account(call: Call, now: datetime, load_kw: float | None, respond: timedelta) -> Account | None:
    """How the site stands to the call in force, which is to be met within `respond` of its start; None while the call
    says not yet what it comes to."""
    if (target_kw := call.target_kw) is None:
        return None
    if load_kw is None:
        standing = Standing.UNKNOWN
    elif load_kw <= target_kw:
        standing = Standing.MET
    else:
        standing = Standing.SHEDDING if now - call.start < respond else Standing.SHORT
    return Account(call_id=call.call_id, target_kw=target_kw, load_kw=load_kw, standing=standing)


class Obligations:
    """The calls of a site: those of operators, which outlive the process, and those of a schedule."""

    def __init__(self, calls: Sequence[Call] = (), schedule: Path | None = None) -> None:
        self.calls = list(calls)
        self.problem: str | None = None
        """Why the schedule cannot be used as it is now; its last good state stands."""
        self._past: list[Call] = []
        self.account: Account | None = None
        """How the site stands to the call in force."""
        self._schedule = schedule
        self._modified_ns: int | None = None

    def add(self, call: Call) -> None:
        """Take on a call."""
        self.calls.append(call)

    def take(self, source: str, calls: Sequence[Call]) -> None:
        """What a source calls for now, in place of before; calls that are known keep what they began with."""
        known = {call.call_id: call for call in self.calls}
        ids = {call.call_id for call in calls}
        kept = [call for call in self.calls if call.source != source]
        self._past += [call for call in self.calls if call.source == source and call.call_id not in ids]
        self.calls = [*kept, *(_with_reference(call, known.get(call.call_id)) for call in calls)]

    def remove(self, call_id: str) -> bool:
        """Drop a call of an operator; False if there is none of that name."""
        found = [call for call in self.calls if call.call_id == call_id and call.source == OPERATOR]
        self.calls = [call for call in self.calls if call not in found]
        return bool(found)

    def step(self, now: datetime, load_kw: float | None) -> Call | None:
        """Which call is in force; what begins now remembers the site's load. While that is not known, nothing is shed
        by so much of it."""
        recent = now - PAST
        self._past = [call for call in self._past if call.end is None or call.end >= recent]
        ended = [call for call in self.calls if call.is_over(now)]
        past = [call for call in (*self._past, *ended) if call.end is not None]
        self.calls = begun(self.calls, now, load_kw, past)
        self._past = [call for call in past if call.end is not None and call.end >= recent]
        return owed(self.calls, now)

    def owed(self, now: datetime, *, source: str | None = None) -> Call | None:
        """The call in force that lets the site draw least, of all or of one source."""
        return owed((call for call in self.calls if source in (None, call.source)), now)

    def read_schedule(self) -> None:
        """Take in the schedule if its file changed. Blocks. A bad one is told, and the last good one stays."""
        if self._schedule is None:
            return
        try:
            modified_ns = self._schedule.stat().st_mtime_ns
            if modified_ns == self._modified_ns:
                self.problem = None  # the last good one was put back
                return
            new = read_schedule(self._schedule)
        except (OSError, ScheduleError) as error:
            self.problem = str(error)
            return
        self.take(SCHEDULE, new)
        self._modified_ns, self.problem = modified_ns, None


def _with_reference(call: Call, before: Call | None) -> Call:
    return call if before is None else replace(call, reference_kw=before.reference_kw)
