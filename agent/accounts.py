"""What each machine did in any periods: by the booked hours of the ledger where there are, by readings where not, and
by steps where those have been rolled up."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from agent.books import STEP_MS, BookedHour, total
from agent.ledger import MS_PER_HOUR, Sums, add_up
from agent.rows import MachineRow, ReadingRow, Settled, Switch, from_ms, to_ms
from drivers.reading import MachineId

T = TypeVar("T")
Range = tuple[int, int]
"""[start, end) in milliseconds since 1970 UTC."""


class Books(Protocol):
    """What this needs of a `Reader`, where it says what they give."""

    def machines(self) -> list[MachineRow]: ...
    def readings(self, start: datetime, end: datetime) -> Iterator[tuple[MachineId, list[ReadingRow]]]: ...
    def booked_until_ms(self) -> int | None: ...
    def booked(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]: ...
    def rolled_until_ms(self) -> int | None: ...
    def steps(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]: ...
    def settlements(self, start_ms: int, end_ms: int) -> list[Settled]: ...
    def switches(self, start_ms: int, end_ms: int) -> dict[MachineId, list[Switch]]: ...


def accounts(
    books: Books, periods: Sequence[tuple[datetime, datetime]]
) -> Iterator[tuple[MachineRow, list[Sums]]]:
    """Every machine, in order of id, with its sums in each period; those are in order and do not overlap.

    Full hours that are booked count as they were booked. The rest, parts of hours and what is not booked yet, is added
    up from readings, or, where those have been dropped, from full steps of five minutes.
    """
    if not periods:
        return
    booked_ms, rolled_ms = books.booked_until_ms() or 0, books.rolled_until_ms() or 0
    plans = [_plan(to_ms(start), to_ms(end), booked_ms, rolled_ms) for start, end in periods]
    spans = _merged(piece for plan in plans for piece in plan.pieces)
    step_spans = _merged(piece for plan in plans for piece in plan.rolled)
    start_ms, end_ms = plans[0].start_ms, plans[-1].end_ms
    settled, switches = books.settlements(start_ms, end_ms), books.switches(start_ms, end_ms)
    hours = _ByMachine(books.booked(start_ms, end_ms))
    streams = [(span, _ByMachine(books.readings(from_ms(span[0]), from_ms(span[1])))) for span in spans]
    step_streams = [_ByMachine(books.steps(*span)) for span in step_spans]
    for machine in books.machines():
        booked = hours.take(machine.machine_id)
        steps = [step for stream in step_streams for step in stream.take(machine.machine_id)]
        readings = [(span, stream.take(machine.machine_id)) for span, stream in streams]
        moves = switches.get(machine.machine_id, [])
        yield (
            machine,
            [
                _sums(
                    plan,
                    booked,
                    steps,
                    readings,
                    sleep_power_w=machine.sleep_power_w,
                    settled=settled,
                    switches=moves,
                )
                for plan in plans
            ],
        )


def cut_hours(periods: Sequence[tuple[datetime, datetime]]) -> list[int]:
    """The hours of UTC within which one of the periods begins or ends, in milliseconds since 1970 UTC."""
    edges = {to_ms(edge) for period in periods for edge in period}
    return sorted({edge // MS_PER_HOUR * MS_PER_HOUR for edge in edges if edge % MS_PER_HOUR})


@dataclass(frozen=True, slots=True)
class _Plan:
    """A period: the booked hours in it, the pieces that steps are needed for, and those that readings are."""

    start_ms: int
    end_ms: int
    booked: Range
    rolled: Sequence[Range]
    pieces: Sequence[Range]


def _plan(start_ms: int, end_ms: int, booked_until_ms: int, rolled_until_ms: int) -> _Plan:
    first = -(-start_ms // MS_PER_HOUR) * MS_PER_HOUR
    last = min(end_ms, booked_until_ms) // MS_PER_HOUR * MS_PER_HOUR
    if last <= first:
        booked, rest = (start_ms, start_ms), [(start_ms, end_ms)]
    else:
        booked, rest = (first, last), [(start_ms, first), (last, end_ms)]
    rolled = [(_next_step(since), min(until, rolled_until_ms) // STEP_MS * STEP_MS) for since, until in rest]
    pieces = [(max(since, rolled_until_ms), until) for since, until in rest]
    return _Plan(start_ms, end_ms, booked, *([p for p in some if p[0] < p[1]] for some in (rolled, pieces)))


def _next_step(at_ms: int) -> int:
    return -(-at_ms // STEP_MS) * STEP_MS


def _merged(pieces: Iterable[Range]) -> list[Range]:
    """Pieces that touch as one: each is one query."""
    found: list[Range] = []
    for start_ms, end_ms in pieces:
        if found and found[-1][1] == start_ms:
            found[-1] = (found[-1][0], end_ms)
        else:
            found.append((start_ms, end_ms))
    return found


def _sums(
    plan: _Plan,
    booked: Sequence[BookedHour],
    steps: Sequence[BookedHour],
    readings: Sequence[tuple[Range, Sequence[ReadingRow]]],
    *,
    sleep_power_w: float,
    settled: Sequence[Settled],
    switches: Sequence[Switch],
) -> Sums:
    first, last = (bisect_left(booked, at_ms, key=itemgetter(1)) for at_ms in plan.booked)
    sums = total(booked[first:last], plan.start_ms, plan.end_ms)
    for span in plan.rolled:
        first, last = (bisect_left(steps, at_ms, key=itemgetter(1)) for at_ms in span)
        sums.add(total(steps[first:last], *span))
    for start_ms, end_ms in plan.pieces:
        rows = next(rows for span, rows in readings if span[0] <= start_ms and end_ms <= span[1])
        sums.add(
            add_up(
                rows,
                start_ms,
                end_ms,
                sleep_power_w=sleep_power_w,
                settled=settled,
                switches=switches,
            )
        )
    sums.close()
    return sums


class _ByMachine(Generic[T]):
    """A stream in order of machine id, taken machine by machine."""

    def __init__(self, stream: Iterator[tuple[MachineId, list[T]]]) -> None:
        self._stream = stream
        self._next = next(stream, None)

    def take(self, machine_id: MachineId) -> list[T]:
        """What there is of a machine; nothing if the stream has gone past it."""
        while self._next is not None and self._next[0] < machine_id:
            self._next = next(self._stream, None)
        if self._next is None or self._next[0] != machine_id:
            return []
        found, self._next = self._next[1], next(self._stream, None)
        return found
