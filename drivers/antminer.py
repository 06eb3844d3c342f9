"""Reads stock Antminers: every poll two RPC commands, and rarely the web interface that knows the rest.

RPC (TCP 4028) has hashrate, boards, fans and on some firmware watts. The web interface (port 80, digest
login) alone has the MAC and the work mode. A machine that does not hash is asked for its mode every time,
because only that tells asleep from broken. A machine whose web interface is closed or refuses our login is
still read: its mode is unknown then, and the reading says so.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from drivers import antminer_answers as answers
from drivers._pyasic import AntminerRpc, AntminerWeb, class_name, expected_boards
from drivers.antminer_power import ReportedPower
from drivers.catalogue import Nameplate, nameplate
from drivers.driver import (
    AuthenticationFailed,
    Capabilities,
    DriverError,
    Incomplete,
    OutOfSockets,
    ReadOptions,
    Unsupported,
    WrongMachine,
)
from drivers.plausibility import judged
from drivers.power import power_truth
from drivers.reading import Address, Family, Identity, Pool, PowerMode, Reading, RunState
from drivers.reads import Due, check_identity, deadline, endpoint, run_state
from drivers.transport import CGMINER_PORT, Answer
from drivers.values import mac, text

WEB_PORT = 80
RAMP_S = 900.0
"""A stock Antminer hashes in full within 15 minutes of its start."""
_WEB_SHARE = 0.5
_OPTIONAL_SHARE = 0.75
_MODES = frozenset({PowerMode.NORMAL, PowerMode.LOW})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slow:
    """What is not asked in every poll. `notes` say what could not be read, and go into the reading."""

    mode: answers.Mode = answers.UNREAD_MODE
    pools: tuple[Pool, ...] = ()
    errors: tuple[str, ...] = ()
    firmware: str | None = None
    notes: tuple[str, ...] = ()


class Antminer:
    """One stock Antminer. Not for concurrent reads: it keeps what is slow to read between them."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        self._identity = identity
        self._address = address
        self._options = options
        port = address.port or CGMINER_PORT
        self._rpc = AntminerRpc(endpoint(address, port, options))
        self._web = _web(address, options)
        self._power = ReportedPower(address, options, port)
        self._boards_built = expected_boards(identity.driver_class)
        self._slow = _Slow(firmware=identity.firmware)
        self._slow_due = Due()
        self._web_due = Due()
        self._signs: tuple[str | None, str | None] | None = None
        self._previous_ths: float | None = None

    @property
    def address(self) -> Address:
        """Where the machine answers."""
        return self._address

    @property
    def identity(self) -> Identity:
        """Who it was when it was identified."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """X19 and X21 sleep by configuration; older ones cannot."""
        modern = not any(old in self._identity.model.upper() for old in ("S9", "T9", "S17", "T17"))
        return Capabilities(
            can_sleep=modern,
            power_modes=_MODES if modern else frozenset(),
            reports_power=self._power.has_route,
        )

    async def identify(self) -> Identity:
        """Ask the machine who it is now."""
        return await identify(self._address, self._options)

    async def read(self) -> Reading:
        """Read the machine once. Raises `DriverError`."""
        began_at = self._options.clock()
        try:
            async with deadline(self._address, self._options.deadline_s):
                stats = await self._rpc.stats()
                live = answers.live(stats, await self._rpc.summary(), self._boards_built)
                self._check_signs(live)
                power_w = await self._optional_parts(stats, live)
        except WrongMachine:
            self._signs = None
            raise
        live = self._resolve_silence(live)
        return self._reading(live, power_w, began_at=began_at)

    # -- who is it -----------------------------------------------------------------------------------

    def _check_signs(self, live: answers.Live) -> None:
        """The cheap check: a changed type or controller id means asking for the MAC at once."""
        if self._identity.mac is None:
            check_identity(self._address, self._identity, mac=None, serial=live.miner_id)
        signs = (live.model, live.miner_id)
        if None in signs:
            return
        if self._signs not in (None, signs):
            self._slow_due = self._web_due = Due()
        self._signs = signs

    # -- what is not asked every time ----------------------------------------------------------------

    async def _optional_parts(self, stats: Answer, live: answers.Live) -> float | None:
        """Slow facts if they are due or needed, and watts. Being late with these does not fail a reading."""
        hashing = bool(live.hashrate_ths)
        try:
            async with asyncio.timeout(self._options.deadline_s * _OPTIONAL_SHARE):
                if self._slow_due.now():
                    await self._read_slow()
                elif not hashing:
                    await self._read_mode()
                return await self._power.read_w(stats, hashing=hashing)
        except TimeoutError:
            self._slow = replace(self._slow, mode=answers.UNREAD_MODE, notes=("slow part: no time left",))
            return None

    async def _read_slow(self) -> None:
        self._slow_due.again_in(self._options.slow_interval_s)
        self._slow = _Slow(firmware=self._identity.firmware)
        try:
            self._slow = replace(self._slow, pools=answers.pools(await self._rpc.pools()))
        except OutOfSockets:
            raise
        except DriverError as error:
            self._note("pools", error)
        if await self._read_mode() and self._web is not None:
            await self._read_web_facts(self._web)

    async def _read_mode(self) -> bool:
        """Read the configuration's work mode; False if the web interface would not say."""
        self._slow = replace(self._slow, mode=answers.UNREAD_MODE, notes=())
        if self._web is None:
            self._slow = replace(
                self._slow, notes=("mode unknown: no web interface behind a forwarded port",)
            )
            return False
        if not self._web_due.now():
            self._slow = replace(self._slow, notes=("mode unknown: the web interface refused our login",))
            return False
        try:
            configuration = await self._web.get_miner_conf()
        except OutOfSockets:
            raise
        except DriverError as error:
            self._web_failed(error)
            return False
        if answers.is_configuration(configuration):
            self._slow = replace(self._slow, mode=answers.mode(configuration))
        else:
            self._slow = replace(self._slow, notes=("mode unknown: not a configuration",))
        return True

    async def _read_web_facts(self, web: AntminerWeb) -> None:
        """MAC (and with it the identity), firmware, and what the web interface complains about."""
        try:
            info = await web.get_system_info()
            check_identity(
                self._address,
                self._identity,
                mac=mac(info.get("macaddr")),
                serial=_serial(self._identity, info),
            )
            self._slow = replace(self._slow, firmware=answers.firmware(info) or self._slow.firmware)
            self._slow = replace(self._slow, errors=answers.errors(await web.summary()))
        except (OutOfSockets, WrongMachine):
            raise
        except Unsupported:
            return
        except DriverError as error:
            self._web_failed(error)

    def _web_failed(self, error: DriverError) -> None:
        """After a refused login leave the web alone for long (it locks out), after anything else a little."""
        self._note("mode unknown" if self._slow.mode is answers.UNREAD_MODE else "web", error)
        if isinstance(error, AuthenticationFailed):
            self._web_due.again_in(self._options.denied_retry_s)
        self._slow_due.again_in(self._options.slow_interval_s / 10)

    def _note(self, what: str, error: DriverError) -> None:
        note = f"{what}: {error.kind} ({error.detail})"
        self._slow = replace(self._slow, notes=(*self._slow.notes, note))

    # -- the reading ---------------------------------------------------------------------------------

    def _resolve_silence(self, live: answers.Live) -> answers.Live:
        """Empty `STATS` and `SUMMARY` of a machine that was told to sleep are a measured 0: its RPC answers,
        and nothing hashes. From any other machine they are no reading."""
        if live.hashrate_ths is not None:
            return live
        if live.silent and self._slow.mode.told_to_sleep:
            return replace(live, hashrate_ths=0.0)
        detail = "no hashrate in stats and summary"
        raise Incomplete(self._address, f"{detail}; {self._slow.notes[0]}" if self._slow.notes else detail)

    def _reading(self, live: answers.Live, reported_w: float | None, *, began_at: datetime) -> Reading:
        plate = nameplate(self._identity.model, live.expected_ths)
        state = self._run_state(live, plate)
        self._previous_ths = live.hashrate_ths
        power = power_truth(reported_w, live.hashrate_ths, plate)
        contradiction = self._slow.mode.contradiction
        reading = Reading(
            began_at=began_at,
            ended_at=self._options.clock(),
            run_state=state,
            hashrate_ths=live.hashrate_ths,
            expected_hashrate_ths=live.expected_ths,
            power_w=power.power_w,
            power_source=power.source,
            power_error=power.error,
            power_mode=self._slow.mode.power_mode,
            boards=live.boards,
            fans_rpm=live.fans_rpm,
            pools=self._slow.pools,
            uptime_s=live.uptime_s,
            errors=(*self._slow.errors, *self._slow.notes, *((contradiction,) if contradiction else ())),
            firmware=self._slow.firmware,
        )
        return judged(reading, plate)

    def _run_state(self, live: answers.Live, plate: Nameplate | None) -> RunState:
        return run_state(
            hashrate_ths=live.hashrate_ths,
            expected_ths=live.expected_ths or (plate.hashrate_ths if plate else None),
            told_to_sleep=self._slow.mode.told_to_sleep,
            uptime_s=live.uptime_s,
            ramp_s=RAMP_S,
            previous_ths=self._previous_ths,
        )


