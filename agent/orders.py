"""The life of an order, as pure rules: what is to be done next, from what the machine was last seen doing.

    proposed -> approved -> dispatching -> dispatched -> confirmed -> released
        |          |             `------------'   |
        `----------+--> expired                   `--> failed

`dispatching` is stored before the first byte is sent; an order found in it after a crash may have been sent, and is
verified like a sent one. A *standing* order is a confirmed sleep that was not released: the machine is ours to wake.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from drivers.driver import RestorePoint, Timings
from drivers.reading import MachineId, PowerMode, PowerSource, Reading, RunState

POLICY = "policy"
"""Who ordered what nobody ordered."""


class OrderAction(StrEnum):
    """What a machine is told."""

    SLEEP = "sleep"
    WAKE = "wake"
    SET_MODE = "set_mode"
    """Mine on, in `Order.target_mode`."""


class OrderState(StrEnum):
    """Where an order is in its life."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    DISPATCHING = "dispatching"
    DISPATCHED = "dispatched"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    EXPIRED = "expired"
    RELEASED = "released"
    """A confirmed sleep that was ended, by a wake or because the machine was given out of our hands."""


OPEN_STATES = (OrderState.PROPOSED, OrderState.APPROVED, OrderState.DISPATCHING, OrderState.DISPATCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing that a machine should be doing, and what became of it.

    `dispatched_at` is stored before the command is sent: only a reading that began later is evidence. `attempts`
    counts sends, `confirmed_at` is when a reading showed what was ordered, `settled_at` when the order last ended;
    `drifts` how often the machine left this sleep by itself. `power_w` is what it drew before.
    """

    order_id: int
    machine_id: MachineId
    action: OrderAction
    state: OrderState
    reason: str
    ordered_by: str
    created_at: datetime
    power_w: float
    target_mode: PowerMode | None = None
    dispatched_at: datetime | None = None
    confirmed_at: datetime | None = None
    settled_at: datetime | None = None
    attempts: int = 0
    drifts: int = 0
    restore: RestorePoint | None = None
    failure: str | None = None
    detail: str = ""
    snapshot: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Something is still to be done or seen."""
        return self.state in OPEN_STATES

    @property
    def is_standing(self) -> bool:
        """The machine sleeps on this order."""
        return self.action is OrderAction.SLEEP and self.state is OrderState.CONFIRMED


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often. Times are of the machines' clock."""

    proposal: timedelta = timedelta(hours=1)
    approval: timedelta = timedelta(minutes=30)
    attempts: int = 2
    drifts: int = 2
    ramping: float = 2.0
    """A machine that still ramps gets so many times its family's time."""


class Step(StrEnum):
    """What the reconciler does with an order now."""

    WAIT = "wait"
    DISPATCH = "dispatch"
    VERIFY = "verify"
    """Found `dispatching` after a crash: take it for sent."""
    CONFIRM = "confirm"
    FAIL = "fail"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A step and, where an order ends, why."""

    step: Step
    failure: str | None = None
    detail: str = ""


WAIT = Verdict(step=Step.WAIT)
ASLEEP_SHARE = 0.3
"""A sleeping machine draws less than this share of what it drew; while more, its watts are still falling."""


def next_step(
    order: Order, reading: Reading | None, *, now: datetime, timings: Timings, patience: Patience
) -> Verdict:
    """What to do with an open order. `reading` is the latest usable one (plausible, not stale), or None."""
    match order.state:
        case OrderState.PROPOSED:
            return _expired_or_wait(order, now, patience.proposal)
        case OrderState.APPROVED:
            return _before_dispatch(order, reading, now, patience)
        case OrderState.DISPATCHING:
            return Verdict(step=Step.VERIFY)
        case OrderState.DISPATCHED:
            return _after_dispatch(order, reading, now, timings, patience)
        case _:
            return WAIT


def due_by(order: Order, timings: Timings | None, patience: Patience) -> datetime | None:
    """Until when an open order has time, as things stand: for its approval, for being sent, for obeying.
    None where that is over or not known."""
    match order.state:
        case OrderState.PROPOSED:
            return order.created_at + patience.proposal
        case OrderState.APPROVED:
            return order.created_at + patience.approval
        case OrderState.DISPATCHED if timings is not None and order.dispatched_at is not None:
            within_s = timings.sleep_within_s if order.action is OrderAction.SLEEP else timings.wake_within_s
            return order.dispatched_at + timedelta(seconds=within_s)
        case _:
            return None


def _expired_or_wait(order: Order, now: datetime, limit: timedelta) -> Verdict:
    if now - order.created_at > limit:
        return Verdict(step=Step.EXPIRE, detail="not carried out in time")
    return WAIT


def _before_dispatch(order: Order, reading: Reading | None, now: datetime, patience: Patience) -> Verdict:
    """A command goes only to a machine that was just seen in the state it is to leave."""
    state = None if reading is None else reading.run_state
    asleep = state is RunState.ASLEEP
    if not asleep and state is not RunState.MINING:
        return _expired_or_wait(order, now, patience.approval)
    if order.action is OrderAction.SET_MODE and reading is not None and _reached(order, reading):
        return Verdict(step=Step.CONFIRM, detail="it was in that mode already")
    if asleep is (order.action is OrderAction.WAKE):
        return Verdict(step=Step.DISPATCH)
    if order.action is OrderAction.WAKE and reading is not None:
        if _mode_restored(order, reading):
            return Verdict(step=Step.CONFIRM, detail="it was awake already")
        return Verdict(step=Step.FAIL, failure="wrong_mode", detail="it was awake already, in another mode")
    return Verdict(step=Step.EXPIRE, detail="somebody else put it to sleep first")


def _after_dispatch(
    order: Order, reading: Reading | None, now: datetime, timings: Timings, patience: Patience
) -> Verdict:
    assert order.dispatched_at is not None  # noqa: S101 - a dispatched order has a time
    evidence = reading if reading is not None and reading.began_at > order.dispatched_at else None
    if evidence is not None and _reached(order, evidence) and not _too_early(order, evidence, timings):
        return Verdict(step=Step.CONFIRM)
    within_s = timings.sleep_within_s if order.action is OrderAction.SLEEP else timings.wake_within_s
    limit = order.dispatched_at + timedelta(seconds=within_s)
    if now < limit:
        return WAIT
    last_call = order.dispatched_at + timedelta(seconds=within_s * patience.ramping)
    if evidence is None or evidence.began_at < limit or _is_moving(order, evidence):
        if now < last_call:
            return WAIT
        kind = "no_evidence" if evidence is None else _disobedience(order, evidence)
        return Verdict(step=Step.FAIL, failure=kind, detail=_seen(evidence))
    if order.attempts < patience.attempts:
        return Verdict(step=Step.DISPATCH)
    return Verdict(step=Step.FAIL, failure=_disobedience(order, evidence), detail=_seen(evidence))


def _too_early(order: Order, evidence: Reading, timings: Timings) -> bool:
    """A machine that only restarts looks asleep for a while."""
    assert order.dispatched_at is not None  # noqa: S101 - a dispatched order has a time
    proves_from = order.dispatched_at + timedelta(seconds=timings.sleep_from_s)
    return order.action is OrderAction.SLEEP and evidence.began_at < proves_from


def _reached(order: Order, reading: Reading) -> bool:
    """The reading shows what was ordered: hashing stopped and watts down, or hashing again in the mode it had."""
    if order.action is OrderAction.SLEEP:
        measured = reading.power_source in (PowerSource.REPORTED, PowerSource.METERED)
        known = measured and reading.power_w is not None and order.power_w > 0
        falling = known and (reading.power_w or 0.0) > ASLEEP_SHARE * order.power_w
        return reading.run_state is RunState.ASLEEP and not falling
    if order.action is OrderAction.SET_MODE:
        return reading.run_state is RunState.MINING and reading.power_mode is order.target_mode
    return reading.run_state is RunState.MINING and _mode_restored(order, reading)


def _mode_restored(order: Order, reading: Reading) -> bool:
    wanted = None if order.restore is None else order.restore.power_mode
    return wanted is None or reading.power_mode is None or reading.power_mode is wanted


def _is_moving(order: Order, reading: Reading) -> bool:
    """On its way: ramping up, or asleep with its watts still falling; or nobody knows. Never a reason to send again."""
    if order.action is OrderAction.SLEEP and reading.run_state is RunState.ASLEEP:
        return True
    return reading.run_state in (RunState.RAMPING, RunState.UNKNOWN)


def _disobedience(order: Order, reading: Reading) -> str:
    if order.action is not OrderAction.SLEEP and reading.run_state is RunState.MINING:
        return "wrong_mode"
    if order.action is OrderAction.SLEEP and reading.run_state is RunState.ASLEEP:
        return "watts_did_not_fall"
    return "did_not_obey"


def _seen(reading: Reading | None) -> str:
    if reading is None:
        return "no usable reading since the command"
    watts = (
        "unknown watts"
        if reading.power_w is None
        else f"{reading.power_w:.0f} W ({reading.power_source.value})"
    )
    rate = "unknown hashrate" if reading.hashrate_ths is None else f"{reading.hashrate_ths:.1f} TH/s"
    return f"last seen {reading.run_state.value} at {rate}, {watts}"


def has_drifted(order: Order, reading: Reading | None) -> bool:
    """A machine that should sleep on a standing order is seen mining, its ramp behind it."""
    return (
        order.is_standing
        and reading is not None
        and order.confirmed_at is not None
        and reading.began_at > order.confirmed_at
        and reading.run_state is RunState.MINING
    )
