"""What the agent wants and does: proposals to approve or reject, open orders, failures that need a person; the ramp,
and what the grid is owed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Static

from agent.explain import printable
from agent.orders import Order, OrderState, Patience
from agent.summary import counted, span
from agent.view import MachineView
from drivers.reading import MachineId
from tui.bindings import CURTAILMENT, bindings
from tui.screens.table import TableScreen
from tui.source import AgentState, SiteState
from tui.widgets.line_table import Column, LineTable

STYLES = {
    OrderState.PROPOSED: "bold yellow",
    OrderState.APPROVED: "cyan",
    OrderState.DISPATCHING: "cyan",
    OrderState.DISPATCHED: "cyan",
    OrderState.FAILED: "bold red",
    OrderState.EXPIRED: "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """An order beside its machine as it is seen now."""

    order: Order
    view: MachineView | None
    left: str
    """Time that is left, or when it ended."""
    age_s: float
    """Since it was made."""

    @property
    def address(self) -> str:
        """Where its machine is."""
        return self.order.machine_id if self.view is None else self.view.address

    @property
    def worth_usd_per_day(self) -> float | None:
        """What carrying it out gains, as its machine is appraised now."""
        margin = None if self.view is None else self.view.decision_margin_usd_per_day
        return margin if margin is None or self.order.action.value != "sleep" else 0.0 - margin


def _worth(line: OrderLine) -> tuple[str, str]:
    worth = line.worth_usd_per_day
    return ("-", "") if worth is None else (f"{worth:+.2f}", "green" if worth > 0 else "red")


Line = Column[OrderLine]
COLUMNS = (
    Line("order", lambda line: (str(line.order.order_id), ""), lambda line: line.order.order_id, right=True),
    Line("machine", lambda line: (line.address, ""), lambda line: line.address),
    Line(
        "state",
        lambda line: (line.order.state.value, STYLES.get(line.order.state, "")),
        lambda line: line.order.state.value,
    ),
    Line("action", lambda line: (line.order.action.value, ""), lambda line: line.order.action.value),
    Line("why", lambda line: (line.order.failure or line.order.reason, ""), lambda line: line.order.reason),
    Line(
        "kW",
        lambda line: (f"{line.order.power_w / 1000:.2f}", ""),
        lambda line: line.order.power_w,
        right=True,
    ),
    Line("USD/day", _worth, lambda line: line.worth_usd_per_day, right=True),
    Line("time", lambda line: (line.left, ""), lambda line: line.age_s),
    Line("by", lambda line: (line.order.ordered_by, "dim"), lambda line: line.order.ordered_by),
    Line("sent", lambda line: (str(line.order.attempts), ""), lambda line: line.order.attempts, right=True),
    Line("detail", lambda line: (line.order.detail, "dim"), lambda line: line.order.detail),
)


class CurtailmentScreen(TableScreen[OrderLine]):
    """Orders: those that wait for a person first, then those under way, then what failed within a day."""

    WHERE = CURTAILMENT
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(CURTAILMENT)]

    def __init__(self) -> None:
        super().__init__(LineTable(COLUMNS, key=lambda line: str(line.order.order_id), id="orders", frozen=2))
        self._summary = Static(id="summary")
        self._drawn: object = None

    def content(self) -> Iterable[Widget]:
        """What is owed and used up, and the orders."""
        yield self._summary
        yield self._table

    def machine_of(self, row: OrderLine) -> MachineId:
        """The machine of the order."""
        return MachineId(row.order.machine_id)

    def markable(self, rows: Sequence[OrderLine]) -> list[OrderLine]:
        """Proposals: nothing else waits for a person."""
        return [line for line in rows if line.order.state is OrderState.PROPOSED]

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """All of it."""
        views = {view.machine_id: view for view in state.snapshot.picture.views}
        now = self.site.source.clock()
        lines = order_lines(state, views, now, agent.due_by)
        self._summary.update(Text("\n").join(summary(state, agent)))
        if self._drawn != lines:
            self._drawn = lines
            self._table.show(lines)
        marked = len(self._table.marks)
        self.note(*([Text(f"{marked} marked", "bold")] if marked else []))

    def action_approve(self) -> None:
        """Let the marked proposals be carried out, or the one under the cursor."""
        self.site.settle("approve", self.meant())

    def action_reject(self) -> None:
        """End them."""
        self.site.settle("reject", self.meant())


def order_lines(
    state: SiteState, views: Mapping[MachineId, MachineView], now: datetime, due_by: Mapping[int, datetime]
) -> Sequence[OrderLine]:
    """Proposals, then what is under way, then failures."""
    patience = Patience()
    proposals = [each for each in state.orders if each.state is OrderState.PROPOSED]
    under_way = [each for each in state.orders if each.state is not OrderState.PROPOSED]
    return [
        *(
            _line(each, views, now, f"{span(each.created_at + patience.proposal - now)} left")
            for each in proposals
        ),
        *(_line(each, views, now, _time_of(each, now, due_by.get(each.order_id))) for each in under_way),
        *(
            _line(each, views, now, f"{each.settled_at or each.created_at:%H:%M} UTC")
            for each in state.failures
        ),
    ]


def _line(order: Order, views: Mapping[MachineId, MachineView], now: datetime, left: str) -> OrderLine:
    age_s = (now - order.created_at).total_seconds()
    return OrderLine(order=order, view=views.get(order.machine_id), left=left, age_s=age_s)


def _time_of(order: Order, now: datetime, due: datetime | None) -> str:
    """Since when it is under way, and how long it still has."""
    since = f"for {span(now - (order.dispatched_at or order.created_at))}"
    if due is None:
        return since
    return f"{since}, {span(due - now)} left" if due > now else f"{since}, late"


def summary(state: SiteState, agent: AgentState) -> list[Text]:
    """Counts, the ramp against its limit, and what is owed."""
    proposals = [order for order in state.orders if order.state is OrderState.PROPOSED]
    kw = sum(order.power_w for order in proposals) / 1000
    failed = sum(order.state is OrderState.FAILED for order in state.failures)
    lines = [
        Text.assemble(
            (f"{counted(len(proposals), 'proposal')} ({kw:.1f} kW)", "bold yellow" if proposals else "dim"),
            f"   {counted(len(state.orders) - len(proposals), 'order')} under way   ",
            (f"{failed} failed within a day", "bold red" if failed else "dim"),
        )
    ]
    lines.append(_worth_today(state))
    ramp = (agent.says or {}).get("ramp")
    if ramp is not None:
        lines.append(Text(_ramp(ramp)))
    lines += [_obligation(owed) for owed in agent.obligations]
    if agent.says is None:
        lines.append(Text("what is owed to the grid is not known while the agent does not answer", "yellow"))
    elif not agent.obligations:
        lines.append(Text("nothing is owed to the grid", "dim"))
    return lines


def _worth_today(state: SiteState) -> Text:
    worth = state.worth
    if worth is None:
        return Text("what curtailment is worth today is known when its first hour is booked", "dim")
    return Text.assemble(
        f"today until {worth.until:%H:%M} UTC: ",
        (f"{worth.avoided_loss_usd:.2f} USD of losses avoided", "green"),
        f", {worth.forgone_profit_usd:.2f} USD of profit forgone",
    )


def _ramp(ramp: Mapping[str, Any]) -> str:
    moved = "   ".join(
        f"{words} {ramp[action]['machines']} of {ramp['machines_per_min']} machines, "
        f"{ramp[action]['kw']:.1f} of {ramp['kw_per_min']:g} kW"
        for action, words in (("sleep", "down"), ("wake", "up"))
    )
    return f"within this minute: {moved}"


def _obligation(owed: Mapping[str, Any]) -> Text:
    shed = "" if owed.get("by_kw") is None else f"{owed['by_kw']:g} kW less than it drew"
    target = f"{owed['target_kw']:g} kW" if owed["target_kw"] is not None else shed
    until = "until it is released" if owed["end"] is None else f"until {owed['end']}"
    standing = owed.get("standing") or ("in force" if owed["holds"] else "to come")
    load = "" if owed.get("load_kw") is None else f", load {owed['load_kw']:.1f} kW"
    style = "bold red" if standing == "short" else "yellow"
    return Text(printable(f"owed to the grid: {target} {until} ({owed['call_id']}): {standing}{load}"), style)
