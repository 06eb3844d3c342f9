"""What people may tell the running agent: checked, carried out and recorded; and how the answers read.

status                                   what the agent says of itself
orders                                   the open orders
alerts, acknowledge {"alert": "disk"}    what is wrong; somebody has seen it
hold, resume                             leave everything as it is; go on
approve, reject {"orders": [1]}          proposed orders, or {"all": true}
curtail, restore {"selector": "..."}     machines, or {"machines": [ids]}; with "dry_run" nothing happens and the
                                         answer is the same

CommandError         the command or its arguments make no sense, or its sender may not give it
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from agent import economics
from agent.appraisal import Terms
from agent.control import VIEWER_COMMANDS, Request, permitted
from agent.errors import UsageError
from agent.explain import printable
from agent.obligations import OPERATOR, Call, check, moment
from agent.rows import Event
from agent.selector import drawn_w, parse, select
from agent.summary import number
from agent.view import MachineView
from drivers.driver import utc_now
from drivers.reading import MachineId, RunState

Outcome = Mapping[str, Any]
"""What became of one machine or order: `machine_id` or `order_id`, `accepted`, and the `reason` if it was not."""
PROPOSED = "proposed"
_SHOWN_ORDERS = 20
DONE, FAILED, PARTLY = 0, 1, 3


class CommandError(UsageError):
    """A command that cannot be carried out as it was given."""


class CommandTarget(Protocol):
    """The agent, as commands need it. `by` is the user that a command came from."""

    @property
    def terms(self) -> Terms:
        """What stands between hashprice and a machine's margin."""

    async def status(self) -> dict[str, Any]:
        """What the agent says of itself, as plain data: mode, hold, counts of orders. Cheap: everybody may ask."""

    async def views(self) -> Sequence[MachineView]:
        """The latest picture of every machine; empty before the first round."""

    async def open_orders(self) -> Sequence[Mapping[str, Any]]:
        """Open orders as plain data, each with at least `order_id` and `state`."""

    async def hold(self, by: str) -> bool:
        """Decide and send nothing more until `resume`. Whether an agent that took over now would know of it."""

    async def resume(self, by: str) -> bool:
        """Go on deciding."""

    async def approve(self, order_ids: Sequence[int], by: str) -> Sequence[Outcome]:
        """Let proposed orders be carried out; one outcome an order."""

    async def reject(self, order_ids: Sequence[int], by: str) -> Sequence[Outcome]:
        """End proposed orders; one outcome an order."""

    async def curtail(self, machine_ids: Sequence[MachineId], by: str, *, dry_run: bool) -> Sequence[Outcome]:
        """Order machines to sleep; one outcome a machine. A dry run only says what the outcomes would be."""

    async def restore(self, machine_ids: Sequence[MachineId], by: str, *, dry_run: bool) -> Sequence[Outcome]:
        """Order machines to wake; one outcome a machine. A dry run only says what the outcomes would be."""

    async def calls(self) -> Sequence[Mapping[str, Any]]:
        """Calls of the grid that are in force or to come."""

    async def shed(self, call: Call, *, dry_run: bool) -> Sequence[Outcome]:
        """Take on a call of the grid; one outcome for each machine that it concerns now."""

    async def release(self, call_id: str) -> bool:
        """End a call that an operator gave; False if there is none."""

    async def alerts(self) -> Sequence[Mapping[str, Any]]:
        """What is wrong now: `name`, `severity`, `text`, `since`, `acknowledged_by`."""

    async def acknowledge(self, name: str, by: str) -> bool:
        """Somebody has seen an alert; False if it is not there."""

    async def record(self, event: Event) -> None:
        """Store an event."""


# -- arguments ---------------------------------------------------------------------------------------


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NoArguments(_Arguments):
    """Of `status`, `orders`, `hold` and `resume`."""


class MachineArguments(_Arguments):
    """Of `curtail` and `restore`: machines by a selector, or by their ids."""

    selector: str | None = None
    machines: tuple[str, ...] = ()
    dry_run: bool = False

    @model_validator(mode="before")
    @classmethod
    def _json_has_no_tuples(cls, values: Any) -> Any:
        return _with_tuple(values, "machines")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.selector is None) == (not self.machines):
            raise ValueError("give either a selector or machines")
        return self


def _with_tuple(values: Any, name: str) -> Any:
    if isinstance(values, dict) and isinstance(values.get(name), list):
        return values | {name: tuple(values[name])}
    return values


class OrderArguments(_Arguments):
    """Of `approve` and `reject`: some orders or all that are proposed."""

    orders: tuple[int, ...] = ()
    all: bool = False

    @model_validator(mode="before")
    @classmethod
    def _json_has_no_tuples(cls, values: Any) -> Any:
        return _with_tuple(values, "orders")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.orders) == self.all:
            raise ValueError("give either the numbers of orders or all")
        return self


