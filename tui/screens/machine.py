"""Everything that is known of one machine: what it does and is worth, its insides, its day, its orders."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from agent.detail import MachineDetail
from agent.explain import explain, printable
from agent.history import MachineHistory, OrderEvidence
from agent.rows import ReadingRow, from_ms
from agent.stored import StoredPicture
from agent.summary import number
from agent.view import MachineView
from drivers.reading import MachineId
from tui.bindings import MACHINE, bindings
from tui.charts import column_chart
from tui.glyphs import Glyphs, glyphs, state_cell
from tui.screens.base import SiteScreen
from tui.source import AgentState, MachineFacts, SiteState

CHART_ROWS = 3
LABEL = 16
"""Cells of the labels in an explanation."""


class MachineScreen(SiteScreen):
    """One machine. `machine_id` is which."""

    WHERE = MACHINE
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(MACHINE)]

    def __init__(self) -> None:
        super().__init__()
        self.machine_id: MachineId | None = None
        self._glyphs = glyphs()
        self._body = Static(id="machine")
        self._asked: tuple[MachineId, object] | None = None
        self._facts: tuple[MachineId, MachineFacts] | None = None

    def content(self) -> Iterable[Widget]:
        """One long page."""
        yield VerticalScroll(self._body, id="page")

    def on_mount(self) -> None:
        """Keys scroll the page."""
        self.query_one("#page").focus()

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """The machine; its past is asked for once for each picture."""
        view = self._view(state)
        if view is None:
            self._body.update("no machine is chosen: press 1, go to one and press Enter")
            return
        wanted = (view.machine_id, state.snapshot.picture)
        if self._asked is None or self._asked[0] != wanted[0] or self._asked[1] is not wanted[1]:
            self._asked = wanted
            self.load(partial(self._ask, view.machine_id))
        facts = self._facts[1] if self._facts is not None and self._facts[0] == view.machine_id else None
        width = max(30, self.size.width - 4)
        self._body.update(Group(*page(state.snapshot, view, facts, self._glyphs, width)))

    def _view(self, state: SiteState) -> MachineView | None:
        views = state.snapshot.picture.views
        if self.machine_id is None and views:
            self.machine_id = self.site.cursor or views[0].machine_id
        return next((view for view in views if view.machine_id == self.machine_id), None)

    async def _ask(self, machine_id: MachineId) -> None:
        def take(facts: MachineFacts) -> None:
            self._facts = machine_id, facts

        await self.fetch(self.site.source.machine(machine_id), take)

    def on_resize(self) -> None:
        """Charts are as wide as there is room."""
        self.refresh_site()

    def action_curtail(self) -> None:
        """Put it to sleep."""
        if self.machine_id is not None:
            self.site.switch("curtail", [self.machine_id])

    def action_restore(self) -> None:
        """Wake it."""
        if self.machine_id is not None:
            self.site.switch("restore", [self.machine_id])


def page(
    snapshot: StoredPicture, view: MachineView, facts: MachineFacts | None, shown: Glyphs, width: int
) -> Iterator[RenderableType]:
    """The page, part by part."""
    picture = snapshot.picture
    glyph, style = state_cell(view.run_state, shown)
    yield Text.assemble(
        (printable(f"{view.address}  {view.make} {view.model}"), "bold"),
        "  ",
        (glyph, style),
        printable(f"  {view.group}  {view.firmware or 'firmware unknown'}  {view.machine_id}"),
    )
    told = explain(view, picture.market, picture.terms_of(view.machine_id).terms)
    verdict = Table.grid(padding=(0, 2, 0, 0))
    verdict.add_column(style="dim", no_wrap=True)
    verdict.add_column()
    for line in told.as_text().splitlines()[1:]:
        verdict.add_row(*(part.strip() for part in (line[:LABEL], line[LABEL:])))
    decision = snapshot.decisions.get(view.machine_id)
    if decision is not None:
        does = "leaves it as it is" if decision.action is None else decision.action.value
        verdict.add_row("agent", f"{does}: {decision.reason.value} since {_clock(decision.since)} UTC")
    yield verdict
    if facts is None:
        yield Text("...", "dim")
        return
    yield from _day(facts.history, shown, width)
    yield from _insides(facts.detail)
    yield from _baselines(facts)
    yield from _orders(facts.orders)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold underline")


def _day(history: MachineHistory, shown: Glyphs, width: int) -> Iterator[RenderableType]:
    yield _heading("the last day")
    for name, values, style, low in (
        ("TH/s", history.hashrate_ths, "green", 0.0),
        ("W", history.power_w, "yellow", 0.0),
        ("hottest chip, C", history.chip_temp_c, "red", None),
        ("margin, USD/day", history.margin_usd_per_day, "cyan", 0.0),
    ):
        yield Text(name, "dim")
        yield from column_chart(values, shown, width=width, height=CHART_ROWS, style=style, low=low)


def _insides(detail: MachineDetail | None) -> Iterator[RenderableType]:
    yield _heading("inside")
    if detail is None:
        yield Text("it has not told yet", "dim")
        return
    boards = _table("board", "TH/s", "chips", "board C", "chip C", "state")
    for board in detail.boards:
        boards.add_row(
            str(board.slot),
            number(board.hashrate_ths, 1),
            "-" if board.chips is None else str(board.chips),
            number(board.board_temp_c, 0),
            number(board.chip_temp_c, 0),
            _alive(board.alive),
        )
    yield boards
    fans = ", ".join(f"{rpm}" for rpm in detail.fans_rpm) or "not told"
    uptime = "not told" if detail.uptime_s is None else f"{detail.uptime_s / 3600:.1f} h"
    yield Text(
        f"fans {fans} rpm   inlet {number(detail.inlet_temp_c, 0)} C   up {uptime}   seen {_clock(detail.as_of)} UTC"
    )
    for pool in detail.pools:
        used = ", in use" if pool.active else ""
        yield Text.assemble(printable(f"pool {pool.url} {pool.user or ''} "), _alive(pool.alive), used)
    for error in detail.errors:
        yield Text(printable(f"error {error}"), "bold red")


def _baselines(facts: MachineFacts) -> Iterator[RenderableType]:
    if not facts.baselines:
        return
    yield _heading("baselines")
    known = _table("mode", "TH/s", "W", "J/TH", "samples", "as of, UTC")
    for each in facts.baselines:
        known.add_row(
            "-" if each.power_mode is None else each.power_mode.value,
            number(each.hashrate_ths, 1),
            number(each.power_w, 0),
            number(each.power_w / each.hashrate_ths if each.hashrate_ths else None, 1),
            str(each.samples),
            _clock(each.as_of),
        )
    yield known


def _orders(orders: Sequence[OrderEvidence]) -> Iterator[RenderableType]:
    yield _heading("orders")
    if not orders:
        yield Text("none", "dim")
        return
    told = _table("order", "made, UTC", "action", "state", "why", "by", "before, UTC", "after, UTC")
    for each in orders:
        order = each.order
        told.add_row(
            str(order.order_id),
            _clock(order.created_at),
            order.action.value,
            order.state.value + (f": {order.failure}" if order.failure else ""),
            order.reason,
            printable(order.ordered_by),
            _evidence(each.before),
            _evidence(each.after),
        )
    yield told


def _evidence(reading: ReadingRow | None) -> str:
    if reading is None:
        return "-"
    return f"{number(reading.power_w, 0)} W {reading.run_state.value} {from_ms(reading.began_ms):%H:%M:%S}"


def _alive(alive: bool | None) -> Text:
    if alive is None:
        return Text("not told", "dim")
    return Text("alive", "green") if alive else Text("dead", "bold red")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _clock(moment: datetime) -> str:
    return f"{moment:%d %b %H:%M:%S}"
