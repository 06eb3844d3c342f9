"""What people are told of by themselves, when it began and when it is over. Pure.

A condition is beyond its limit (`on`), well clear of it (`off`), or in between, where everything stays as it was. An
alert begins and ends only after that has held for a while, and is told once each time. Whether it was told is part of
its state, so that a restart, a lost message or the quiet hours neither repeat nor forget one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from agent.orders import OrderState
from agent.poller import ROUND_DEADLINE
from agent.view import site_load_kw, totals
from agent.vitals import Vitals
from drivers.reading import RunState

CLEAR_SHARE = 0.8
"""What was too much is over when it is under this share of the limit."""
CLEAR_C = 5.0
WORSE = 2.0
"""An alert is told again when its number has grown so many times since it was told."""
URGENT = timedelta(minutes=2)
"""What is critical is told at the latest after so long."""
SHOWN_MACHINES = 3
OBLIGATION_TOLERANCE = 1.02


class Severity(StrEnum):
    """Whether it can wait for the morning."""

    WARNING = "warning"
    CRITICAL = "critical"


class Change(StrEnum):
    """Why an alert is told now."""

    BEGAN = "began"
    WORSE = "worse"
    REMINDER = "reminder"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When somebody is told; None is never. `hold` is how long something must be so first, `remind` after how long a
    critical alert that nobody acknowledged is told again."""

    losing_usd_per_day: float | None = 10.0
    chip_temp_c: float | None = 95.0
    offline_share: float | None = 0.05
    disk_free_share: float | None = 0.1
    hold: timedelta = timedelta(minutes=10)
    remind: timedelta | None = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How one thing that is watched is now. `value` grows as it gets worse."""

    name: str
    severity: Severity
    on: bool
    off: bool
    value: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that was wrong, or is. `turning_since` is since when it has been about to begin or to end."""

    name: str
    severity: Severity
    text: str
    value: float
    firing: bool
    since: datetime
    turning_since: datetime | None = None
    told_firing: bool = False
    told_value: float = 0.0
    told_at: datetime | None = None
    acknowledged_by: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Plain data, times as ISO-8601; `alert_of` reads it back."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


