"""The operators' terminal: six screens on one picture of the site. Read-only unless --operate."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.dom import DOMNode
from textual.screen import Screen

from agent.control import ControlError
from agent.database import StoreError
from agent.errors import UsageError
from agent.federation.fleet_database import is_fleet
from drivers.reading import MachineId
from tui.bindings import (
    CURTAILMENT,
    EVENTS,
    EVERYWHERE,
    FLEET,
    MACHINE,
    MARKET,
    WHAT_IF,
    bindings,
    keys_of,
    operating_actions,
)
from tui.fleet_source import CopySource, FleetSource
from tui.screens.base import SiteScreen
from tui.screens.confirm import ConfirmScreen, Plan
from tui.screens.curtailment import CurtailmentScreen, OrderLine
from tui.screens.events import EventsScreen
from tui.screens.fleet import FleetScreen
from tui.screens.help import HelpScreen
from tui.screens.machine import MachineScreen
from tui.screens.market import MarketScreen
from tui.screens.what_if import WhatIfScreen
from tui.sites import SitesApp
from tui.source import AgentState, SiteState, Source
from tui.vanished import end_with_terminal
from tui.widgets.line_table import LineTable

REFRESH_S = 0.5
"""Changes are shown together, never more often than four times a second."""
ASK_S = 2.0
IDS_PER_COMMAND = 2500
"""As many as go into one line to the agent; limits of the site are reckoned for each command by itself."""


class HashcostApp(App[None]):
    """The terminal. `source` is its only way to data; `operate` says that it may change the site."""

    TITLE = "hashcost"
    CSS_PATH = "hashcost.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(EVERYWHERE)]
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        FLEET: FleetScreen,
        MACHINE: MachineScreen,
        CURTAILMENT: CurtailmentScreen,
        MARKET: MarketScreen,
        WHAT_IF: WhatIfScreen,
        EVENTS: EventsScreen,
    }
    DEFAULT_MODE = FLEET

    def __init__(
        self,
        source: Source,
        *,
        operate: bool = False,
        site_name: str | None = None,
        machine: MachineId | None = None,
    ) -> None:
        super().__init__()
        self.site_name = site_name
        """Of a site of a fleet."""
        self._first = machine
        self.source = source
        self.operate = operate
        self.state: SiteState | None = None
        self.problem: str | None = None
        """Why nothing newer can be read."""
        self.agent = AgentState()
        self.cursor: MachineId | None = None
        """The machine that was looked at last."""

    def on_mount(self) -> None:
        """Begin to refresh; with one machine, if that is what is to be seen."""
        if self._first is not None:
            self.open_machine(self._first)
        self.run_worker(self._refresh_forever(), group="refresh", exclusive=True)
        self.run_worker(self._ask_forever(), group="ask", exclusive=True)

    def on_unmount(self) -> None:
        """Let go of the store."""
        self.source.close()

    async def _refresh_forever(self) -> None:
        while True:
            try:
                self.state = await self.source.state()
                self.problem = None
            except StoreError as error:
                self.problem = str(error)
                self.state = None if self.state is None else self.source.grown_old(self.state)
            self._redraw()
            await asyncio.sleep(REFRESH_S)

    async def _ask_forever(self) -> None:
        while True:
            self.agent = await self.source.agent()
            self._redraw()
            await asyncio.sleep(ASK_S)

    def _redraw(self) -> None:
        if (screen := self._site_screen()) is not None:
            screen.refresh_site()

    def _site_screen(self) -> SiteScreen | None:
        """The screen of the site that is in front, under a question or not."""
        return next((each for each in reversed(self.screen_stack) if isinstance(each, SiteScreen)), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What changes the site is there for those who said so only."""
        del parameters
        return self.operate or action not in operating_actions()

    # -- moving about ------------------------------------------------------------------------------------

    def action_go(self, name: str) -> None:
        """Bring a screen to the front."""
        if isinstance(self.screen, FleetScreen) and self.screen.cursor is not None:
            self.cursor = self.screen.cursor.machine_id
            if name == MACHINE:
                self.open_machine(self.cursor)
                return
        if self.current_mode != name:
            self.switch_mode(name)

    def open_machine(self, machine_id: MachineId) -> None:
        """Show one machine."""
        self.cursor = machine_id
        self.switch_mode(MACHINE)
        if isinstance(self.screen, MachineScreen):
            self.screen.machine_id = machine_id
            self.screen.refresh_site()

    def action_help(self) -> None:
        """The keys of this screen."""
        screen = self._site_screen()
        if screen is not None and not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(screen.WHERE, operate=self.operate))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers: Textual's own, and every key of the screen."""
        for command in super().get_system_commands(screen):
            if (
                command.title != "Screenshot"
            ):  # it would write a file where the terminal runs, for people from afar too
                yield command
        where = getattr(screen, "WHERE", EVERYWHERE)
        for key in keys_of(where, operate=self.operate):
            if key.where in {where, EVERYWHERE} and key.action not in {"command_palette", "quit"}:
                yield SystemCommand(
                    f"{key.text} ({key.name})",
                    f"{key.where}: {key.text}",
                    self._run(key.action, self if key.where == EVERYWHERE else screen),
                )

    def _run(self, action: str, namespace: DOMNode) -> Callable[[], Any]:
        async def run() -> None:
            await self.run_action(action, default_namespace=namespace)

        return run

    # -- operating ---------------------------------------------------------------------------------------

    def action_hold(self) -> None:
        """Leave the whole site as it is, at once: nothing that a person regrets."""
        self.run_worker(self._tell("hold", "held: nothing is put to sleep or woken until U"), group="tell")

    def action_resume(self) -> None:
        """Go on, after a question."""
        self.run_worker(self._resume(), group="tell")

    async def _resume(self) -> None:
        count = 0 if self.state is None else len(self.state.snapshot.picture.views)
        plan = Plan(
            verb="let the agent act on", count=count, site_machines=max(1, count), kw=0.0, usd_per_day=0.0,
            lines=["The hold ends: orders go on, and the agent decides again as its mode lets it."],
        )  # fmt: skip
        if await self.push_screen_wait(ConfirmScreen(plan)):
            await self._tell("resume", "resumed")

    async def _tell(self, command: str, done: str, **arguments: Any) -> None:
        try:
            await self.source.tell(command, **arguments)
        except ControlError as error:
            self.notify(str(error), severity="error", title=command)
        else:
            self.notify(done, title=command)
        self.agent = await self.source.agent()
        self._redraw()

    def switch(self, command: str, machine_ids: Sequence[str]) -> None:
        """Curtail or restore machines, after a question."""
        if not machine_ids:
            self.notify("mark machines first, or put the cursor on one", severity="warning", title=command)
            return
        self.run_worker(self._switch(command, machine_ids), group="tell")

    async def _switch(self, command: str, machine_ids: Sequence[str]) -> None:
        try:
            answers = [await self._part(command, part, dry_run=True) for part in _parts(machine_ids)]
            plan = _plan(
                command, answers, self._site_machines(), closed=bool((self.agent.says or {}).get("closed"))
            )
            if not plan.count:
                reasons = sorted({str(m["reason"]) for answer in answers for m in answer["machines"]})
                self.notify(f"none of them: {', '.join(reasons)}", severity="warning", title=command)
                return
            if not await self.push_screen_wait(ConfirmScreen(plan)):
                return
            wanted = [m["machine_id"] for answer in answers for m in answer["machines"] if m["accepted"]]
            done = [await self._part(command, part, dry_run=False) for part in _parts(wanted)]
        except ControlError as error:
            self.notify(str(error), severity="error", title=command)
            return
        self._marks_are_done()
        accepted, refused = (sum(answer[name] for answer in done) for name in ("accepted", "refused"))
        self.notify(
            f"{accepted} ordered"
            + (f", {refused} refused" if refused else "")
            + "; 3 shows what becomes of it",
            severity="warning" if refused else "information",
            title=command,
        )

    async def _part(self, command: str, machine_ids: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
        return await self.source.tell(command, machines=list(machine_ids), dry_run=dry_run)

    def settle(self, command: str, lines: Sequence[OrderLine]) -> None:
        """Approve or reject proposals, after a question."""
        if not lines:
            self.notify("mark proposals first, or put the cursor on one", severity="warning", title=command)
            return
        self.run_worker(self._settle(command, lines), group="tell")

    async def _settle(self, command: str, lines: Sequence[OrderLine]) -> None:
        plan = Plan(
            verb=command,
            count=len(lines),
            site_machines=self._site_machines(),
            kw=sum(line.order.power_w for line in lines) / 1000,
            usd_per_day=sum(line.worth_usd_per_day or 0.0 for line in lines),
            forgone=command == "reject",
            unknown=sum(line.worth_usd_per_day is None for line in lines),
            lines=[_proposal(line) for line in lines],
        )
        if not await self.push_screen_wait(ConfirmScreen(plan)):
            return
        try:
            done = [
                await self.source.tell(command, orders=[line.order.order_id for line in part])
                for part in _parts(lines)
            ]
        except ControlError as error:
            self.notify(str(error), severity="error", title=command)
            return
        self._marks_are_done()
        accepted = sum(answer["accepted"] for answer in done)
        left = sorted({str(o["reason"]) for answer in done for o in answer["orders"] if not o["accepted"]})
        self.notify(
            f"{accepted} of {len(lines)}" + (f"; left: {', '.join(left)}" if left else ""),
            severity="warning" if left else "information",
            title=command,
        )

    def _marks_are_done(self) -> None:
        """What was marked was meant for what was just ordered, and for nothing else."""
        for table in self.query(LineTable):
            table.mark(())

    def _site_machines(self) -> int:
        return 1 if self.state is None else max(1, len(self.state.snapshot.picture.views))


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    """As many as go into one command."""
    return [items[first : first + IDS_PER_COMMAND] for first in range(0, len(items), IDS_PER_COMMAND)]


def _plan(command: str, answers: Sequence[dict[str, Any]], site_machines: int, *, closed: bool) -> Plan:
    """What the agent says would become of it."""
    machines = [machine for answer in answers for machine in answer["machines"]]
    accepted = [machine for machine in machines if machine["accepted"]]
    return Plan(
        verb=command,
        count=len(accepted),
        site_machines=site_machines,
        kw=sum(machine["kw"] or 0.0 for machine in accepted),
        usd_per_day=sum(machine["usd_per_day"] or 0.0 for machine in accepted),
        lines=[_machine(machine) for machine in accepted],
        warning=_closing(command, len(accepted), site_machines, closed=closed),
        unknown=sum(machine["kw"] is None or machine["usd_per_day"] is None for machine in accepted),
        refused=[
            f"{machine['address']}: {machine['reason']}" for machine in machines if not machine["accepted"]
        ],
    )


def _closing(command: str, count: int, site_machines: int, *, closed: bool) -> str:
    """What else a command for all machines does."""
    if command == "curtail" and count >= site_machines:
        return "This closes the site: machines that join it later are put to sleep too, until it is restored."
    if command == "restore" and closed:
        return "The site is closed: it opens if every sleeping machine is among these; else they are put back to sleep."
    return ""


def _proposal(line: OrderLine) -> str:
    order = line.order
    return f"{order.action.value:<6} {line.address:<16} {order.power_w / 1000:5.2f} kW  {order.reason}"


def _machine(machine: dict[str, Any]) -> str:
    kw = "  ?" if machine["kw"] is None else f"{machine['kw']:.2f}"
    worth = "?" if machine["usd_per_day"] is None else f"{machine['usd_per_day']:+.2f}"
    return f"{machine['address']:<16} {machine['model']:<20} {kw:>6} kW  {worth:>7} USD/day"


def run(database: Path, socket: Path | None, *, operate: bool) -> None:
    """Open the terminal on a database, or on the directory of a fleet. Raises `StoreError` at once if there is nothing
    to show."""
    if is_fleet(database):
        run_fleet(database, operate=operate)
        return
    source = Source(database, socket)
    try:
        source.check()
    except StoreError:
        source.close()
        raise
    end_with_terminal()
    HashcostApp(source, operate=operate).run()


def run_fleet(directory: Path, *, operate: bool) -> None:
    """Show the sites of a fleet, and each that is chosen until that is closed. Raises `UsageError`."""
    if operate:
        raise UsageError(
            f"{directory}: is a fleet, which is told with `hashcost fleet tell` and `fleet shed`"
        )
    end_with_terminal()
    while (chosen := SitesApp(FleetSource(directory)).run()) is not None:
        source = CopySource(directory / f"{chosen.site}.db")
        HashcostApp(source, site_name=chosen.site, machine=chosen.machine_id).run()