class ShedArguments(_Arguments):
    """Of `shed`: to or by how many kW, from when and until when, ISO-8601 with an offset."""

    to_kw: float | None = None
    by_kw: float | None = None
    start: str | None = None
    end: str | None = None
    dry_run: bool = False

    def call(self, now: datetime, user: str) -> Call:
        """The call that is meant. Raises `CommandError`."""
        try:
            start = now if self.start is None else moment(self.start)
            end = None if self.end is None else moment(self.end)
            check(start, end, self.to_kw, self.by_kw, now=now)
        except ValueError as error:
            raise CommandError(f"shed: {error}") from error
        return Call(
            call_id=f"{user}-{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}",
            source=OPERATOR,
            by=user,
            start=start,
            end=end,
            to_kw=self.to_kw,
            by_kw=self.by_kw,
        )


class CallArguments(_Arguments):
    """Of `release`."""

    call_id: str


class AlertArguments(_Arguments):
    """Of `acknowledge`."""

    alert: str


A = TypeVar("A", bound=_Arguments)


def _arguments(request: Request, kind: type[A]) -> A:
    try:
        return kind.model_validate(dict(request.arguments))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise CommandError(f"{request.command}: {place + ': ' if place else ''}{message}") from error


# -- the agent's side --------------------------------------------------------------------------------


