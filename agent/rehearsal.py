"""`hashcost demo --auto --once`: the site is curtailed, the power price drops, the same machines come back.

The agent's own word is not enough for the summary: what was shed, what mode machines woke in and what became of their
pools is taken from the simulator's books.
"""

import asyncio
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from agent.market.quote import FIXED, PowerPriceQuote
from agent.orders import Order, OrderAction, OrderState
from agent.policy import Action
from agent.service import Agent
from agent.view import Picture
from drivers.simulator.control import SiteControl
from drivers.simulator.faults import FACTS, Fault
from drivers.simulator.machine import MachineTruth

CHEAP_USD_PER_KWH = 0.02
QUIET_ROUNDS = 3
PHASE_LIMIT_S = 240.0
LIAR_SHARE = 0.4
LIES = (
    Fault.OK_BUT_NOTHING,
    Fault.APPLIES_SILENTLY,
    Fault.REFUSES_WRITES,
    Fault.WRONG_PASSWORD,
    Fault.REBOOTS_MIDWAY,
    Fault.WAKES_BY_ITSELF,
    Fault.TOKEN_REJECTED,
    Fault.BOTH_MODE_KEYS,
)


@dataclass(slots=True)
class MovablePrice:
    """A `PowerPriceSource` whose price is set by the demo."""

    price_usd_per_kwh: float

    async def quote(self, now: datetime) -> PowerPriceQuote:
        """The price as it is set now."""
        return PowerPriceQuote(
            price_usd_per_kwh=self.price_usd_per_kwh, source=FIXED, observed_at=now, fixed=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What happened. Sums of the simulator's books, but for orders, times to confirm and avoided loss."""

    orders: int
    confirmed: int
    failed: Sequence[dict[str, str]]
    restored: int
    mode_mismatches: int
    pool_changes: int
    kw_shed: float
    seconds_to_confirm: dict[str, float | None]
    avoided_loss_usd: float


async def teach_lies(control: SiteControl, seed: int) -> None:
    """Give some machines firmware that lies about commands: it refuses, pretends, keeps silent, or wakes by itself."""
    chance = random.Random(seed)
    for truth in await control.all_truth():
        lies = [lie for lie in LIES if truth.family in FACTS[lie].families]
        if chance.random() < LIAR_SHARE:
            await control.set_fault(truth.address, chance.choice(lies))


async def rehearse(agent: Agent, price: MovablePrice, control: SiteControl) -> tuple[Picture, Rehearsal]:
    """Curtail, let the price drop, restore. The avoided loss is filled in by the caller, from the export."""
    before = await _books(control)
    await _until_quiet(agent, _nothing_to_curtail)
    curtailed = await _books(control)
    price.price_usd_per_kwh = CHEAP_USD_PER_KWH
    picture = await _until_quiet(agent, _nothing_to_restore)
    after = await _books(control)
    return picture, _summary(agent.reconciler.all(), before, curtailed, after)


async def _books(control: SiteControl) -> dict[str, MachineTruth]:
    return {truth.mac: truth for truth in await control.all_truth()}


async def _until_quiet(agent: Agent, is_quiet: Callable[[Agent, Picture], bool]) -> Picture:
    """Poll until nothing more is to be done for a few rounds, or the phase's time is over."""
    end = monotonic() + PHASE_LIMIT_S
    quiet = 0
    while True:
        picture = await agent.poll_once()
        quiet = quiet + 1 if is_quiet(agent, picture) else 0
        if quiet >= QUIET_ROUNDS or monotonic() > end:
            return picture
        await asyncio.sleep(agent.config.poll.interval_s)


def _nothing_to_curtail(agent: Agent, picture: Picture) -> bool:
    return not _waiting(agent, picture, Action.CURTAIL, OrderAction.SLEEP)


def _nothing_to_restore(agent: Agent, picture: Picture) -> bool:
    return not _waiting(agent, picture, Action.RESTORE, OrderAction.WAKE)


def _waiting(agent: Agent, picture: Picture, wanted: Action, action: OrderAction) -> bool:
    """A machine still waits for its order, or an order for its end. Marginal ones wait for a person."""
    given_up = agent.reconciler.given_up()
    under_way = [o for o in agent.reconciler.open_orders().values() if o.state is not OrderState.PROPOSED]
    undecided = [
        view
        for view in picture.views
        if view.action is wanted and not view.marginal and (view.machine_id, action) not in given_up
    ]
    return bool(under_way or undecided)


def _summary(
    orders: Sequence[Order],
    before: dict[str, MachineTruth],
    curtailed: dict[str, MachineTruth],
    after: dict[str, MachineTruth],
) -> Rehearsal:
    real = [order for order in orders if order.attempts or order.state is OrderState.FAILED]
    confirmed = [order for order in real if order.confirmed_at is not None]
    slept = {order.machine_id for order in confirmed if order.action is OrderAction.SLEEP}
    woken = {order.machine_id for order in confirmed if order.action is OrderAction.WAKE}
    shed_w = [before[mac].power_w - curtailed[mac].power_w for mac in slept if mac in before]
    seconds = [
        (order.confirmed_at - order.dispatched_at).total_seconds()
        for order in confirmed
        if order.confirmed_at is not None and order.dispatched_at is not None
    ]
    return Rehearsal(
        orders=len(real),
        confirmed=len(confirmed),
        failed=[
            {
                "machine": order.machine_id,
                "action": order.action.value,
                "reason": f"{order.failure}: {order.detail}",
            }
            for order in real
            if order.state is OrderState.FAILED
        ],
        restored=len(woken),
        mode_mismatches=sum(
            after[mac].power_mode is not before[mac].power_mode for mac in woken if mac in after
        ),
        pool_changes=sum(after[mac].pools != before[mac].pools for mac in before),
        kw_shed=sum(shed_w) / 1000,
        seconds_to_confirm={
            "median": statistics.median(seconds) if seconds else None,
            "max": max(seconds, default=None),
        },
        avoided_loss_usd=0.0,
    )


def as_lines(rehearsal: Rehearsal) -> list[RenderableType]:
    """The summary for a terminal."""
    seconds: dict[str, Any] = rehearsal.seconds_to_confirm
    took = (
        ""
        if seconds["median"] is None
        else f", {seconds['median']:.0f} s median and {seconds['max']:.0f} s at most"
    )
    lines: list[RenderableType] = [
        Text(
            f"orders {rehearsal.orders}: {rehearsal.confirmed} confirmed by readings{took}, "
            f"{len(rehearsal.failed)} failed",
            "bold",
        ),
        Text(
            f"by the site's own books: {rehearsal.kw_shed:.1f} kW shed, {rehearsal.restored} machines back, "
            f"{rehearsal.mode_mismatches} in another mode than before, {rehearsal.pool_changes} with other pools"
        ),
        Text(f"avoided loss {rehearsal.avoided_loss_usd:.4f} USD in the time simulated"),
    ]
    return lines + [
        Text(f"did not obey: {each['machine']} {each['action']}: {each['reason']}", "red")
        for each in rehearsal.failed
    ]
