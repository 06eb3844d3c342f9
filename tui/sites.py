"""The terminal of a fleet: its sites, and the machines of all of them; either opens the terminal of one site."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import Footer, Static

from agent.federation.overview import HEALTH_STYLE, SiteView, current_views, notes
from agent.summary import number, span, total_lines
from agent.view import MachineView, SiteTotals, totals
from drivers.reading import MachineId
from tui.bindings import ALL_MACHINES, EVERYWHERE, KEYS, SITES, bindings
from tui.columns import fleet_columns
from tui.fleet_source import FleetSource, FleetState
from tui.glyphs import glyphs
from tui.widgets.line_table import Column, LineTable

REFRESH_S = 1.0
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What is to be opened: a site, or one machine of it."""

    site: str
    machine_id: MachineId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLine:
    """A site and its sums; of one that is silent no sum stands."""

    view: SiteView
    sums: SiteTotals | None

    @property
    def current(self) -> SiteTotals | None:
        """The sums, while they stand."""
        return self.sums if self.view.is_current else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLine:
    """A machine and where it is."""

    site: str
    view: MachineView


Site = Column[SiteLine]


def _number(
    heading: str, value: Callable[[SiteTotals], float], places: int, *, whole: bool = False
) -> Column[SiteLine]:
    """A column of a sum; `whole` are those that are told of a silent site too."""

    def of(line: SiteLine) -> float | None:
        sums = line.sums if whole else line.current
        return None if sums is None else value(sums)

    return Site(heading, lambda line: (number(of(line), places), ""), of, right=True)


SITE_COLUMNS = (
    Site("site", lambda line: (line.view.site, "bold"), lambda line: line.view.site),
    Site(
        "health",
        lambda line: (line.view.health, HEALTH_STYLE[line.view.health]),
        lambda line: list(HEALTH_STYLE).index(line.view.health),
    ),
    Site(
        "age",
        lambda line: ("-" if line.view.stored is None else span(line.view.stored.age), ""),
        lambda line: line.view.stored and line.view.stored.age,
        right=True,
    ),
    _number("machines", lambda sums: sums.machines, 0, whole=True),
    _number("mining", lambda sums: sums.by_state.get("mining", 0), 0),
    _number("asleep", lambda sums: sums.by_state.get("asleep", 0), 0),
    _number("unknown", lambda sums: sums.by_state.get("unknown", 0), 0, whole=True),
    _number("kW", lambda sums: sums.power_kw, 1),
    _number("PH/s", lambda sums: sums.hashrate_phs, 3),
    _number("margin", lambda sums: sums.margin_usd_per_day, 2),
    _number("loses", lambda sums: sums.lost_usd_per_day, 2),
    _number("to curtail", lambda sums: sums.to_curtail, 0),
    _number("kW to go", lambda sums: sums.to_curtail_kw, 1),
)


def machine_columns() -> list[Column[MachineLine]]:
    """The columns of a site's machines, behind that of the site."""
    return [
        Column("site", lambda line: (line.site, ""), lambda line: line.site),
        *(_of_machine(column) for column in fleet_columns(glyphs())),
    ]


def _of_machine(column: Column[MachineView]) -> Column[MachineLine]:
    return Column(
        column.heading,
        lambda line: column.content(line.view),
        lambda line: column.order(line.view),
        right=column.right,
    )


