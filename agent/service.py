"""The running agent: scans, polls, appraises and remembers, loop by loop, restarted with backoff when one fails."""

import asyncio
import contextlib
import json
import logging
import math
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import ClassVar, ParamSpec, Self, TypeVar

from agent import membership
from agent.bookkeeping import Bookkeeper
from agent.clock import Clock
from agent.commands import Commands
from agent.config import Config
from agent.control import ControlServer
from agent.corrections import Corrections
from agent.curtailer import Curtailer
from agent.curtailment import Mode, Obligation
from agent.database import HELD, MODE, TENURE
from agent.errors import StorageError
from agent.feeds import Feeds
from agent.fleet import Failure, Fleet, Machine
from agent.grid import SILENCE
from agent.herald import ALERTS, Herald
from agent.home_assistant import Announcer
from agent.host_keys import HostKeyFile
from agent.inventory import SCAN_FAILURE, Changes, Inventory
from agent.learned import learned, with_learned_costs
from agent.logins import logins
from agent.market.quote import HashpriceSource, PowerPriceSource, take_market
from agent.market.report import accepted_figures, report
from agent.metrics import metrics_text
from agent.obligations import OPERATOR, SCHEDULE, Call, Obligations, Standing, account, call_of
from agent.operations import CLOSED, Operations
from agent.options import read_options
from agent.order_writer import OrderWriter
from agent.orders import Order, Patience
from agent.partition import Partition
from agent.poller import MAX_BACKOFF_ROUNDS, Poller, RoundResult, pause_s
from agent.publisher import MetricsFile, MetricsPage
from agent.reconciler import REMEMBER, Ramp, Reconciler, Sighting
from agent.rows import Event, RoundRow
from agent.store import PRICES, Store
from agent.supervision import Pulse, Spell, pause, supervise
from agent.tariff.intervals import IntervalPrice
from agent.tariff.live import LiveTariff
from agent.tenure import Alone, Parts, Tenure
from agent.view import Picture, site_load_kw, view_fleet
from agent.vitals import Disk, Vitals, measure_disk
from drivers.addresses import parse_targets
from drivers.connect import connect
from drivers.discovery import ScanProgress, ScanResult, scan
from drivers.driver import Capabilities, Driver, Receipt, RestorePoint, Timings, Unsupported, WrongMachine
from drivers.reading import Address, Identity, MachineId, PowerMode, Reading

log = logging.getLogger("hashcost")

VALID_ROUNDS = 2.5
"""A reading stands for at most so many poll intervals; then it is stale, and what follows is a gap."""
ROUND_INTERVALS = 2
"""A round may run over its interval once, which skips a round; then it ends, whatever was not reached."""
BASELINE_ROUNDS = 20
ANSWERS_AGAIN = 3
"""Reads in a row after which a machine that did not answer does again."""
FIT_AGAIN = MAX_BACKOFF_ROUNDS + 4
"""Rounds in a row that fit; those in between in which the silent rest prove nothing."""
SCAN_PAUSE_S = 60.0
MARKET_MAX_AGE = timedelta(minutes=15)
OBLIGATIONS, SAID_AT = "obligations", "obligations_said_at"
"""Names of the settings that hold the calls of the grid, and when each caller said its last word."""
BOOK_S = 20.0
LEARN_S = 6 * 3600.0
"""How often it is looked whether an hour is to be booked."""
PRICES_LATE = timedelta(minutes=20)
"""A published price of an hour that is over may come so late; the hour is booked after that."""
FLEET_COMMANDS = "fleet_commands"
"""Name of the setting that holds what was answered to commands from afar."""
SUCCESSORS_SETTINGS = (HELD, CLOSED, OBLIGATIONS, FLEET_COMMANDS)
"""What a person or the grid said, and whoever has the machines has to know."""
SCAN_PROGRESS_S = 300.0
"""A scan that shows no progress for so long hangs."""
CONTROL_BEAT_S = 10.0

P = ParamSpec("P")
T = TypeVar("T")


