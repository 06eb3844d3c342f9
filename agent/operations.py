"""What people may do to the running agent, carried out: holds, approvals, and orders of their own."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from agent.appraisal import Terms
from agent.curtailer import Curtailer, snapshot
from agent.curtailment import Headroom, Participation, participation
from agent.database import HELD
from agent.fleet import Fleet, Machine
from agent.herald import Herald, as_data
from agent.obligations import Call, Obligations
from agent.orders import Order, OrderAction, OrderState
from agent.policy import Reason
from agent.reconciler import Reconciler
from agent.rows import Event
from agent.view import MachineView, Picture, totals
from drivers.reading import MachineId, RunState

Outcome = Mapping[str, Any]
CLOSED = "closed"
"""Names of the settings that outlive the process."""
NOT_OPEN = "not_open"
NOT_PROPOSED = "not_proposed"
UNKNOWN_MACHINE = "unknown_machine"
NOT_MINING = "not_mining"
ORDER_OPEN = "order_open"


class Operations:
    """The agent, as commands need it (`commands.CommandTarget`). `by` is the user that a command came from."""

    def __init__(
        self,
        fleet: Fleet,
        reconciler: Reconciler,
        curtailer: Curtailer,
        terms: Terms,
        *,
        clock: Callable[[], datetime],
        record: Callable[[Event], Awaitable[None]],
        save: Callable[[str, bool], Awaitable[None]],
        told: Callable[[str], Awaitable[bool]],
        health: Callable[[], Mapping[str, Any]] = dict,
        obligations: Obligations | None = None,
        save_calls: Callable[[Sequence[Call]], Awaitable[None]] | None = None,
        herald: Herald | None = None,
    ) -> None:
        self.terms = terms
        self.picture: Picture | None = None
        self._fleet = fleet
        self._reconciler = reconciler
        self._curtailer = curtailer
        self._clock = clock
        self._record = record
        self._save = save
        self._told = told
        self._health = health
        self.obligations = obligations or Obligations()
        self._save_calls = save_calls
        self._herald = herald

    async def status(self) -> dict[str, Any]:
        """Mode, hold, counts of orders, and how its loops and its database are doing."""
        orders = Counter(order.state.value for order in self._reconciler.all())
        return {
            "mode": self._curtailer.policy.mode.value,
            "held": self._curtailer.held,
            "closed": self._curtailer.closed,
            "machines": len(self._fleet),
            "orders": dict(orders),
            "ramp": self._curtailer.ramp(),
            **self._health(),
        }

    async def alerts(self) -> Sequence[Mapping[str, Any]]:
        """What is wrong now, as plain data."""
        return [] if self._herald is None else as_data(self._herald.firing())

    async def acknowledge(self, name: str, by: str) -> bool:
        """Somebody has seen an alert; False if there is none of the name."""
        return self._herald is not None and await self._herald.acknowledge(name, by)

    async def calls(self) -> Sequence[Mapping[str, Any]]:
        """Calls of the grid that are in force or to come, as plain data."""
        now = self._clock()
        account = self.obligations.account
        standing = {} if account is None else {account.call_id: account}
        return [
            call.as_data()
            | {
                "holds": call.holds_at(now),
                "standing": (known := standing.get(call.call_id)) and known.standing.value,
                "load_kw": known and known.load_kw,
            }
            for call in self.obligations.calls
        ]

    async def shed(self, call: Call, *, dry_run: bool) -> Sequence[Outcome]:
        """Take on a call, and say which machines it would take now: least efficient first, and only those that may be
        taken. A dry run only says so."""
        views, load_kw = list(await self.views()), self._load_kw()
        target = replace(call, reference_kw=load_kw).target_kw or 0.0
        outcomes: list[Outcome] = []
        for view in sorted(views, key=lambda each: -(each.efficiency_j_per_th or 0.0)):
            if load_kw <= target:
                break
            if (refusal := self._shed_refusal(view)) is None:
                load_kw -= (view.power_w or 0.0) / 1000
            outcomes.append({"machine_id": view.machine_id, "accepted": refusal is None, "reason": refusal})
        if not dry_run:
            self.obligations.add(call)
            await self._store_calls()
        return outcomes

    def _shed_refusal(self, view: MachineView) -> str | None:
        assert self.picture is not None  # noqa: S101 - the view came from it
        if not self.picture.terms_of(view.machine_id).grid:
            return Reason.HOSTING_TERMS.value
        if view.power_w is None:
            return Reason.POWER_UNKNOWN.value
        return self._refusal(view.machine_id, view, OrderAction.SLEEP)

    def _load_kw(self) -> float:
        return 0.0 if self.picture is None else totals(self.picture.views).power_kw

    async def release(self, call_id: str) -> bool:
        """End a call that an operator gave; what sleeps for it comes back, at the ramp."""
        found = self.obligations.remove(call_id)
        if found:
            await self._store_calls()
        return found

    async def _store_calls(self) -> None:
        if self._save_calls is not None:
            await self._save_calls(self.obligations.calls)

    async def views(self) -> Sequence[MachineView]:
        """The latest picture of every machine; empty before the first round."""
        return [] if self.picture is None else self.picture.views

    async def open_orders(self) -> Sequence[Mapping[str, Any]]:
        """Open orders as plain data."""
        return [
            order_as_data(order) | {"due_by": (due := self._reconciler.due_by(order)) and due.isoformat()}
            for order in self._reconciler.open_orders().values()
        ]

    async def hold(self, by: str) -> bool:
        """Decide and send nothing more until `resume`; orders under way are only confirmed. Outlives a restart; whether
        an agent that took over now would know of it."""
        return await self._hold(True)

    async def resume(self, by: str) -> bool:
        """Go on deciding."""
        return await self._hold(False)

    async def _hold(self, held: bool) -> bool:
        await self._save(HELD, held)
        self._curtailer.held = self._reconciler.held = held
        return await self._told(HELD)

    async def approve(self, order_ids: Sequence[int], by: str) -> Sequence[Outcome]:
        """Let proposed orders be carried out, within the ramp and the site's limits; one outcome an order."""
        if self.picture is None:  # right after the start: nobody knows yet what the site draws
            return [_refused_order(order_id, Reason.STATE_UNKNOWN.value) for order_id in order_ids]
        headroom = self._curtailer.headroom(self.picture)
        return [await self._approve(order_id, by, headroom) for order_id in order_ids]

    async def _approve(self, order_id: int, by: str, headroom: Headroom) -> Outcome:
        order = self._open(order_id)
        if order is None or order.state is not OrderState.PROPOSED:
            return _refused_order(order_id, NOT_PROPOSED)
        limit = self._take_room(order, headroom)
        if limit is not None:
            return _refused_order(order_id, limit)
        await self._reconciler.approve(order, by)
        return {"order_id": order_id, "machine_id": order.machine_id, "accepted": True, "reason": None}

    async def reject(self, order_ids: Sequence[int], by: str) -> Sequence[Outcome]:
        """End orders that were not sent yet; one outcome an order."""
        return [await self._reject(order_id, by) for order_id in order_ids]

    async def _reject(self, order_id: int, by: str) -> Outcome:
        order = self._open(order_id)
        if order is None or order.state not in (OrderState.PROPOSED, OrderState.APPROVED):
            return _refused_order(order_id, NOT_OPEN)
        await self._reconciler.reject(order, by)
        return {"order_id": order_id, "machine_id": order.machine_id, "accepted": True, "reason": None}

    async def curtail(self, machine_ids: Sequence[MachineId], by: str, *, dry_run: bool) -> Sequence[Outcome]:
        """Order machines to sleep; one outcome a machine. A dry run only says what the outcomes would be.

        An order for every machine of the site closes it: machines that boot or are found later sleep too, until one
        restores every sleeping machine.
        """
        outcomes = await self._order(machine_ids, OrderAction.SLEEP, by, dry_run)
        if not dry_run and set(machine_ids) >= {machine.machine_id for machine in self._fleet}:
            await self._close(True)
        return outcomes

    async def restore(self, machine_ids: Sequence[MachineId], by: str, *, dry_run: bool) -> Sequence[Outcome]:
        """Order machines to wake that sleep on our order; one outcome a machine."""
        if not dry_run and set(machine_ids) >= set(self._reconciler.standing()):
            await self._close(False)
        return await self._order(machine_ids, OrderAction.WAKE, by, dry_run)

    async def _close(self, closed: bool) -> None:
        await self._save(CLOSED, closed)
        self._curtailer.closed = closed

    async def record(self, event: Event) -> None:
        """Store an event."""
        await self._record(event)

    async def _order(
        self, machine_ids: Sequence[MachineId], action: OrderAction, by: str, dry_run: bool
    ) -> list[Outcome]:
        views = {view.machine_id: view for view in await self.views()}
        headroom = None if self.picture is None else self._curtailer.headroom(self.picture)
        outcomes: list[Outcome] = []
        for machine_id in machine_ids:
            refusal = self._refusal(machine_id, views.get(machine_id), action)
            if refusal is None and headroom is not None:
                refusal = self._take_room(self._wanted(views[machine_id], action, by), headroom)
            if refusal is None and not dry_run:
                refusal = await self._order_one(views[machine_id], action, by)
            outcomes.append({"machine_id": machine_id, "accepted": refusal is None, "reason": refusal})
        return outcomes

    def _take_room(self, order: Order, headroom: Headroom) -> str | None:
        """Use up what an order needs of the site's limits, or say which stands against it."""
        change_kw = self._curtailer.change_kw(order)
        limit = headroom.limit(change_kw, Reason(order.reason))
        if limit is not None:
            return limit.value
        headroom.use(change_kw)
        return None

    async def _order_one(self, view: MachineView, action: OrderAction, by: str) -> str | None:
        """Order one machine; what the agent only asked for goes, now that a person has said what they want."""
        asked = self._reconciler.open_orders().get(view.machine_id)
        if asked is not None and asked.state is OrderState.PROPOSED:
            await self._reconciler.withdraw(asked)
        created = await self._reconciler.order(self._wanted(view, action, by))
        return None if created is not None else ORDER_OPEN

    def _refusal(self, machine_id: MachineId, view: MachineView | None, action: OrderAction) -> str | None:
        if view is None or machine_id not in self._fleet:
            return UNKNOWN_MACHINE
        order = self._reconciler.open_orders().get(machine_id)
        if order is not None and order.state is not OrderState.PROPOSED:
            return ORDER_OPEN
        if (out_of_reach := self._out_of_reach(self._fleet[machine_id])) is not None:
            return out_of_reach.value
        if action is OrderAction.WAKE:
            return None if self._sleep_of(view) is not None else Reason.NOT_OURS_TO_WAKE.value
        if view.implausible is not None:
            return Reason.IMPLAUSIBLE_READING.value
        return None if view.run_state is RunState.MINING else NOT_MINING

    def _out_of_reach(self, machine: Machine) -> Reason | None:
        own = participation(machine.machine_id, machine.group, self._curtailer.policy)
        return machine.withheld or (Reason.PROTECTED if own is Participation.NEVER else None)

    def _wanted(self, view: MachineView, action: OrderAction, by: str) -> Order:
        point = self._fleet[view.machine_id].running_point()
        asleep = self._sleep_of(view)
        assert self.picture is not None  # noqa: S101 - the view came from it
        return Order(
            order_id=0,
            machine_id=view.machine_id,
            action=action,
            state=OrderState.APPROVED,
            reason=Reason.OPERATOR.value,
            ordered_by=by,
            created_at=self._clock(),
            power_w=(view.power_w or 0.0) if point is None else point.power_w,
            restore=None if asleep is None else asleep.restore,
            snapshot=snapshot(view, self.picture),
        )

    def _sleep_of(self, view: MachineView) -> Order | None:
        """The order that a machine sleeps on. Of one that was given up, though it was sent, a person may say that it
        took effect after all."""
        standing = self._reconciler.standing().get(view.machine_id)
        if standing is not None or view.run_state is not RunState.ASLEEP:
            return standing
        return self._reconciler.in_doubt().get(view.machine_id)

    def _open(self, order_id: int) -> Order | None:
        return next((o for o in self._reconciler.open_orders().values() if o.order_id == order_id), None)


def order_as_data(order: Order) -> dict[str, Any]:
    """One order as plain data."""
    return {
        "order_id": order.order_id,
        "machine_id": order.machine_id,
        "action": order.action.value,
        "target_mode": order.target_mode and order.target_mode.value,
        "state": order.state.value,
        "reason": order.reason,
        "ordered_by": order.ordered_by,
        "created_at": order.created_at.isoformat(),
        "attempts": order.attempts,
        "power_w": order.power_w,
        "failure": order.failure,
        "detail": order.detail,
    }


def _refused_order(order_id: int, reason: str) -> Outcome:
    return {"order_id": order_id, "accepted": False, "reason": reason}