class FleetTable(Screen[None], Generic[Row]):
    """A table of the fleet, over the sums of all sites."""

    def __init__(self, table: LineTable[Row]) -> None:
        super().__init__()
        self.table = table

    def compose(self) -> ComposeResult:
        """The table, the sums, what is to be said besides."""
        yield self.table
        yield Static(id="summary")
        yield Static(id="notes")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Keys go to the table."""
        self.table.focus()
        self._draw()

    def on_screen_resume(self) -> None:
        """The other was in front meanwhile."""
        self._draw()

    def _draw(self) -> None:
        if isinstance(self.app, SitesApp) and self.app.state is not None:
            self.show(self.app.state)

    def show(self, state: FleetState) -> None:
        """Draw what is known now."""
        if not self.query("#notes"):  # not composed yet
            return
        self.table.show(self.rows(state))
        self.query_one("#summary", Static).update(Group(*total_lines(totals(current_views(state.sites)))))
        self.query_one("#notes", Static).update(Text("\n").join(notes(state.sites, state.stream)))

    def rows(self, state: FleetState) -> Sequence[Row]:
        """What is in the table."""
        raise NotImplementedError

    def chosen(self, row: Row) -> Chosen:
        """What is opened from a row."""
        raise NotImplementedError

    def action_open(self) -> None:
        """Open what is under the cursor."""
        if (row := self.table.cursor) is not None:
            self.app.exit(self.chosen(row))

    def on_line_table_chosen(self) -> None:
        """The same with the pointer."""
        self.action_open()

    def action_sort(self) -> None:
        """By the next column; after the last one as they are given."""
        last = self.table.sorted_by
        after = 0 if last is None else last + 1
        self.table.sort(after if after < len(self.table.columns) else None)

    def action_turn(self) -> None:
        """The other way round."""
        if self.table.sorted_by is not None:
            self.table.sort(self.table.sorted_by, descending=not self.table.descending)


class SitesScreen(FleetTable[SiteLine]):
    """A line for each site: its age, its health, what it does."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(SITES)]

    def __init__(self) -> None:
        super().__init__(LineTable(SITE_COLUMNS, key=lambda line: line.view.site, id="sites"))

    def rows(self, state: FleetState) -> Sequence[SiteLine]:
        """Every site, by name."""
        return [
            SiteLine(view=each, sums=None if each.stored is None else totals(each.stored.picture.views))
            for each in state.sites
        ]

    def chosen(self, row: SiteLine) -> Chosen:
        """The site."""
        return Chosen(site=row.view.site)


class MachinesScreen(FleetTable[MachineLine]):
    """The machines of all sites, the worst margin first."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ALL_MACHINES)]

    def __init__(self) -> None:
        super().__init__(
            LineTable(
                machine_columns(),
                key=lambda line: f"{line.site} {line.view.machine_id}",
                id="machines",
                frozen=3,
            )
        )

    def rows(self, state: FleetState) -> Sequence[MachineLine]:
        """Each site's are sorted already; those of which no margin is known come last."""
        lines = [
            MachineLine(site=each.site, view=view)
            for each in state.sites
            if each.stored is not None
            for view in each.stored.picture.views
        ]
        return sorted(lines, key=lambda line: _margin(line.view))

    def chosen(self, row: MachineLine) -> Chosen:
        """The machine, at its site."""
        return Chosen(site=row.site, machine_id=row.view.machine_id)


def _margin(view: MachineView) -> tuple[bool, float]:
    return view.margin_usd_per_day is None, view.margin_usd_per_day or 0.0


class SitesApp(App[Chosen]):
    """Ends with what is to be opened, or with nothing."""

    TITLE = "hashcost"
    CSS_PATH = "hashcost.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        key.binding() for key in KEYS if key.where == EVERYWHERE and key.action == "quit"
    ]
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        SITES: SitesScreen,
        ALL_MACHINES: MachinesScreen,
    }
    DEFAULT_MODE = SITES

    def __init__(self, source: FleetSource) -> None:
        super().__init__()
        self.source = source
        self.state: FleetState | None = None

    def on_mount(self) -> None:
        """Begin to refresh."""
        self.run_worker(self._refresh_forever(), group="refresh", exclusive=True)

    def on_unmount(self) -> None:
        """Let go of the copies."""
        self.source.close()

    async def _refresh_forever(self) -> None:
        while True:
            self.state = await self.source.state()
            for screen in self.screen_stack[-1:]:  # none any more while it ends
                if isinstance(screen, FleetTable):
                    screen.show(self.state)
            await asyncio.sleep(REFRESH_S)

    def action_go(self, name: str) -> None:
        """Bring the other screen to the front."""
        self.switch_mode(name)