def _web(address: Address, options: ReadOptions) -> AntminerWeb | None:
    """Behind a forwarded port there is no web interface that surely belongs to the same machine."""
    if address.port is not None:
        return None
    login = options.login(Family.ANTMINER)
    return AntminerWeb(endpoint(address, WEB_PORT, options, share=_WEB_SHARE), login)


def _serial(identity: Identity, info: Answer) -> str | None:
    """The web's serial, comparable only with one that came from the web (a machine then has a MAC too)."""
    return text(info.get("serinum")) if identity.mac else None


async def identify(address: Address, options: ReadOptions) -> Identity:
    """Who answers at an address as a stock Antminer. Raises `DriverError`.

    Without its web interface a machine has no MAC; the controller's `miner_id` stands in as its serial.
    """
    rpc = AntminerRpc(endpoint(address, address.port or CGMINER_PORT, options))
    async with deadline(address, options.deadline_s):
        version = await rpc.version()
        info = await _system_info(address, options)
        live = None if info else answers.live(await rpc.stats(), {}, None)
    model = answers.model(version) or text(info.get("minertype")) or (live.model if live else None)
    if model is None:
        raise Incomplete(address, "an Antminer that does not name its model")
    return Identity(
        family=Family.ANTMINER,
        make="Antminer",
        model=model,
        firmware=answers.firmware(info),
        mac=mac(info.get("macaddr")),
        serial=text(info.get("serinum")) if info else (live.miner_id if live else None),
        driver_class=class_name("ANTMINER", model),
    )


async def _system_info(address: Address, options: ReadOptions) -> Answer:
    """`get_system_info`, or nothing if the web interface is closed, denied or broken."""
    web = _web(address, options)
    if web is None:
        return {}
    try:
        info: Answer = await web.get_system_info()
    except OutOfSockets:
        raise
    except DriverError:
        return {}
    return info if mac(info.get("macaddr")) else {}
