"""The terminal's only way to data: the agent's store, read-only, whether the agent runs or not; and its socket.

All reading is done in one thread of its own: every machine once, then what changed.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from agent.baseline import Baseline
from agent.control import ControlError, call
from agent.database import StoreError
from agent.decisions import DecisionRecord
from agent.detail import MachineDetail
from agent.history import MachineHistory, OrderEvidence, SiteHistory
from agent.lots import Lot, lots_of_views
from agent.orders import Order
from agent.policy import Action
from agent.reader import Mark, Reader
from agent.rows import Event, from_ms, to_ms
from agent.stored import StoredPicture, aged, picture_of, refuse_what_is_no_file
from agent.view import MachineView, Picture, SiteTotals, totals
from drivers.reading import MachineId

P = ParamSpec("P")
T = TypeVar("T")

RECHECK = timedelta(seconds=5)
"""How often what did not change is looked at again: it grows stale."""
HISTORY_EVERY = timedelta(seconds=20)
DAY = timedelta(days=1)
POINTS = 48
STATUS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """What the agent says of itself, or why it says nothing."""

    says: Mapping[str, Any] | None = None
    silence: str = ""
    """Why it says nothing; empty before it was asked."""
    is_down: bool = False
    """Nobody listens on its socket."""
    obligations: Sequence[Mapping[str, Any]] = ()
    due_by: Mapping[int, datetime] = field(default_factory=dict)
    """By number of an open order, until when it has time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteState:
    """All that every screen shows. The same `snapshot.picture` is the same picture: nothing changed."""

    snapshot: StoredPicture
    totals: SiteTotals
    gains_usd_per_day: float
    """What waking the machines that would earn is worth."""
    history: SiteHistory
    """The last day."""
    mode: str | None
    held: bool
    orders: Sequence[Order]
    """Open ones, oldest first."""
    failures: Sequence[Order]
    """Of the last day, newest first."""
    worth: "Worth | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What curtailment was worth since midnight UTC, as far as hours are booked."""

    avoided_loss_usd: float
    forgone_profit_usd: float
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Everything that is known of one machine."""

    history: MachineHistory
    detail: MachineDetail | None
    baselines: Sequence[Baseline]
    orders: Sequence[OrderEvidence]


class Source:
    """Reads the database in a thread of its own, and asks the agent over its socket."""

    def __init__(
        self,
        database: Path,
        socket: Path | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.clock = clock
        self._database = database
        self._socket = socket
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="source")
        self._reader: Reader | None = None
        self._mark: Mark | None = None
        self._views: dict[MachineId, MachineView] = {}
        self._decisions: dict[MachineId, DecisionRecord] = {}
        self._snapshot: StoredPicture | None = None
        self._history: tuple[datetime, SiteHistory] | None = None
        self._worth: Worth | None = None
        self._added: tuple[Picture, SiteTotals] | None = None
        self._gains = 0.0

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def careful() -> T:
            try:
                return work(*args, **kwargs)
            except sqlite3.Error as error:
                raise StoreError(f"{self._database}: cannot be read ({error})") from error

        try:
            reading = asyncio.get_running_loop().run_in_executor(self._thread, careful)
        except RuntimeError as error:  # who asks may still be on their way out when it is closed
            raise StoreError(f"{self._database}: closed") from error
        return await reading

    def close(self) -> None:
        """Close the store. Nothing is read afterwards."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    async def state(self) -> SiteState:
        """The site now. Raises `StoreError` while there is none."""
        return await self._in_thread(self.read_state)

    def read_state(self) -> SiteState:
        """The same for a thread. Raises `StoreError`."""
        moment = self.clock()
        try:
            reader = self._open()
            snapshot = self._refresh(reader, moment)
            history = self._day(reader, moment)
            return SiteState(
                snapshot=snapshot,
                totals=self._totals_of(snapshot),
                gains_usd_per_day=self._gains,
                history=history,
                mode=reader.mode(),
                held=reader.held(),
                orders=reader.open_orders(),
                worth=self._today(reader, moment),
                failures=reader.unsettled(moment - DAY),
            )
        except sqlite3.Error as error:
            self._close()
            raise StoreError(f"{self._database}: cannot be read ({error})") from error
        except StoreError:
            self._close()
            raise

    def grown_old(self, state: SiteState) -> SiteState:
        """What was read last, for as long as nothing newer can be read: what has grown stale since is unknown."""
        told = aged(state.snapshot, self.clock())
        if told.picture is state.snapshot.picture:
            return state
        return replace(state, snapshot=told, totals=totals(told.picture.views), gains_usd_per_day=0.0)

    def check(self) -> None:
        """Raise `StoreError` if there is nothing to show."""
        self._thread.submit(self.read_state).result()

    async def machine(self, machine_id: MachineId) -> MachineFacts:
        """One machine, with its last day. Raises `StoreError`."""
        end = self.clock()

        def read() -> MachineFacts:
            reader = self._open()
            return MachineFacts(
                history=reader.machine_history(machine_id, end - DAY, end, points=2 * POINTS),
                detail=reader.detail(machine_id),
                baselines=reader.baselines(machine_id),
                orders=reader.orders_of(machine_id),
            )

        return await self._in_thread(read)

    async def events(self, limit: int) -> tuple[list[Event], list[Order]]:
        """The last events and orders, newest first. Raises `StoreError`."""
        return await self._in_thread(lambda: (self._open().events(limit), self._open().orders(limit)))

    async def lots(self) -> tuple[list[Lot], int]:
        """The machines as what-ifs and the merit order reckon with them, and how many cannot. Raises `StoreError`."""

        def read() -> tuple[list[Lot], int]:
            reader = self._open()
            picture = self._refresh(reader, self.clock()).picture
            return lots_of_views(picture.views, picture.market, reader.terms())

        return await self._in_thread(read)

    async def agent(self) -> AgentState:
        """What the agent says of itself."""
        if self._socket is None:
            return AgentState(silence="no socket was named", is_down=True)
        try:
            says = await call(self._socket, "status", timeout_s=STATUS_TIMEOUT_S)
            owed = await call(self._socket, "obligations", timeout_s=STATUS_TIMEOUT_S)
            orders = await call(self._socket, "orders", timeout_s=STATUS_TIMEOUT_S)
            due = {each["order_id"]: each.get("due_by") for each in orders["orders"]}
            return AgentState(
                says=says,
                obligations=owed["obligations"],
                due_by={number: datetime.fromisoformat(text) for number, text in due.items() if text},
            )
        except ControlError as error:
            return AgentState(silence=str(error), is_down=error.code == "unreachable")
        except (KeyError, TypeError, ValueError) as error:
            return AgentState(
                silence=f"its answer makes no sense here ({error!r}); is it of another version?"
            )

    async def tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Give the agent a command. Raises `ControlError`."""
        if self._socket is None:
            raise ControlError("unreachable", "no socket was named")
        return await call(self._socket, command, **arguments)

    # -- in the thread -------------------------------------------------------------------------------

    def _open(self) -> Reader:
        if self._reader is not None and self._reader.outdated:
            self._close()
        if self._reader is None:
            refuse_what_is_no_file(self._database)
            self._reader = Reader(self._database)
        return self._reader

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader, self._mark, self._snapshot = None, None, None
        self._history, self._worth = None, None

    def _refresh(self, reader: Reader, now: datetime) -> StoredPicture:
        """Take in what changed; the same picture if nothing did and nothing had time to grow stale."""
        changes = reader.changes(self._mark)
        moved = changes.mark != self._mark
        self._mark = changes.mark
        if changes.whole:
            self._views, self._decisions = {}, {}
        for machine_id in changes.gone:
            self._views.pop(machine_id, None)
            self._decisions.pop(machine_id, None)
        self._views.update((view.machine_id, view) for view in changes.views)
        self._decisions.update((each.machine_id, each) for each in changes.decisions)
        known = self._snapshot
        if known is not None and not moved and now - known.now < RECHECK:
            return known
        self._snapshot = picture_of(reader, self._views.values(), dict(self._decisions), now)
        return self._snapshot

    def _totals_of(self, snapshot: StoredPicture) -> SiteTotals:
        """Added up once for each picture."""
        if self._added is None or self._added[0] is not snapshot.picture:
            views = snapshot.picture.views
            self._added = snapshot.picture, totals(views)
            self._gains = sum(
                view.decision_margin_usd_per_day or 0.0 for view in views if view.action is Action.RESTORE
            )
        return self._added[1]

    def _today(self, reader: Reader, now: datetime) -> Worth | None:
        """Reckoned once for every hour that is booked."""
        midnight_ms, until_ms = (
            to_ms(now.replace(hour=0, minute=0, second=0, microsecond=0)),
            reader.booked_until_ms(),
        )
        if until_ms is None or until_ms <= midnight_ms:
            return None
        if self._worth is None or self._worth.until != from_ms(until_ms):
            avoided, forgone = reader.curtailment_worth(midnight_ms)
            self._worth = Worth(avoided_loss_usd=avoided, forgone_profit_usd=forgone, until=from_ms(until_ms))
        return self._worth

    def _day(self, reader: Reader, now: datetime) -> SiteHistory:
        if self._history is None or now - self._history[0] >= HISTORY_EVERY:
            self._history = now, reader.site_history(now - DAY, now, points=POINTS)
        return self._history[1]
