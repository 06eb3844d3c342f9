"""From a picture of the site to orders: gathers what a decision needs, and gives the reconciler what was decided."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from agent.appraisal import appraise
from agent.curtailment import (
    Candidate,
    CurtailmentPolicy,
    Decision,
    Headroom,
    Memory,
    Mode,
    ModePoint,
    Obligation,
    Site,
    decide,
)
from agent.decisions import DecisionRecord
from agent.fleet import Fleet, Machine, baseline_point
from agent.orders import POLICY, Order, OrderAction, OrderState
from agent.policy import Action, Reason, Recommendation
from agent.reconciler import Reconciler
from agent.view import MachineView, Picture, totals
from drivers.reading import MachineId, RunState

FOR_GRID = "for_grid"
"""Key in the snapshot of a sleep that was for the grid: its machine is put back when nothing is owed any more, also one
that was put back to sleep meanwhile."""
SHED_AGAIN = timedelta(minutes=30)
"""A machine that is shed so soon after it was woken had no room."""
DOUBT = timedelta(hours=1)
"""A machine that mined and falls silent counts as drawing for so long, where the grid is owed load."""
_STAND = (Reason.DRIFT, Reason.OPERATOR, Reason.OBLIGATION_OVER)
"""Orders whose reason does not come and go with prices."""


class Curtailer:
    """Decides once a round, and remembers per machine what its wish rests on."""

    def __init__(
        self,
        fleet: Fleet,
        reconciler: Reconciler,
        policy: CurtailmentPolicy,
        clock: Callable[[], datetime],
        decided: Iterable[DecisionRecord] = (),
    ) -> None:
        self.policy = policy
        self.held = False
        self.closed = False
        """A person curtailed the whole site."""
        self.obligation: Obligation | None = None
        self._now: Site | None = None
        """The site of the round that is being decided."""
        self._fleet = fleet
        self._reconciler = reconciler
        self._clock = clock
        self._memory: dict[MachineId, Memory] = {}
        self._records = {record.machine_id: record for record in decided}
        self._changed: dict[MachineId, DecisionRecord] = {}

    def decisions(self) -> dict[MachineId, DecisionRecord]:
        """What was last decided of each machine."""
        return dict(self._records)

    def changed(self) -> list[DecisionRecord]:
        """The decisions that are not stored as they are now."""
        return list(self._changed.values())

    def stored(self, records: Iterable[DecisionRecord]) -> None:
        """These are stored now."""
        for record in records:
            if self._changed.get(record.machine_id) is record:
                del self._changed[record.machine_id]

    def mark_ours(self) -> None:
        """Tell the fleet which machines sleep on our order."""
        standing = self._reconciler.standing()
        for machine in self._fleet:
            machine.ours = machine.machine_id in standing

    def headroom(self, picture: Picture) -> Headroom:
        """How far the site's load may still go, with what is ordered by now."""
        return Headroom(self._site(picture), self.policy)

    def change_kw(self, order: Order) -> float:
        """What an order does to the site's load, kW; of a power mode, as the machine ran in it before."""
        if order.action is OrderAction.SLEEP:
            return -order.power_w / 1000
        if order.action is OrderAction.WAKE:
            return order.power_w / 1000
        known = self._fleet[order.machine_id].baselines.all()
        there_w = next(
            (each.power_w for each in known if each.power_mode is order.target_mode), order.power_w
        )
        return (there_w - order.power_w) / 1000

    async def decide(self, picture: Picture) -> None:
        """Decide on every machine of the picture, withdraw what is wanted no more, order what is."""
        views = {view.machine_id: view for view in picture.views}
        self._now = self._site(picture)
        await self._withdraw(views)
        decisions = decide(*self.gathered(picture), self.policy)
        if await self._withdraw_proposals(decisions):
            decisions = decide(*self.gathered(picture), self.policy)
        wanted = []
        for decision in decisions:
            self._memory[decision.machine_id] = decision.memory
            self._note(decision, picture, views[decision.machine_id])
            if decision.action is not None and self.policy.mode is not Mode.OBSERVE:
                wanted.append(self._wanted(decision, picture, views[decision.machine_id]))
        await self._reconciler.order_all(wanted)

    def gathered(self, picture: Picture) -> tuple[list[Candidate], Site]:
        """What this round's decisions are made from."""
        history = _History(self._reconciler)
        candidates = [
            self._candidate(self._fleet[view.machine_id], view, history, picture) for view in picture.views
        ]
        return candidates, self._site(picture)

    def doubtful_kw(self, picture: Picture) -> float:
        """What machines draw that mined a while ago and are silent now, as far as is known, kW."""
        doubtful_w = 0.0
        going = {
            order.machine_id
            for order in self._reconciler.open_orders().values()
            if order.action is OrderAction.SLEEP
            and order.state in (OrderState.DISPATCHING, OrderState.DISPATCHED)
        }
        for view in picture.views:
            if (
                view.machine_id in going
            ):  # it was told to; while it has time, that it says nothing says nothing
                continue
            last = self._fleet[view.machine_id].reading
            if view.run_state is not RunState.UNKNOWN or last is None or last.implausible is not None:
                continue
            if last.run_state is RunState.MINING and self._clock() - last.began_at < DOUBT:
                doubtful_w += last.power_w or 0.0
        return doubtful_w / 1000

    def _note(self, decision: Decision, picture: Picture, view: MachineView) -> None:
        """Keep a decision with what it was made from, from the moment on that it says something else; and what waiting
        costs, for as long as a machine waits for that."""
        before = self._records.get(decision.machine_id)
        waits = decision.reason is Reason.ACCUMULATING
        key = (decision.action, decision.target_mode, decision.reason, decision.automatic)
        if before is not None and before.verdict == key:
            if waits:
                after = replace(before, regret_usd=decision.memory.regret_usd)
                self._records[decision.machine_id] = self._changed[decision.machine_id] = after
            return
        record = DecisionRecord(
            machine_id=decision.machine_id,
            action=decision.action,
            target_mode=decision.target_mode,
            reason=decision.reason,
            automatic=decision.automatic,
            regret_usd=decision.memory.regret_usd,
            switching_cost_usd=self.policy.switching_cost_of(view.model),
            since=self._clock(),
            snapshot=snapshot(view, picture),
        )
        self._records[decision.machine_id] = self._changed[decision.machine_id] = record

    def _wanted(self, decision: Decision, picture: Picture, view: MachineView) -> Order:
        point = self._fleet[decision.machine_id].running_point()
        assert decision.action is not None  # noqa: S101 - the caller saw to it
        sheds = decision.action is OrderAction.SLEEP and decision.reason is Reason.OBLIGATION
        return Order(
            order_id=0,
            machine_id=decision.machine_id,
            action=decision.action,
            state=OrderState.APPROVED if decision.automatic else OrderState.PROPOSED,
            reason=decision.reason.value,
            ordered_by=POLICY,
            created_at=self._clock(),
            power_w=0.0 if point is None else point.power_w,
            target_mode=decision.target_mode,
            restore=self._restore_point(decision),
            snapshot=snapshot(view, picture) | ({FOR_GRID: True} if sheds else {}),
        )

    def _restore_point(self, decision: Decision) -> Any:
        """A wake restores what the sleep that it ends had found."""
        if decision.action is not OrderAction.WAKE:
            return None
        return self._reconciler.standing()[decision.machine_id].restore

    async def _withdraw_proposals(self, decisions: Iterable[Decision]) -> bool:
        """What was proposed before the agent might do it by itself, as while prices were in doubt, goes, and is to be
        decided anew. Whether there was any."""
        orders = self._reconciler.open_orders()
        alone = {each.machine_id for each in decisions if each.automatic and each.reason is Reason.ORDER_OPEN}
        overtaken = [
            order
            for machine_id, order in orders.items()
            if machine_id in alone and order.state is OrderState.PROPOSED and order.ordered_by == POLICY
        ]
        for order in overtaken:
            await self._reconciler.withdraw(order)
        return bool(overtaken)

    async def _withdraw(self, views: dict[MachineId, MachineView]) -> None:
        """Orders of the policy that were not sent go when their reason went."""
        for order in self._reconciler.open_orders().values():
            retried = self.obligation is None or order.action is not OrderAction.WAKE
            unsent = order.state is OrderState.PROPOSED or (
                order.state is OrderState.APPROVED and not (order.attempts and retried)
            )
            view = views.get(order.machine_id)
            if (
                unsent
                and order.ordered_by == POLICY
                and view is not None
                and not self._still_wanted(order, view)
            ):
                await self._reconciler.withdraw(order)

    def _is_over_target(self) -> bool:
        """More is drawn, or will be by what is ordered, than the grid is owed."""
        site, owed = self._now, self.obligation
        return (
            site is not None
            and owed is not None
            and site.load_kw + site.coming_kw + site.doubtful_kw - site.leaving_kw > owed.target_kw
        )

    def _still_wanted(self, order: Order, view: MachineView) -> bool:
        if order.reason == Reason.OBLIGATION:
            return self.obligation is not None
        if self.obligation is not None and self._is_over_target() and order.reason != Reason.DRIFT:
            return False  # others step aside: a machine that is asked for may be shed, and none is to come
        if order.reason in _STAND:
            return order.reason == Reason.DRIFT or self.closed is (order.reason == Reason.OPERATOR)
        if order.action is OrderAction.SET_MODE:
            return (
                not self.held
                and view.run_state is RunState.MINING
                and view.power_mode is not order.target_mode
            )
        wanted = Action.CURTAIL if order.action is OrderAction.SLEEP else Action.RESTORE
        return not self.held and view.action is wanted

    def _other_modes(self, machine: Machine, view: MachineView, picture: Picture) -> list[ModePoint]:
        """What the machine is worth in the modes that it has run in before, but for the one that it runs in."""
        if view.power_mode is None or view.run_state is not RunState.MINING:
            return []
        points = []
        for baseline in machine.baselines.all():
            mode = baseline.power_mode
            if mode is None or mode is view.power_mode:
                continue
            margin = appraise(
                baseline_point(baseline), picture.market, picture.terms_of(machine.machine_id).terms
            ).decision_margin_usd_per_day
            if margin is not None:
                points.append(
                    ModePoint(power_mode=mode, power_w=baseline.power_w, decision_margin_usd_per_day=margin)
                )
        return points

    def _candidate(
        self, machine: Machine, view: MachineView, history: "_History", picture: Picture
    ) -> Candidate:
        point = machine.running_point()
        return Candidate(
            machine_id=machine.machine_id,
            group=machine.group,
            model=view.model,
            run_state=view.run_state,
            recommendation=Recommendation(action=view.action, reason=view.reason, marginal=view.marginal),
            decision_margin_usd_per_day=view.decision_margin_usd_per_day,
            energy_cost_usd_per_day=view.energy_cost_usd_per_day,
            power_w=None if point is None else point.power_w,
            efficiency_j_per_th=view.efficiency_j_per_th,
            usual_margin_usd_per_day=_usual_margin(machine, view, picture),
            price_stands_s=price_stands_s(picture, machine.machine_id),
            price_late_s=price_late_s(picture, machine.machine_id),
            other_modes=self._other_modes(machine, view, picture),
            economics=picture.terms_of(machine.machine_id).economics,
            grid=picture.terms_of(machine.machine_id).grid,
            ours=machine.ours,
            shed=machine.machine_id in history.shed,
            had_no_room=machine.machine_id in history.had_no_room,
            busy=machine.machine_id in history.busy or (machine.ours and view.run_state is RunState.MINING),
            in_hands=machine.machine_id in history.in_hands,
            withheld=machine.withheld,
            gave_up=history.given_up.get(machine.machine_id, frozenset()),
            rejected=history.rejected.get(machine.machine_id, frozenset()),
            memory=self._remembered(machine.machine_id, history),
        )

    def _remembered(self, machine_id: MachineId, history: "_History") -> Memory:
        """Regret of this run of the agent; switches by the orders, which outlive it."""
        memory = self._memory.get(machine_id, Memory())
        confirmed = history.confirmed.get(machine_id, ())
        if not confirmed and memory.switched_at is None and not memory.sleeps:
            return memory
        sleeps = sorted(at for action, at in confirmed if action is OrderAction.SLEEP)
        return replace(
            memory, switched_at=max((at for _, at in confirmed), default=None), sleeps=tuple(sleeps)
        )

    def _lately(self) -> list[Order]:
        """The orders that moved load within the last minute."""
        now = self._clock()
        return [
            order
            for order in self._reconciler.all()
            if now - (order.dispatched_at or order.created_at) < timedelta(minutes=1)
            and order.state not in (OrderState.PROPOSED, OrderState.EXPIRED)
        ]

    def ramp(self) -> dict[str, Any]:
        """What the last minute moved, by action, and what a minute may move, as plain data."""
        lately = self._lately()
        return {
            "machines_per_min": self.policy.batch_machines,
            "kw_per_min": self.policy.ramp_kw_per_min,
            **{
                action.value: {
                    "machines": sum(order.action is action for order in lately),
                    "kw": sum(order.power_w for order in lately if order.action is action) / 1000,
                }
                for action in (OrderAction.SLEEP, OrderAction.WAKE)
            },
        }

    def _site(self, picture: Picture) -> Site:
        now, lately = self._clock(), self._lately()
        leaving_kw, coming_kw = self._under_way_kw(picture)
        return Site(
            now=now,
            load_kw=totals(picture.views).power_kw,
            leaving_kw=leaving_kw,
            coming_kw=coming_kw,
            doubtful_kw=self.doubtful_kw(picture),
            moved_kw={a: sum(o.power_w for o in lately if o.action is a) / 1000 for a in OrderAction},
            moved_machines={a: sum(o.action is a for o in lately) for a in OrderAction},
            prices_certain=picture.market.automatic,
            held=self.held,
            closed=self.closed,
            obligation=self.obligation,
        )

    def _under_way_kw(self, picture: Picture) -> tuple[float, float]:
        """What draws now and sleeps soon (ordered to, or to be put back), and what is ordered to wake, kW."""
        leaving_w = coming_w = 0.0
        orders = self._reconciler.open_orders()
        for view in picture.views:
            order, power_w = orders.get(view.machine_id), view.power_w or 0.0
            if order is None or order.state is OrderState.PROPOSED:
                drifted = self._fleet[view.machine_id].ours and view.run_state is RunState.MINING
                leaving_w += power_w if drifted else 0.0
            elif order.action is OrderAction.SLEEP:
                leaving_w += power_w
            elif order.action is OrderAction.WAKE:
                coming_w += max(0.0, order.power_w - power_w)
        return leaving_w / 1000, coming_w / 1000