class Agent:
    """One site's agent. An async context manager: entering opens the store, leaving writes what is due."""

    def __init__(
        self,
        config: Config,
        database: Path,
        *,
        clock: Clock | None = None,
        hashprice: HashpriceSource | None = None,
        power: PowerPriceSource | None = None,
        socket: Path | None = None,
        storage_problem: str | None = None,
        tenure: Tenure | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.config = config
        self._tenure = tenure or Alone()
        self.stands_by = self._tenure.stands_by
        self._parts = parts or membership.parts(config)
        self._partition = Partition(config, self._parts)
        self.book = config.terms_book()
        self.terms = self.book.site
        self._clock = clock or Clock()
        self._database = database
        self.pulse = Pulse()
        self.feeds = Feeds(config, self._clock, self.pulse)
        self._hashprice = hashprice or self.feeds.hashprice
        self._power = power or self.feeds.power
        # what only observes, on a database of its own, has no place for keys, and meets nobody over SSH
        host_keys = None if storage_problem else HostKeyFile(database.with_name("host_keys"))
        self._read_options = read_options(config, self._clock, host_keys)
        self._logins = logins(config)
        self._habits = config.alerts.habits(config.power.time_zone)
        place = config.announced_at()
        self._announcer = None if place is None else Announcer(place)
        self._poller = Poller(
            workers=config.poll.workers,
            deadline_s=ROUND_INTERVALS * config.poll.interval_s,
            clock=self._clock.now,
        )
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._drivers: dict[MachineId, Driver] = {}
        self._address_changed = asyncio.Event()
        self._socket = socket
        self.storage_problem = self._lasting_problem = storage_problem
        """Why nothing can be recorded, and so nothing is done; None while all is well."""
        self._stack = contextlib.AsyncExitStack()
        self._rounds = 0
        self._last_round: RoundRow | None = None
        self._disk = Disk()
        textfile = config.metrics.textfile
        self._metrics_file = None if textfile is None else MetricsFile(Path(textfile))
        self.skipped_rounds = 0
        self._overload = Spell(FIT_AGAIN)
        self._silent: dict[MachineId, Spell] = {}
        """The machines that do not answer, or not for long enough yet."""
        self._found: tuple[int, ...] = ()
        self._told_of_scan: set[str] = set()

    async def __aenter__(self) -> Self:
        journal = None if self.stands_by else membership.journal(self.config)
        self._store = await self._in_writer(Store, self._database, journal)
        await self._succeed()
        self.fleet = Fleet(await self._in_writer(self._store.load_machines))
        self._inventory = Inventory(self.fleet, self.config.groups, self._clock.now)
        prices = await self._in_writer(self._store.setting, PRICES)
        self.feeds.remember(accepted_figures(json.loads(prices or "{}")))
        await self._stack.enter_async_context(self.feeds)
        policy = self.config.policy()
        remembered = await self._in_writer(self._store.load_orders, self._clock.now() - REMEMBER)
        kept = {name: await self._in_writer(self._store.setting, name) for name in SUCCESSORS_SETTINGS}
        self._tenure.begin(
            remembered,
            {name: value for name, value in kept.items() if value is not None},
            token=int(await self._in_writer(self._store.setting, TENURE) or 0),
        )
        self.reconciler = await self._stack.enter_async_context(
            Reconciler(
                OrderWriter(self._store, self._writer, self._unwritten, self._tenure.keep_order),
                remembered,
                clock=self._clock.now,
                patience=Patience(),
                ramp=Ramp(machines=policy.batch_machines, kw_per_min=policy.ramp_kw_per_min),
                sending=self._sending,
            )
        )
        decided = await self._in_writer(self._store.load_decisions)
        self.curtailer = Curtailer(self.fleet, self.reconciler, policy, self._clock.now, decided)
        self.curtailer.held = self.reconciler.held = await self._setting(HELD)
        self.curtailer.closed = await self._setting(CLOSED)
        await self._in_writer(self._store.save_setting, MODE, policy.mode.value)
        calls = await self._in_writer(self._store.setting, OBLIGATIONS)
        schedule = self.config.obligations.schedule_file
        callers = {OPERATOR, *(() if schedule is None else (SCHEDULE,)), *self.feeds.grid.loops, SILENCE}
        known = [call_of(each) for each in json.loads(calls or "[]")]
        said_at = await self._in_writer(self._store.setting, SAID_AT)
        self.feeds.grid.remember(known, json.loads(said_at or "{}"))
        self._said_at = self.feeds.grid.said_at()
        self.obligations = Obligations(
            [call for call in known if call.source in callers],  # of those who may still call
            None if schedule is None else Path(schedule),
        )
        self.herald = Herald(
            self._habits,
            await self._in_writer(self._store.setting, ALERTS),
            clock=self._clock.now,
            save=self._save_if_possible,
            record=lambda event: self._save_events_if_possible([event]),
        )
        self._stack.callback(self.herald.close)
        self.operations = Operations(
            self.fleet,
            self.reconciler,
            self.curtailer,
            self.terms,
            clock=self._clock.now,
            record=lambda event: self._in_writer(self._store.save_events, [event]),
            save=lambda name, on: self._keep(name, "yes" if on else "no"),
            told=self._tenure.told,
            obligations=self.obligations,
            save_calls=self._save_calls,
            herald=self.herald,
            health=lambda: {
                "loops": self.pulse.as_data(),
                "storage_problem": self.storage_problem,
                **self._tenure.as_data(),
                **self._parts.as_data(),
            },
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.aclose()
            async with self._recording(proves=False):
                await self._in_writer(self._store.save_baselines, list(self.fleet))
        finally:
            await self._in_writer(self._store.close)
            self._writer.shutdown(wait=False)  # idle by now

    async def _succeed(self) -> None:
        """Take over what another agent left, before anything is done with what is remembered here."""
        if self.stands_by:
            await self._in_writer(self._store.drop_untold)
            return
        if (left := self._tenure.inheritance) is not None:
            await self._in_writer(self._store.inherit, left)
        _, waiting = await self._in_writer(self._store.adopt)
        for order in waiting:
            log.warning(
                "event=order_of_unknown_machine order=%d machine=%s state=%s",
                order.order_id, order.machine_id, order.state.value,
            )  # fmt: skip

    def _save_found(self) -> list[Order]:
        """Store the machines that are known; the orders that another agent left of new ones are ours with them."""
        self._store.save_machines(list(self.fleet), self.book)
        return [] if self.stands_by else self._store.adopt()[0]

    async def _keep(self, name: str, value: str) -> None:
        """Remember a setting that a successor would have to know as well."""
        await self._in_writer(self._store.save_setting, name, value)
        self._tenure.keep_setting(name, value)

    @contextlib.asynccontextmanager
    async def _sending(self, order: Order) -> AsyncIterator[None]:
        async with self._parts.sending(order), self._tenure.sending(order):
            yield

    async def _setting(self, name: str) -> bool:
        return await self._in_writer(self._store.setting, name) == "yes"

    async def run(self) -> None:
        """Scan and poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(supervise("scan", self._scan_loop, pulse=self.pulse))
            group.create_task(supervise("poll", self.poll_forever, pulse=self.pulse))
            if (listen := self.config.metrics.address()) is not None:
                page = MetricsPage(listen, lambda: metrics_text(self.vitals()))
                group.create_task(supervise("metrics", page.run))  # what only shows does not end the agent
            group.create_task(supervise("alerts", self.herald.run))
            if not self.stands_by:
                group.create_task(supervise("claims", self._parts.run))
            if self._announcer is not None and not self.stands_by:
                group.create_task(supervise("home_assistant", self._announcer.run))
            if (tell := membership.uplink(self.config, self._database, self._taken)) is not None:
                group.create_task(supervise("fleet", tell))  # nor what only tells others
            group.create_task(supervise("ledger", self.book_forever))
            commands = Commands(self.operations, clock=self._clock.now, stands_by=self.stands_by)
            listen_afar = membership.listener(
                self.config,
                commands,
                now=self._clock.now,
                load=lambda: self._in_writer(self._store.setting, FLEET_COMMANDS),
                save=lambda told: self._keep(FLEET_COMMANDS, told),
            )
            if listen_afar is not None and not self.stands_by:
                group.create_task(supervise("fleet_commands", listen_afar))
            if self._socket is not None:
                server = ControlServer(self._socket, commands, **self.config.control.model_dump())
                group.create_task(supervise("control", lambda: self._serve(server), pulse=self.pulse))

    async def _taken(self, epoch: str, sequence: int) -> None:
        await self._in_writer(self._store.take_out, epoch, sequence)

    async def _serve(self, server: ControlServer) -> None:
        """Serve commands, and show progress for as long as the socket is there."""
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run())
            await server.ready.wait()
            while server.ready.is_set():
                self.pulse.beat("control", next_within_s=6 * CONTROL_BEAT_S)
                await asyncio.sleep(CONTROL_BEAT_S)

    async def scan(self, progress: Callable[[ScanProgress], None] | None = None) -> Changes:
        """Look at every configured address once and bring the inventory up to date."""
        addresses = parse_targets(self.config.scan.addresses)
        known = {machine.address: machine.machine_id for machine in self.fleet}
        result = await scan(
            addresses,
            options=self._read_options,
            progress=progress,
            options_at=lambda address: self._logins.at(self._read_options, address, known),
        )
        changes = self._inventory.take_in(result)
        for machine_id in (*changes.reconnect, *changes.retired):
            self._drivers.pop(machine_id, None)
            self._poller.forget(machine_id)
        for machine_id in changes.retired:
            self._silent.pop(machine_id, None)
        async with self._recording():
            await self._record_scan(changes, result, len(addresses))
        self._log_scan(changes.events, (len(addresses), len(result.found), len(result.failures)))
        return changes

    def _log_scan(self, events: Sequence[Event], found: tuple[int, int, int]) -> None:
        """What the scan before did not find as well: a doubt that stays is told once."""
        subjects = {_subject(event): event for event in events}
        for subject, event in subjects.items():
            if subject not in self._told_of_scan:
                log.info("event=%s machine=%s detail=%r", event.kind, event.machine_id or "-", event.detail)
        if found != self._found:
            log.info("event=scanned addresses=%d machines=%d failed=%d", *found)
        self._told_of_scan, self._found = set(subjects), found

    async def _record_scan(self, changes: Changes, result: ScanResult, addresses: int) -> None:
        # the machines first of all, because a round that is under way may already show the new ones
        for order in await self._in_writer(self._save_found):
            self.reconciler.adopt(order)
            self._tenure.keep_order(order)
        await self._in_writer(self._store.retire, changes.retired, self._clock.now())
        scanned = Event(
            at=self._clock.now(),
            kind="scanned",
            detail=f"{addresses} addresses, {len(result.found)} machines, {len(result.failures)} failed",
        )
        await self._in_writer(self._store.save_events, [*changes.events, scanned])

    async def poll_once(self) -> Picture:
        """One round: read every machine that is due, appraise all of them, store it, show it."""
        machines = [(machine, self._driver(machine.machine_id)) for machine in self.fleet]
        result = await self._poller.poll(machines)
        for machine_id, outcome in result.outcomes.items():
            if (machine := self.fleet.get(machine_id)) is not None:
                machine.custom_power_w = self.book.of(machine_id, machine.group).custom_power_w
                machine.apply(outcome)
                self._note_failure(machine)
        if any(
            machine.failure is not None and machine.failure.kind == WrongMachine.kind
            for machine in self.fleet
        ):
            self._address_changed.set()
        self.curtailer.mark_ours()
        ordered = (*self.reconciler.open_orders(), *self.reconciler.standing())
        self._partition.mark(self.fleet, ordered)
        market = await take_market(self._hashprice, self._power, self._clock.now(), max_age=MARKET_MAX_AGE)
        picture = view_fleet(self.fleet, market, self.book, max_age=timedelta(seconds=self._valid_s))
        self.operations.picture = picture
        async with self._recording():
            await self._remember(picture, result)
            figures = self.feeds.figures(picture.market.hashprice)
            told = json.dumps(report(picture.market, figures, self.feeds.statuses()))
            await self._in_writer(self._store.save_setting, PRICES, told)
            await self._oblige(picture)
            if self._tenure.may_command:
                await self._act(picture)
        await self._show_vitals(result)
        return picture

    async def _act(self, picture: Picture) -> None:
        """Decide, and bring orders further."""
        await self.curtailer.decide(picture)
        changed = self.curtailer.changed()
        await self._in_writer(self._store.save_decisions, changed)
        self.curtailer.stored(changed)
        await self.reconciler.tick(self._sightings(picture))

    async def _show_vitals(self, result: RoundResult) -> None:
        """Take stock at the end of a round, for whoever watches the agent."""
        self._last_round = self._round_row(result)
        self._disk = await asyncio.to_thread(measure_disk, self._database)
        if self._metrics_file is not None:
            text = await asyncio.to_thread(metrics_text, self.vitals())
            await asyncio.to_thread(self._metrics_file.write, text)
        if (vitals := self.vitals()) is not None:
            await self.herald.look(vitals)
            if self._announcer is not None:
                self._announcer.tell(vitals, len(self.herald.firing()))

    async def _save_if_possible(self, name: str, value: str) -> None:
        """Of what must be told on a broken disk above all."""
        with contextlib.suppress(StorageError):
            await self._in_writer(self._store.save_setting, name, value)

    async def _save_events_if_possible(self, events: Sequence[Event]) -> None:
        with contextlib.suppress(StorageError):
            await self._in_writer(self._store.save_events, events)

    def vitals(self) -> Vitals | None:
        """How the agent and its site are doing; None before the first round is over."""
        picture, last = self.operations.picture, self._last_round
        if picture is None or last is None:
            return None
        obligation = self.curtailer.obligation
        return Vitals(
            picture=picture,
            mode=self.curtailer.policy.mode,
            held=self.curtailer.held,
            closed=self.curtailer.closed,
            orders=self.reconciler.all(),
            given_up=frozenset(machine_id for machine_id, _ in self.reconciler.given_up()),
            obligation_kw=None if obligation is None else obligation.target_kw,
            round=last,
            rounds=self._rounds,
            interval_s=self.config.poll.interval_s,
            loops=self.pulse.as_data(),
            sources=self.feeds.statuses(),
            storage_problem=self.storage_problem,
            disk=self._disk,
        )

    async def _oblige(self, picture: Picture) -> None:
        """Find out what the grid is owed now. What changed is stored before anything is done for it."""
        before, problem = list(self.obligations.calls), self.obligations.problem
        await asyncio.to_thread(self.obligations.read_schedule)
        for source, calls in self.feeds.grid.said().items():
            self.obligations.take(source, calls)
        if self.obligations.problem is not None and self.obligations.problem != problem:
            log.error("event=schedule_refused detail=%r", self.obligations.problem)
        elif problem is not None and self.obligations.problem is None:
            log.info("event=schedule_taken")
        load_kw = site_load_kw(picture.views)
        now = self._clock.now()
        call = self.obligations.step(now, load_kw)
        if self.obligations.calls != before:
            await self._save_calls(self.obligations.calls)
        if (said_at := self.feeds.grid.said_at()) != self._said_at:
            await self._in_writer(self._store.save_setting, SAID_AT, json.dumps(said_at))
            self._said_at = said_at
        call = self._first_of(call, now, load_kw)
        await self._account(call, None if load_kw is None else load_kw + self.curtailer.doubtful_kw(picture))
        owed = None
        if call is not None and call.target_kw is not None:
            owed = Obligation(target_kw=call.target_kw, approved=call.source == OPERATOR)
        if owed != self.curtailer.obligation:
            log.warning(
                "event=obligation target_kw=%s call=%s",
                "none" if owed is None else f"{owed.target_kw:g}", "-" if call is None else call.call_id,
            )  # fmt: skip
        self.curtailer.obligation = owed

    def _first_of(self, call: Call | None, now: datetime, load_kw: float | None) -> Call | None:
        """Where others may only propose, what an operator called for is carried out first, and then what is stricter is
        proposed."""
        own = self.obligations.owed(now, source=OPERATOR)
        if self.config.curtailment.mode is not Mode.RECOMMEND or own is None or own.target_kw is None:
            return call
        return own if load_kw is None or load_kw > own.target_kw else call

    async def _account(self, call: Call | None, load_kw: float | None) -> None:
        """Tell how the site stands to what it owes, whenever that changes."""
        respond = timedelta(seconds=self.config.obligations.respond_s)
        before, now = self.obligations.account, self._clock.now()
        self.obligations.account = after = None if call is None else account(call, now, load_kw, respond)
        if after is None or (
            before is not None and (before.call_id, before.standing) == (after.call_id, after.standing)
        ):
            return
        kind = f"obligation_{after.standing.value}"
        log.log(
            logging.WARNING if after.standing is not Standing.MET else logging.INFO,
            "event=%s detail=%r", kind, after.in_words(),
        )  # fmt: skip
        await self._in_writer(self._store.save_events, [Event(at=now, kind=kind, detail=after.in_words())])

    async def _save_calls(self, calls: Sequence[Call]) -> None:
        await self._keep(OBLIGATIONS, json.dumps([call.as_data() for call in calls]))

    @contextlib.asynccontextmanager
    async def _recording(self, *, proves: bool = True) -> AsyncIterator[None]:
        """What is not done where it cannot be recorded. Says once when that begins and once when it ends, which
        something that may have had nothing to write does not prove."""
        try:
            yield
        except StorageError as error:
            if self.storage_problem == self._lasting_problem:
                log.error("event=storage_failed detail=%r", str(error))  # noqa: TRY400 - a disk's fault, not ours
            self.storage_problem = str(error)
        else:
            if proves and self.storage_problem != self._lasting_problem:
                log.info("event=storage_recovered")
                self.storage_problem = self._lasting_problem

    def _sightings(self, picture: Picture) -> dict[MachineId, Sighting]:
        """Every machine that an order concerns, with its latest reading if that can be used as evidence."""
        max_age = timedelta(seconds=self._valid_s)
        concerned = {*self.reconciler.open_orders(), *self.reconciler.standing()}
        sightings = {}
        for machine_id in concerned:
            machine = self.fleet.get(machine_id)
            if machine is not None:
                usable = machine.situation(picture.market.at, max_age=max_age).problem is None
                reading = machine.reading if usable else None
                sightings[machine_id] = Sighting(driver=self._driver(machine_id), reading=reading)
        return sightings

    async def poll_forever(self, show: Callable[[Picture], None] | None = None) -> None:
        """Poll round after round at the configured interval, showing each picture, until cancelled."""
        while True:
            began = monotonic()
            picture = await self.poll_once()
            self.pulse.beat("poll", next_within_s=self._round_allowance_s)
            if show is not None:
                show(picture)
            wait_s, skipped = pause_s(self.config.poll.interval_s, monotonic() - began, random.uniform(-1, 1))
            self._count_skipped(skipped)
            await asyncio.sleep(wait_s)

    def _count_skipped(self, skipped: int) -> None:
        """Count, and say once that rounds no longer fit, and once that they do again."""
        self.skipped_rounds += skipped
        if not self._overload.look(bad=bool(skipped)):
            return
        if skipped:
            log.warning(
                "event=rounds_skipped count=%d total=%d interval_s=%g workers=%d",
                skipped, self.skipped_rounds, self.config.poll.interval_s, self.config.poll.workers,
            )  # fmt: skip
        else:
            log.info("event=rounds_fit_again skipped=%d", self.skipped_rounds)

    async def book_forever(self) -> None:
        """Book the ledger, hour by hour, until cancelled."""
        published = isinstance(self._power, LiveTariff)
        history = self.config.history
        corrections, archive = history.corrections_file, history.archive_directory
        books = Bookkeeper(
            self._database,
            self._store,
            self._in_writer,
            clock=self._clock.now,
            settled=self._final_prices,
            wait=PRICES_LATE if published else timedelta(),
            keep=history.keep_readings(),
            keep_steps=history.keep_steps(),
            archive=None if archive is None else Path(archive),
            corrections=None if corrections is None else Corrections(Path(corrections)),
        )
        learned_s = -math.inf
        while True:
            if self.storage_problem is None:
                async with self._recording():
                    await books.catch_up()
                    await books.prune()
                    if self._clock.monotonic_s() - learned_s >= LEARN_S:
                        await self.learn()
                        learned_s = self._clock.monotonic_s()
            await asyncio.sleep(BOOK_S)

    async def learn(self) -> None:
        """Take what the site's own history says of switching costs for models for which nothing is configured."""
        policy = self.config.policy()
        models = await asyncio.to_thread(learned, self._database, policy)
        self.curtailer.policy = with_learned_costs(policy, models)

    def _final_prices(self, now: datetime) -> tuple[Sequence[IntervalPrice], str]:
        """The power prices of the last time as they were finally published, and by whom."""
        power = self._power
        return (power.settled(now), power.status.name) if isinstance(power, LiveTariff) else ((), "")

    @property
    def _round_allowance_s(self) -> float:
        """A round may skip another, and takes its time to appraise and store."""
        return 2 * ROUND_INTERVALS * self.config.poll.interval_s + 60.0

    @property
    def _valid_s(self) -> float:
        return VALID_ROUNDS * self.config.poll.interval_s * self._clock.speed

    def _driver(self, machine_id: MachineId) -> Driver:
        driver = self._drivers.get(machine_id)
        if driver is None:
            machine = self.fleet[machine_id]
            try:
                known = {machine.address: machine_id}
                options = self._logins.at(self._read_options, machine.address, known)
                driver = connect(machine.identity, machine.address, options=options)
            except Unsupported as error:  # remembered by another version; the others are read all the same
                driver = _Unreadable(machine.identity, machine.address, error.detail)
            self._drivers[machine_id] = driver
        return driver

    def _round_row(self, result: RoundResult) -> RoundRow:
        failed = sum(isinstance(outcome, Failure) for outcome in result.outcomes.values())
        return RoundRow(
            began_at=result.began_at,
            took_s=result.took_s,
            machines=len(self.fleet),
            answered=len(result.outcomes) - failed,
            failed=failed,
            backed_off=result.backed_off,
            skipped_rounds=self.skipped_rounds,
        )

    async def _remember(self, picture: Picture, result: RoundResult) -> None:
        await self._in_writer(
            self._store.save_round,
            picture, self._round_row(result), self.fleet, result.outcomes.keys(), valid_s=self._valid_s,
        )  # fmt: skip
        self._rounds += 1
        if self._rounds % BASELINE_ROUNDS == 0:
            await self._in_writer(self._store.save_baselines, list(self.fleet))

    def _note_failure(self, machine: Machine) -> None:
        """One line when a machine stops answering and one when it answers again and again, none in between."""
        machine_id, failure = machine.machine_id, machine.failure
        if failure is None and machine_id not in self._silent:
            return
        spell = self._silent.setdefault(machine_id, Spell(ANSWERS_AGAIN))
        if not spell.look(bad=failure is not None):
            return
        if failure is not None:
            log.warning(
                "event=read_failed machine=%s kind=%s detail=%r", machine_id, failure.kind, failure.detail
            )
        else:
            log.info("event=read_recovered machine=%s", machine_id)
            del self._silent[machine_id]

    async def _scan_loop(self) -> None:
        """Scan at the configured interval, and soon after a poll found another machine where one should be."""
        while True:
            self._address_changed.clear()
            await self.scan(lambda _: self.pulse.beat("scan", next_within_s=SCAN_PROGRESS_S))
            self.pulse.beat("scan", next_within_s=self.config.scan.interval_s + SCAN_PROGRESS_S)
            await asyncio.sleep(SCAN_PAUSE_S)
            await pause(self._address_changed, self.config.scan.interval_s - SCAN_PAUSE_S)

    async def _in_writer(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in the store's own thread. Raises `StorageError` where the disk does not play along."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, lambda: function(*args, **kwargs))
        except sqlite3.Error as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: sqlite3.Error) -> StorageError:
        return StorageError(f"{self._database}: cannot be written ({error})")


def _subject(event: Event) -> str:
    """What an event of a scan is about. Of an address that cannot be read only the kind of failure counts: what it
    says instead of an answer may be other at each scan."""
    about = event.detail.split(": ")[:2] if event.kind == SCAN_FAILURE else [event.detail]
    return " ".join((event.kind, event.machine_id or "", *about))


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """The `Driver` of a machine that this version cannot read: every read says so."""

    identity: Identity
    address: Address
    detail: str
    capabilities: ClassVar = Capabilities(can_sleep=False, power_modes=frozenset(), reports_power=False)
    timings: ClassVar = Timings(sleep_within_s=0.0, wake_within_s=0.0)

    async def read(self) -> Reading:
        raise Unsupported(self.address, self.detail)

    async def identify(self) -> Identity:
        raise Unsupported(self.address, self.detail)

    async def restore_point(self) -> RestorePoint:
        raise Unsupported(self.address, self.detail)

    async def sleep(self) -> Receipt:
        raise Unsupported(self.address, self.detail)

    async def wake(self, point: RestorePoint) -> Receipt:
        raise Unsupported(self.address, self.detail)

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        raise Unsupported(self.address, self.detail)