class Commands:
    """Answers requests: `ControlServer(path, Commands(agent))`. Raises `UsageError` for what makes no sense.

    What can change something is recorded with its user before it is done, so that a crash does not hide who asked.
    """

    def __init__(
        self, agent: CommandTarget, *, clock: Callable[[], datetime] = utc_now, stands_by: bool = False
    ) -> None:
        self._agent = agent
        self._clock = clock
        self._stands_by = stands_by

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Carry out one command and say what became of it."""
        if not permitted(request.command, request.role):
            raise CommandError(f"{request.command} is for operators, and {request.user} is a {request.role}")
        if self._stands_by and request.command not in VIEWER_COMMANDS | {"acknowledge"}:
            raise CommandError(
                f"{request.command}: this agent stands by; tell the one that has the machines (`holder` of its status)"
            )
        answers = {
            "status": self._status,
            "orders": self._orders,
            "obligations": self._obligations,
            "alerts": self._alerts,
            "acknowledge": self._acknowledge,
            "shed": self._shed,
            "release": self._release,
            "hold": self._hold_or_resume,
            "resume": self._hold_or_resume,
            "approve": self._settle,
            "reject": self._settle,
            "curtail": self._switch,
            "restore": self._switch,
        }
        answer = answers.get(request.command)
        if answer is None:
            raise CommandError(f"{request.command}: no such command; this agent may be of another version")
        return await answer(request)

    async def _status(self, request: Request) -> dict[str, Any]:
        _arguments(request, NoArguments)
        return await self._agent.status()

    async def _orders(self, request: Request) -> dict[str, Any]:
        _arguments(request, NoArguments)
        return {"orders": [dict(order) for order in await self._agent.open_orders()]}

    async def _obligations(self, request: Request) -> dict[str, Any]:
        _arguments(request, NoArguments)
        return {"obligations": [dict(call) for call in await self._agent.calls()]}

    async def _alerts(self, request: Request) -> dict[str, Any]:
        _arguments(request, NoArguments)
        return {"alerts": [dict(alert) for alert in await self._agent.alerts()]}

    async def _acknowledge(self, request: Request) -> dict[str, Any]:
        arguments = _arguments(request, AlertArguments)
        await self._record(request, repr(arguments.alert))
        if not await self._agent.acknowledge(arguments.alert, request.user):
            raise CommandError(
                f"acknowledge: no alert {arguments.alert!r}; `hashcost alerts list` shows what there is"
            )
        return {"acknowledged": arguments.alert}

    async def _shed(self, request: Request) -> dict[str, Any]:
        arguments = _arguments(request, ShedArguments)
        call = arguments.call(self._clock(), request.user)
        if not arguments.dry_run:
            await self._record(request, f"{call.call_id}: {_call_in_words(call.as_data())}")
        views = list(await self._agent.views())
        outcomes = await self._agent.shed(call, dry_run=arguments.dry_run)
        switched = _switched(views, outcomes, self._agent.terms, waking=False)
        return {"dry_run": arguments.dry_run, "call": call.as_data(), **switched, "refused": 0}

    async def _release(self, request: Request) -> dict[str, Any]:
        arguments = _arguments(request, CallArguments)
        await self._record(request, arguments.call_id)
        if not await self._agent.release(arguments.call_id):
            raise CommandError(
                f"release: no operator gave a call {arguments.call_id!r}; `hashcost obligations` lists them"
            )
        return {"released": arguments.call_id}

    async def _hold_or_resume(self, request: Request) -> dict[str, Any]:
        _arguments(request, NoArguments)
        await self._record(request, "the whole site")
        if request.command == "hold":
            known = await self._agent.hold(request.user)
        else:
            known = await self._agent.resume(request.user)
        unknown = {} if known else {"known_to_standby": False}
        return {"held": request.command == "hold", **unknown}

    async def _settle(self, request: Request) -> dict[str, Any]:
        arguments = _arguments(request, OrderArguments)
        order_ids = list(arguments.orders)
        if arguments.all:
            orders = await self._agent.open_orders()
            order_ids = [order["order_id"] for order in orders if order["state"] == PROPOSED]
        await self._record(request, _in_short(order_ids))
        settle = self._agent.approve if request.command == "approve" else self._agent.reject
        outcomes = await settle(order_ids, request.user) if order_ids else []
        return {"orders": [dict(outcome) for outcome in outcomes], **_counts(outcomes)}

    async def _switch(self, request: Request) -> dict[str, Any]:
        arguments = _arguments(request, MachineArguments)
        waking = request.command == "restore"
        views = await self._agent.views()
        if arguments.selector is None:
            wanted = frozenset(arguments.machines)
            chosen = [view for view in views if view.machine_id in wanted]
            told = "machines by their ids"
        else:
            chosen = await asyncio.to_thread(_select, arguments.selector, views, self._agent.terms, waking)
            told = repr(arguments.selector)
        if not arguments.dry_run:
            await self._record(request, f"{told}, {len(chosen)} machines")
        switch = self._agent.restore if waking else self._agent.curtail
        ids = [view.machine_id for view in chosen]
        outcomes = await switch(ids, request.user, dry_run=arguments.dry_run) if ids else []
        return {"dry_run": arguments.dry_run, **_switched(chosen, outcomes, self._agent.terms, waking)}

    async def _record(self, request: Request, what: str) -> None:
        detail = f"{request.user} (uid {request.uid}): {request.command} {what}"
        await self._agent.record(Event(at=self._clock(), kind=f"command_{request.command}", detail=detail))


def _in_short(order_ids: Sequence[int]) -> str:
    shown = ", ".join(str(order_id) for order_id in order_ids[:_SHOWN_ORDERS])
    return f"orders {shown or 'none'}" + (
        f" ... {len(order_ids)} in all" if len(order_ids) > _SHOWN_ORDERS else ""
    )


def _select(text: str, views: Sequence[MachineView], terms: Terms, waking: bool) -> list[MachineView]:
    def load_w(view: MachineView) -> float | None:
        kw = moved_kw(view, terms, waking=waking)
        return None if kw is None else kw * 1000

    return select(parse(text), views, load_w=load_w, most_efficient_first=waking)


def moved_kw(view: MachineView, terms: Terms, *, waking: bool) -> float | None:
    """What the site draws less once a mining machine sleeps, or more once a sleeping one runs; None if not known.

    A sleeping machine's running watts are those that its strike price was reckoned from:
    p* = R / ((W-Ws)/1000 * 24 * k).
    """
    if not waking:
        power_w = drawn_w(view)
        return None if power_w is None else (power_w - terms.sleep_power_w) / 1000
    strike, revenue = view.strike_price_usd_per_kwh, view.revenue_usd_per_day
    if view.run_state is not RunState.ASLEEP or view.implausible is not None or not strike or revenue is None:
        return None
    return revenue / (strike * economics.HOURS_PER_DAY * terms.overhead)


def _switched(
    chosen: Sequence[MachineView], outcomes: Sequence[Outcome], terms: Terms, waking: bool
) -> dict[str, Any]:
    """Each machine with what its switch moves and is worth, and the sums over those that were accepted. What is unknown
    is left out of a sum, and counted. `usd_per_day` is what the site gains; below zero it loses."""
    by_id = {view.machine_id: view for view in chosen}
    machines = [_machine(by_id[outcome["machine_id"]], outcome, terms, waking) for outcome in outcomes]
    accepted = [machine for machine in machines if machine["accepted"]]
    return {
        "machines": machines,
        **_counts(outcomes),
        "kw": sum(machine["kw"] or 0.0 for machine in accepted),
        "kw_unknown": sum(machine["kw"] is None for machine in accepted),
        "usd_per_day": sum(machine["usd_per_day"] or 0.0 for machine in accepted),
        "usd_per_day_unknown": sum(machine["usd_per_day"] is None for machine in accepted),
    }


def _machine(view: MachineView, outcome: Outcome, terms: Terms, waking: bool) -> dict[str, Any]:
    margin = view.decision_margin_usd_per_day
    return {
        "machine_id": view.machine_id,
        "address": view.address,
        "model": view.model,
        "group": view.group,
        "kw": moved_kw(view, terms, waking=waking),
        "usd_per_day": margin if margin is None or waking else 0.0 - margin,
        **outcome,
    }


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    accepted = sum(bool(outcome["accepted"]) for outcome in outcomes)
    return {"accepted": accepted, "refused": len(outcomes) - accepted}


# -- the caller's side -------------------------------------------------------------------------------


def _standing_in_words(call: Mapping[str, Any]) -> str:
    """Whether a call holds, and how the site stands to it."""
    if not call["holds"]:
        return "to come"
    if call["standing"] is None:
        return "in force"
    load = "load not known" if call["load_kw"] is None else f"load {call['load_kw']:.1f} kW"
    return f"in force, {call['standing']} ({load})"


def _alert_in_words(alert: Mapping[str, Any]) -> str:
    by = alert["acknowledged_by"]
    seen = "" if by is None else f"  (acknowledged by {by})"
    return f"{alert['severity']:8}  {alert['name']}  {alert['text']}  since {alert['since'][:19]}{seen}"


def exit_status(answer: Mapping[str, Any]) -> int:
    """0 done, 1 nothing of it, 3 in part."""
    if not answer.get("refused"):
        return DONE
    return PARTLY if answer["accepted"] else FAILED


def in_words(command: str, answer: Mapping[str, Any]) -> str:
    """An answer for a person on a terminal."""
    match command:
        case "hold":
            lines = ["held: nothing is put to sleep or woken until `hashcost resume`"]
        case "resume":
            lines = ["resumed"]
        case "obligations":
            lines = [
                f"{call['call_id']}  {_call_in_words(call)}  {_standing_in_words(call)}"
                for call in answer["obligations"]
            ] or ["nothing is owed to the grid"]
        case "alerts":
            lines = [_alert_in_words(alert) for alert in answer["alerts"]] or ["nothing is wrong"]
        case "acknowledge":
            lines = [f"acknowledged {answer['acknowledged']}: no more reminders until it is over"]
        case "release":
            lines = [f"released {answer['released']}: what sleeps for it comes back, at the ramp"]
        case "shed":
            lines = [f"{answer['call']['call_id']}: {_call_in_words(answer['call'])}"]
            lines += (
                _machines_in_words("curtail", answer)
                if answer["machines"]
                else ["no machine need sleep for it now"]
            )
        case "approve" | "reject":
            lines = list(_orders_in_words(command, answer))
        case _:
            lines = list(_machines_in_words(command, answer))
    if answer.get("known_to_standby") is False:
        lines.append("here; the standby does not know of it yet, and would not heed it if it took over now")
    return "\n".join(printable(line) for line in lines)


def _call_in_words(call: Mapping[str, Any]) -> str:
    what = f"shed to {call['to_kw']:g} kW" if call["to_kw"] is not None else f"shed by {call['by_kw']:g} kW"
    until = "until it is released" if call["end"] is None else f"until {call['end']}"
    return f"{what} from {call['start']} {until}, for {call['by']}"


_PAST = {"approve": "approved", "reject": "rejected", "curtail": "curtailed", "restore": "restored"}


def _orders_in_words(command: str, answer: Mapping[str, Any]) -> Iterator[str]:
    if not answer["orders"]:
        yield "no order waits for approval"
        return
    yield f"{_PAST[command]} {answer['accepted']} orders"
    for order in answer["orders"]:
        if not order["accepted"]:
            yield f"  order {order['order_id']} not {_PAST[command]}: {order['reason']}"


def _machines_in_words(command: str, answer: Mapping[str, Any]) -> Iterator[str]:
    if not answer["machines"]:
        yield "the selector fits no machine now"
        return
    dry_run, waking = answer["dry_run"], command == "restore"
    verb = f"would {command}" if dry_run else f"ordered to {'wake' if waking else 'sleep'}:"
    yield (
        f"{verb} {answer['accepted']} machines, {answer['kw']:.1f} kW {'more' if waking else 'less'}"
        f"{_unknown(answer['kw_unknown'])}, {answer['usd_per_day']:+.2f} USD/day"
        f"{_unknown(answer['usd_per_day_unknown'])}"
    )
    for machine in answer["machines"]:
        if machine["accepted"]:
            worth = number(machine["usd_per_day"], 2, sign=True)
            yield f"  {_name(machine)}  {number(machine['kw'], 2)} kW  {worth} USD/day"
    for machine in answer["machines"]:
        if not machine["accepted"]:
            yield f"  {_name(machine)}  not {_PAST[command]}: {machine['reason']}"
    if dry_run:
        yield "nothing was done; to do it, add --yes"


def _unknown(count: int) -> str:
    return f" and {count} machines unknown" if count else ""


def _name(machine: Mapping[str, Any]) -> str:
    return f"{machine['machine_id']}  {machine['address']:<15}  {machine['model']}  {machine['group']}"