class _History:
    """What the orders say of each machine, gathered once a round."""

    def __init__(self, reconciler: Reconciler) -> None:
        self.busy = set(reconciler.open_orders())
        self.shed = {
            machine_id for machine_id, order in reconciler.standing().items() if FOR_GRID in order.snapshot
        }
        self.given_up = _by_machine(reconciler.given_up())
        self.rejected = _by_machine(reconciler.rejected())
        self.in_hands = reconciler.in_hands()
        self.confirmed: dict[MachineId, list[tuple[OrderAction, datetime]]] = {}
        """What was confirmed, and when."""
        self.had_no_room: set[MachineId] = set()
        """Machines that were woken while the grid was owed load, and had to be shed again: they draw more than is known
        of them, and would come and go for as long as the call holds."""
        woken: dict[MachineId, datetime] = {}
        for order in sorted(reconciler.all(), key=lambda each: each.order_id):
            if order.confirmed_at is not None:
                self.confirmed.setdefault(order.machine_id, []).append((order.action, order.confirmed_at))
            if order.action is OrderAction.WAKE and order.dispatched_at is not None:
                woken[order.machine_id] = order.dispatched_at
            elif (
                order.reason == Reason.OBLIGATION
                and order.machine_id in woken
                and order.created_at - woken[order.machine_id] < SHED_AGAIN
            ):
                self.had_no_room.add(order.machine_id)


