"""The ledger as it is stored: booked hours, steps of five minutes, and the power prices that they were booked by.
Rows in, rows out.

An hour is booked once it is over. Hours before `BOOKED_UNTIL` are; a machine that has no row in one was unknown in it.
Readings are rolled up into steps before they are dropped: those of hours before `ROLLED_UNTIL` are.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import add, itemgetter
from typing import Any

from sqlite_utils import Database

from agent.curtailment import CurtailmentPolicy
from agent.ledger import ADDITIVE, BEST_FIRST, EXTREMES, MS_PER_HOUR, Sums
from agent.rows import Settled, Switch
from drivers.reading import MachineId, PowerSource

BOOKED_UNTIL = "booked_until_ms"
"""Setting that holds the end of the last hour that is booked."""
ROLLED_UNTIL = "rolled_until_ms"
"""Setting that holds the end of the last hour of which there are steps."""
STEP_MS = 300_000
CORRECTED = "corrections"
"""Source of power prices that somebody corrected by hand."""
COLUMNS = ("machine_id", "hour_ms", *ADDITIVE, "power_source")
"""What a fleet is told of an hour."""
HOUR_COLUMNS = (*COLUMNS, *EXTREMES)
STEP_COLUMNS = ("machine_id", "step_ms", *HOUR_COLUMNS[2:])
BookedHour = tuple[Any, ...]
"""A row of the ledger, in the order of `HOUR_COLUMNS`, or of a step, in that of `STEP_COLUMNS`."""
_NUMBERS = slice(2, 2 + len(ADDITIVE))
_SOURCE = _NUMBERS.stop
_FURTHEST = {name: min if name.startswith("least_") else max for name in EXTREMES}


def booked_until(db: Database) -> int | None:
    """Hours before this are booked; None if none is."""
    for row in db.conn.execute("select value from settings where name = ?", [BOOKED_UNTIL]):
        return int(row[0])
    return None


def book(db: Database, hours: Sequence[tuple[MachineId, Sums]], until_ms: int) -> None:
    """Write the hours that end at `until_ms`, and that they are booked. Inside a transaction of the caller's."""
    _write(db, hours, on_conflict="nothing")
    db.conn.execute("insert or replace into settings values (?, ?)", (BOOKED_UNTIL, str(until_ms)))


def rebook(db: Database, hours: Sequence[tuple[MachineId, Sums]]) -> None:
    """Replace booked hours, counting that they were appraised once more. Inside a transaction of the caller's."""
    updates = ", ".join(f"{name} = excluded.{name}" for name in HOUR_COLUMNS[2:])
    _write(db, hours, on_conflict=f"update set {updates}, appraisals = appraisals + 1")


def _write(db: Database, hours: Sequence[tuple[MachineId, Sums]], *, on_conflict: str) -> None:
    db.conn.executemany(
        f"insert into ledger ({', '.join(HOUR_COLUMNS)}) values ({', '.join('?' * len(HOUR_COLUMNS))}) "  # noqa: S608
        f"on conflict (machine_id, hour_ms) do {on_conflict}",
        stored_rows(hours),
    )


def stored_rows(hours: Sequence[tuple[MachineId, Sums]]) -> list[BookedHour]:
    """Hours or steps as rows."""
    return [
        (*row, *(getattr(sums, name) for name in EXTREMES))
        for row, (_, sums) in zip(rows(hours), hours, strict=True)
    ]


def rows(hours: Sequence[tuple[MachineId, Sums]]) -> list[tuple[Any, ...]]:
    """Hours as a fleet is told of them."""
    return [
        (
            machine_id,
            sums.start_ms,
            *(getattr(sums, name) for name in ADDITIVE),
            sums.power_source and sums.power_source.value,
        )
        for machine_id, sums in hours
    ]


def stored(db: Database, table: str, start_ms: int, end_ms: int) -> Iterator[BookedHour]:
    """The rows of `ledger` or `steps` that begin in [start_ms, end_ms), by machine, oldest first."""
    columns = HOUR_COLUMNS if table == "ledger" else STEP_COLUMNS
    query = (
        f"select {', '.join(columns)} from {table} where {columns[1]} >= ? and {columns[1]} < ? "  # noqa: S608 - ours
        f"order by machine_id, {columns[1]}"
    )
    return iter(db.conn.execute(query, [start_ms, end_ms]))


def by_machine(rows: Iterable[BookedHour]) -> Iterator[tuple[MachineId, list[BookedHour]]]:
    """Rows in order of machine id, machine by machine."""
    for machine_id, group in groupby(rows, key=itemgetter(0)):
        yield MachineId(machine_id), list(group)


def roll_up(db: Database, rows: Sequence[BookedHour]) -> None:
    """Write steps. Inside a transaction of the caller's. Those of an hour that are written again are replaced."""
    db.conn.executemany(
        f"insert or replace into steps ({', '.join(STEP_COLUMNS)}) "  # noqa: S608 - names of ours
        f"values ({', '.join('?' * len(STEP_COLUMNS))})",
        rows,
    )