def alert_of(data: Mapping[str, Any]) -> Alert:
    """An alert from its plain data."""
    values = dict(data)
    for name in ("since", "turning_since", "told_at"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    return Alert(**values | {"severity": Severity(values["severity"])})


# -- what is watched ----------------------------------------------------------------------------------


def conditions(vitals: Vitals, limits: Limits) -> Iterator[Condition]:
    """Everything that is watched, as it is now."""
    yield from _of_the_site(vitals, limits)
    yield from _of_the_agent(vitals, limits)
    for source in vitals.sources:
        lost = source.failure is not None
        text = f"source of prices {source.name}: {source.failure or 'answers'}"
        yield _condition(f"source_lost:{source.name}", Severity.WARNING, lost, text)
    doubts = vitals.picture.market.doubts
    text = "prices are not acted on: " + ("; ".join(doubts) or "they are again")
    yield _condition("prices_in_doubt", Severity.WARNING, not vitals.picture.market.automatic, text)


def _of_the_site(vitals: Vitals, limits: Limits) -> Iterator[Condition]:
    views = vitals.picture.views
    sums = totals(views)
    if limits.losing_usd_per_day is not None:
        text = f"{sums.under_breakeven} machines mine under break-even and lose {sums.lost_usd_per_day:.2f} USD/day"
        yield _over("losing_money", Severity.WARNING, sums.lost_usd_per_day, limits.losing_usd_per_day, text)
    if limits.offline_share is not None and views:
        silent = sums.by_state.get(RunState.UNKNOWN.value, 0)
        text = f"{silent} of {len(views)} machines cannot be read"
        yield _over("offline", Severity.WARNING, silent / len(views), limits.offline_share, text)
    warm = [(view.chip_temp_c, view) for view in views if view.chip_temp_c is not None]
    if limits.chip_temp_c is not None and warm:
        hottest_c, view = max(warm, key=lambda item: item[0])
        yield Condition(
            name="chip_temp",
            severity=Severity.CRITICAL,
            on=hottest_c >= limits.chip_temp_c,
            off=hottest_c < limits.chip_temp_c - CLEAR_C,
            value=sum(temp_c >= limits.chip_temp_c for temp_c, _ in warm),
            text=f"{view.machine_id} at {view.address}: a chip is at {hottest_c:.0f} degrees Celsius",
        )
    yield _condition(
        "disobedient", Severity.WARNING, bool(vitals.given_up), _disobedience(vitals), len(vitals.given_up)
    )
    load_kw = site_load_kw(views)
    if vitals.obligation_kw is not None and load_kw is not None:
        text = f"the site draws {load_kw:.1f} kW and owes the grid no more than {vitals.obligation_kw:.1f} kW"
        missed = load_kw > OBLIGATION_TOLERANCE * vitals.obligation_kw
        yield _condition("obligation_missed", Severity.CRITICAL, missed, text)


def _of_the_agent(vitals: Vitals, limits: Limits) -> Iterator[Condition]:
    problem = vitals.storage_problem
    text = (
        f"nothing is done, because nothing can be recorded: {problem}"
        if problem
        else "the database is written"
    )
    yield _condition("storage", Severity.CRITICAL, problem is not None, text)
    late = sorted(name for name, loop in vitals.loops.items() if loop["late"])
    text = f"no progress in: {', '.join(late)}" if late else "every loop makes progress"
    yield _condition("stuck", Severity.CRITICAL, bool(late), text, len(late))
    if vitals.interval_s is not None:
        took_s, unreached = vitals.round.took_s, vitals.failures()[ROUND_DEADLINE]
        text = (
            f"a round over {vitals.round.machines} machines takes {took_s:.0f} s and has {vitals.interval_s:.0f}, "
            f"{unreached} were not reached: more poll.workers or a longer poll.interval_s"
        )
        yield _over("overloaded", Severity.WARNING, took_s / vitals.interval_s, 1.0, text)
    free = vitals.disk.free_share
    if limits.disk_free_share is not None and free is not None:
        yield Condition(
            name="disk",
            severity=Severity.WARNING,
            on=free <= limits.disk_free_share,
            off=free * CLEAR_SHARE > limits.disk_free_share,
            value=limits.disk_free_share / max(free, 1e-6),
            text=f"{free:.1%} of the disk of the database is free",
        )


def _disobedience(vitals: Vitals) -> str:
    failed = {
        order.machine_id: order
        for order in vitals.orders
        if order.state is OrderState.FAILED and order.machine_id in vitals.given_up
    }
    shown = [
        f"{machine_id} ({order.action.value}: {order.failure})"
        for machine_id, order in sorted(failed.items())[:SHOWN_MACHINES]
    ]
    more = len(vitals.given_up) - len(shown)
    names = ", ".join([*shown, *([f"{more} more"] if more else [])])
    return f"{len(vitals.given_up)} machines did not do what they were told: {names}"


def _condition(name: str, severity: Severity, on: bool, text: str, value: float = 1.0) -> Condition:
    return Condition(name=name, severity=severity, on=on, off=not on, value=value, text=text)


def _over(name: str, severity: Severity, value: float, limit: float, text: str) -> Condition:
    return Condition(
        name=name,
        severity=severity,
        on=value >= limit,
        off=value < CLEAR_SHARE * limit,
        value=value,
        text=text,
    )


# -- what becomes of them -----------------------------------------------------------------------------


def step(
    alerts: Mapping[str, Alert], now_so: Iterable[Condition], now: datetime, limits: Limits
) -> dict[str, Alert]:
    """The alerts after a look. What is not watched any more is as good as over."""
    seen = {condition.name: condition for condition in now_so}
    after = {}
    for name in {**alerts, **seen}:
        known = alerts.get(name)
        condition = seen.get(name) or _gone(alerts[name])
        turned = _turn(known or _fresh(condition, now), condition, now, limits)
        was_firing = known is not None and known.firing  # its end is seen once, also if nobody was told of it
        if turned.firing or was_firing or turned.told_firing or turned.turning_since is not None:
            after[name] = turned
    return after


def _fresh(condition: Condition, now: datetime) -> Alert:
    return Alert(
        name=condition.name,
        severity=condition.severity,
        text=condition.text,
        value=condition.value,
        firing=False,
        since=now,
    )


def _gone(alert: Alert) -> Condition:
    return Condition(
        name=alert.name,
        severity=alert.severity,
        on=False,
        off=True,
        value=0.0,
        text=f"{alert.name}: not watched",
    )


def _turn(alert: Alert, condition: Condition, now: datetime, limits: Limits) -> Alert:
    if condition.on or (alert.firing and condition.off):
        alert = replace(alert, text=condition.text, value=condition.value)
    turns = condition.off if alert.firing else condition.on
    if not turns:
        return replace(alert, turning_since=None)
    since = min(alert.turning_since or now, now)  # a clock that was set back must not hold it up
    hold = min(limits.hold, URGENT) if alert.severity is Severity.CRITICAL else limits.hold
    if now - since < hold:
        return replace(alert, turning_since=since)
    return replace(alert, firing=not alert.firing, since=now, turning_since=None, acknowledged_by=None)


def due(
    alerts: Iterable[Alert], now: datetime, limits: Limits, *, quiet: bool = False
) -> list[tuple[Change, Alert]]:
    """What is to be told now, the critical first. In quiet hours only what is critical; the rest waits for their end,
    and what is over by then is not told at all."""
    found = []
    for alert in alerts:
        change = _change(alert, now, limits)
        if change is not None and (not quiet or alert.severity is Severity.CRITICAL):
            found.append((change, alert))
    return sorted(found, key=lambda item: (item[1].severity is not Severity.CRITICAL, item[1].name))


def _change(alert: Alert, now: datetime, limits: Limits) -> Change | None:
    if alert.firing is not alert.told_firing:
        return Change.BEGAN if alert.firing else Change.ENDED
    if not alert.firing or alert.told_at is None:
        return None
    if alert.value >= WORSE * alert.told_value > 0:
        return Change.WORSE
    unseen = alert.severity is Severity.CRITICAL and alert.acknowledged_by is None
    if unseen and limits.remind is not None and now - alert.told_at >= limits.remind:
        return Change.REMINDER
    return None


def told(alert: Alert, now: datetime) -> Alert:
    """The alert after somebody was told how it is."""
    return replace(alert, told_firing=alert.firing, told_value=alert.value, told_at=now)