def _by_machine(
    pairs: Iterable[tuple[MachineId, OrderAction]],
) -> dict[MachineId, frozenset[OrderAction]]:
    found: dict[MachineId, frozenset[OrderAction]] = {}
    for machine_id, action in pairs:
        found[machine_id] = found.get(machine_id, frozenset()) | {action}
    return found


def _usual_margin(machine: Machine, view: MachineView, picture: Picture) -> float | None:
    """The decision margin at the baseline, where a sleep may hang on it; who sleeps is appraised by it anyway."""
    if view.action is not Action.CURTAIL:
        return view.decision_margin_usd_per_day
    usual = machine.baselines.latest
    if usual is None:
        return None
    terms = picture.terms_of(machine.machine_id).terms
    return appraise(baseline_point(usual), picture.market, terms).decision_margin_usd_per_day


def price_stands_s(picture: Picture, machine_id: MachineId) -> float:
    """For how many seconds the power price of a machine is known to stand: for ever where somebody wrote it down, until
    the end of its interval or until the next is told where that is known; not at all where it is doubtful."""
    quote = picture.market.power
    if picture.terms_of(machine_id).terms.price_usd_per_kwh is not None:
        return math.inf
    if quote is None or not quote.automatic:
        return 0.0
    if quote.valid_until is None:
        return math.inf if quote.fixed else 0.0
    return ((quote.next_at or quote.valid_until) - picture.market.at).total_seconds()


