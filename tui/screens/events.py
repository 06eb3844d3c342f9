"""What happened, and who did it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Input

from agent.database import StoreError
from agent.orders import Order
from agent.rows import Event
from drivers.reading import MachineId
from tui.bindings import EVENTS, bindings
from tui.screens.base import SiteScreen
from tui.source import AgentState, SiteState
from tui.widgets.line_table import Column, LineTable

MOST = 2000
EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One line: an event, or an order as far as it came."""

    key: str
    at: datetime
    what: str
    who: str
    machine: str
    """Its address, as other screens name it; its id if it is not known any more."""
    machine_id: str
    detail: str

    @property
    def text(self) -> str:
        """All of it, for the filter."""
        return f"{self.what} {self.who} {self.machine} {self.machine_id} {self.detail}".lower()


def happened(
    events: Sequence[Event], orders: Sequence[Order], addresses: Mapping[MachineId, str]
) -> list[Happened]:
    """Both in one list, the newest first."""
    lines = [
        Happened(
            key=f"{event.at.isoformat()} {event.kind} {event.machine_id} {event.detail}",
            at=event.at,
            what=event.kind,
            who=_who(event),
            machine=_named(event.machine_id, addresses),
            machine_id=event.machine_id or "-",
            detail=event.detail,
        )
        for event in events
    ]
    lines += [
        Happened(
            key=f"order {order.order_id}",
            at=order.settled_at or order.confirmed_at or order.dispatched_at or order.created_at,
            what=f"{order.action.value} {order.state.value}",
            who=order.ordered_by,
            machine=_named(order.machine_id, addresses),
            machine_id=order.machine_id,
            detail=" ".join(part for part in (order.reason, order.failure or "", order.detail) if part),
        )
        for order in orders
    ]
    return sorted(lines, key=lambda line: line.at, reverse=True)


def _named(machine_id: MachineId | None, addresses: Mapping[MachineId, str]) -> str:
    return "-" if machine_id is None else addresses.get(machine_id, machine_id)


def _who(event: Event) -> str:
    """The person that a command came from: they are recorded as `anna (uid 1000): curtail ...`."""
    name, uid, _ = event.detail.partition(" (uid ")
    return name if uid and event.kind.startswith("command_") else "agent"


def _style(what: str) -> str:
    if any(word in what for word in ("fail", "short", "refused", "gave_up")):
        return "bold red"
    return "bold" if what.startswith("command_") else ""


Line = Column[Happened]
COLUMNS = (
    Line("time, UTC", lambda line: (f"{line.at:%d %b %H:%M:%S}", ""), lambda line: line.at),
    Line("what", lambda line: (line.what, _style(line.what)), lambda line: line.what),
    Line("who", lambda line: (line.who, ""), lambda line: line.who),
    Line("machine", lambda line: (line.machine, ""), lambda line: line.machine),
    Line("detail", lambda line: (line.detail, ""), lambda line: line.detail),
)


class EventsScreen(SiteScreen):
    """The last events, newest first."""

    WHERE = EVENTS
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(EVENTS)]

    def __init__(self) -> None:
        super().__init__()
        self._table: LineTable[Happened] = LineTable(COLUMNS, key=lambda line: line.key, id="events")
        self._filter = Input(
            id="filter", placeholder="words that the event contains; !word for those without; Enter, Esc"
        )
        self._lines: Sequence[Happened] = ()
        self._text = ""
        self._asked_s = -EVERY_S

    def content(self) -> Iterable[Widget]:
        """The table and its filter."""
        yield self._table
        yield self._filter

    def on_mount(self) -> None:
        """Keys go to the table."""
        self._table.focus()

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """Ask for them again, now and then."""
        if monotonic() - self._asked_s >= EVERY_S:
            self._asked_s = monotonic()
            addresses = {view.machine_id: view.address for view in state.snapshot.picture.views}
            self.load(partial(self._ask, addresses))

    async def _ask(self, addresses: Mapping[MachineId, str]) -> None:
        try:
            lines = happened(*await self.site.source.events(MOST), addresses)
        except StoreError as error:
            self.note(Text(str(error), "bold red"))
            return
        if lines != self._lines:
            self._lines = lines
            self._again()

    def _again(self) -> None:
        count = len(self._lines)
        rows = [line for line in self._lines if matches(line, self._text)]
        self._table.show(rows)
        self.note(
            *([Text(f"filter {self._text}: {len(rows)} of {count} events", "yellow")] if self._text else [])
        )

    def action_filter(self) -> None:
        """Ask which events to show."""
        self._filter.display = True
        self._filter.focus()

    def action_unfilter(self) -> None:
        """All of them."""
        self._filter.value = ""
        self._filtered("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Those that were asked for."""
        self._filtered(event.value.strip())

    def _filtered(self, text: str) -> None:
        self._text = text
        self._filter.display = False
        self._table.focus()
        self._again()


def matches(line: Happened, text: str) -> bool:
    """Whether a line has every word, and none of those behind a `!`."""
    return all(
        term[1:] not in line.text if term.startswith("!") and len(term) > 1 else term in line.text
        for term in text.lower().split()
    )