def curtailment_worth(db: Database, start_ms: int) -> tuple[float, float]:
    """Avoided loss and forgone profit of the hours that are booked from then on, USD."""
    row = db.conn.execute(
        "select coalesce(sum(avoided_loss_usd), 0), coalesce(sum(forgone_profit_usd), 0) from ledger "
        "where hour_ms >= ?",
        [start_ms],
    ).fetchone()
    return float(row[0]), float(row[1])


def total(hours: Sequence[BookedHour], start_ms: int, end_ms: int) -> Sums:
    """Booked hours of one machine, oldest first, added up in their order, as the sums of [start_ms, end_ms)."""
    sums = Sums(start_ms=start_ms, end_ms=end_ms)
    if hours:
        values: Iterable[Any] = hours[0][_NUMBERS]
        for hour in hours[1:]:
            values = list(map(add, values, hour[_NUMBERS]))
        for name, value in zip(ADDITIVE, values, strict=True):
            setattr(sums, name, value)
        sources = [PowerSource(source) for source in {hour[_SOURCE] for hour in hours} if source is not None]
        sums.power_source = max(sources, key=BEST_FIRST.index, default=None)
        for place, name in enumerate(EXTREMES, start=_SOURCE + 1):
            known = [hour[place] for hour in hours if hour[place] is not None]
            setattr(sums, name, _FURTHEST[name](known, default=None))
    sums.close()
    return sums


def reappraised(db: Database, start_ms: int, end_ms: int) -> int:
    """How many booked hours of machines in [start_ms, end_ms) were appraised more than once."""
    found = db.conn.execute(
        "select count(*) from ledger where hour_ms >= ? and hour_ms < ? and appraisals > 1",
        [start_ms, end_ms],
    )
    return int(found.fetchone()[0])


# -- power prices that turned out otherwise --------------------------------------------------------------


def settle(db: Database, prices: Iterable[Settled], source: str, told_ms: int) -> None:
    """Keep power prices as they were found out. Inside a transaction of the caller's."""
    db.conn.executemany(
        "insert or replace into settlements values (?, ?, ?, ?, ?)",
        [(each.start_ms, each.end_ms, each.price_usd_per_kwh, source, told_ms) for each in prices],
    )


def settlements(db: Database, start_ms: int, end_ms: int) -> list[Settled]:
    """The power prices that were found out for times in [start_ms, end_ms), oldest first; what is published of a time
    for which there is a correction is left out."""
    rows = db.conn.execute(
        "select start_ms, end_ms, price_usd_per_kwh, source from settlements where start_ms < ? and end_ms > ? "
        "order by start_ms",
        [end_ms, start_ms],
    )
    found = [
        Settled(start_ms=since, end_ms=until, price_usd_per_kwh=price, corrected=source == CORRECTED)
        for since, until, price, source in rows
    ]
    return in_force([each for each in found if each.corrected], found)


def in_force(first: Sequence[Settled], others: Sequence[Settled]) -> list[Settled]:
    """The `first` prices, and of the others those that are about other times, oldest first."""
    first = sorted(first, key=lambda each: each.start_ms)
    starts = [each.start_ms for each in first]

    def is_free(other: Settled) -> bool:
        index = bisect_left(starts, other.end_ms) - 1
        return index < 0 or not first[index].overlaps(other)

    return sorted([*first, *filter(is_free, others)], key=lambda each: each.start_ms)


def switches(db: Database, start_ms: int, end_ms: int) -> dict[MachineId, list[Switch]]:
    """The sleeps and wakes on our order that were confirmed in [start_ms, end_ms), by machine, oldest first, at half
    the cost of a cycle each: as their hour was booked, else what was last decided of the machine says it, else the rule
    for its model. What is learned of a cycle later is no matter of an hour that is booked."""
    usual = CurtailmentPolicy()
    found: dict[MachineId, list[Switch]] = {}
    for machine_id, at_ms, action, cost_usd, model in db.conn.execute(_SELECT_SWITCHES, [start_ms, end_ms]):
        cost = usual.switching_cost_of(model) / 2 if cost_usd is None else cost_usd
        switch = Switch(at_ms=at_ms, sleeps=action == "sleep", cost_usd=cost)
        found.setdefault(MachineId(machine_id), []).append(switch)
    return found


_SELECT_SWITCHES = f"""
    select * from (
        select orders.machine_id, confirmed_ms, orders.action,
               coalesce(ledger.switching_cost_usd / count(*) over (partition by orders.machine_id, hour_ms),
                        decisions.switching_cost_usd / 2),
               model
        from orders join machines using (machine_id) left join decisions using (machine_id)
        left join ledger on ledger.machine_id = orders.machine_id
        and hour_ms = confirmed_ms - confirmed_ms % {MS_PER_HOUR}
        where orders.action in ('sleep', 'wake')
        and confirmed_ms >= ?1 - ?1 % {MS_PER_HOUR} and confirmed_ms < ?2 + {MS_PER_HOUR}
    ) as switches
    where confirmed_ms >= ?1 and confirmed_ms < ?2 order by confirmed_ms
"""  # noqa: S608 - a number of ours