def price_late_s(picture: Picture, machine_id: MachineId) -> float:
    """For how many seconds the power price of a machine had been in force when it was told; 0 where it is doubtful."""
    quote = picture.market.power
    if picture.terms_of(machine_id).terms.price_usd_per_kwh is not None:
        return 0.0
    return quote.late_s if quote is not None and quote.automatic else 0.0


def snapshot(view: MachineView, picture: Picture) -> dict[str, Any]:
    """What an order was decided from."""
    hashprice, power = picture.market.hashprice, picture.market.power
    return {
        "at": picture.market.at.isoformat(),
        "seen_at": view.seen_at and view.seen_at.isoformat(),
        "run_state": view.run_state.value,
        "hashrate_ths": view.hashrate_ths,
        "power_w": view.power_w,
        "power_source": view.power_source.value,
        "basis": view.basis and view.basis.value,
        "decision_margin_usd_per_day": view.decision_margin_usd_per_day,
        "strike_price_usd_per_kwh": view.strike_price_usd_per_kwh,
        "hashprice_usd_per_ph_day": picture.market.hashprice_usd_per_ph_day,
        "hashprice_source": hashprice and hashprice.source,
        "hashprice_observed_at": hashprice and hashprice.observed_at.isoformat(),
        "price_usd_per_kwh": picture.market.price_usd_per_kwh,
        "price_source": power and power.source,
        "price_observed_at": power and power.observed_at.isoformat(),
    }
