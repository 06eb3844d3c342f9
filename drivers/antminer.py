"""Stock Antminers. Reads with two RPC commands in every poll, and rarely the web interface that knows the rest.

RPC (TCP 4028) has hashrate, boards, fans and on some firmware watts. The web interface (port 80, digest
login) alone has the MAC and the work mode. A machine whose web interface is closed or refuses our login is
still read: its mode is unknown then, and the reading says so.
"""

import asyncio
from dataclasses import replace
from datetime import datetime

from drivers import antminer_answers as answers
from drivers._pyasic import AntminerRpc, class_name, expected_boards
from drivers.antminer_control import AntminerControl
from drivers.antminer_power import ReportedPower
from drivers.antminer_slow import SlowFacts, web_access
from drivers.catalogue import Nameplate, nameplate
from drivers.commands import Commanded, Control
from drivers.digest import Digest
from drivers.driver import (
    AuthenticationFailed,
    Capabilities,
    Incomplete,
    ReadOptions,
    Refused,
    Unsupported,
    WrongMachine,
)
from drivers.plausibility import judged
from drivers.power import power_truth
from drivers.reading import Address, Family, Identity, Reading, RunState
from drivers.reads import WindDown, check_identity, deadline, endpoint, run_state
from drivers.ssh import SshControl, stopped_reading
from drivers.strangers import refuse_stranger
from drivers.transport import CGMINER_PORT, Answer
from drivers.values import mac, text

RAMP_S = 900.0
"""A stock Antminer hashes in full within 15 minutes of its start."""
_OPTIONAL_SHARE = 0.75
_WITHOUT_SLEEP = ("S9", "T9", "S17", "T17")


class Antminer(Commanded):
    """One stock Antminer. Not for concurrent reads: it keeps what is slow to read between them."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        port = address.port or CGMINER_PORT
        self._identity = identity
        self._address = address
        self._options = options
        self._rpc = AntminerRpc(endpoint(address, port, options))
        self._slow = SlowFacts(identity, address, options, self._rpc)
        self._power = ReportedPower(address, options, port)
        self._boards_built = expected_boards(identity.driver_class)
        self._signs: tuple[str | None, str | None] | None = None
        self._previous_ths: float | None = None
        self._wind_down = WindDown()
        self._shell = _shell(identity, address, options)
        why_not = "" if self._shell else _why_no_commands(identity, address)
        control: Control | None = self._shell
        if control is None and not why_not:
            control = AntminerControl(identity, address, options, self._rpc, self._slow)
        super().__init__(address, control, self._slow.outdated, why_not)

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
        """X19 and X21 sleep by configuration; older ones cannot, nor do we reach it behind a forwarded port."""
        return Capabilities(
            can_sleep=self.can_sleep,
            power_modes=self.power_modes,
            reports_power=self._power.has_route,
        )

    async def identify(self) -> Identity:
        """Ask the machine who it is now."""
        return await identify(self._address, self._options)

    async def read(self) -> Reading:
        """Read the machine once. Raises `DriverError`."""
        began_at = self._options.clock()
        optional_until = asyncio.get_running_loop().time() + _OPTIONAL_SHARE * self._options.deadline_s
        try:
            async with deadline(self._address, self._options.deadline_s):
                stats = await self._rpc.stats()
                live = answers.live(stats, await self._rpc.summary(), self._boards_built)
                self._check_signs(live)
                power_w = await self._optional_parts(stats, live, optional_until)
                if live.hashrate_ths is None:
                    await refuse_stranger(self._identity, self._address, self._options)
        except WrongMachine:
            self._signs = None
            self._slow.suspect()
            raise
        except Refused:
            if self._shell is None or await self._shell.mines():
                raise
            self._previous_ths = 0.0
            return stopped_reading(began_at, self._options.clock(), self._slow.firmware)
        return self._reading(self._resolve_silence(live), power_w, began_at)

    def _check_signs(self, live: answers.Live) -> None:
        """The cheap check: a changed type or controller id means asking for the MAC at once."""
        if self._identity.mac is None:
            check_identity(self._address, self._identity, mac=None, serial=live.miner_id)
        signs = (live.model, live.miner_id)
        if None in signs:
            return
        if self._signs not in (None, signs):
            self._slow.suspect()
        self._signs = signs

    async def _optional_parts(self, stats: Answer, live: answers.Live, until: float) -> float | None:
        """Slow facts, and reported watts. Being late with these does not fail a reading."""
        hashing = bool(live.hashrate_ths)
        try:
            async with asyncio.timeout_at(until):
                await self._slow.refresh(hashing=hashing)
                return await self._power.read_w(stats, hashing=hashing)
        except TimeoutError:
            self._slow.too_late()
            return None

    def _resolve_silence(self, live: answers.Live) -> answers.Live:
        """Empty `STATS` and `SUMMARY` of a machine that was told to sleep are a measured 0: its RPC answers,
        and nothing hashes. From any other machine they are no reading."""
        if live.hashrate_ths is not None:
            return live
        if live.silent and self._slow.mode.told_to_sleep:
            return replace(live, hashrate_ths=0.0)
        raise Incomplete(self._address, "; ".join(["no hashrate in stats and summary", *self._slow.notes]))

    def _reading(self, live: answers.Live, reported_w: float | None, began_at: datetime) -> Reading:
        plate = nameplate(self._identity.model, live.expected_ths)
        state = self._run_state(live, plate)
        self._previous_ths = live.hashrate_ths
        power = power_truth(reported_w, live.hashrate_ths, plate)
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
            errors=(*self._slow.complaints, *self._slow.notes),
            firmware=self._slow.firmware,
        )
        return judged(reading, plate)

    def _run_state(self, live: answers.Live, plate: Nameplate | None) -> RunState:
        """By its configuration and its hashrate, which decides where the configuration contradicts itself."""
        mode = self._slow.mode
        undecided = mode.contradiction is not None and bool(live.hashrate_ths)
        told = None if undecided else mode.told_to_sleep
        return run_state(
            hashrate_ths=live.hashrate_ths,
            expected_ths=live.expected_ths or (plate.hashrate_ths if plate else None),
            told_to_sleep=told,
            told_for_s=self._wind_down.seconds(told, self._options.clock()),
            uptime_s=live.uptime_s,
            ramp_s=RAMP_S,
            previous_ths=self._previous_ths,
            power_mode=self._slow.mode.power_mode,
        )


def cannot_sleep(model: str) -> bool:
    """Whether stock firmware of this model has no sleep in its API."""
    return any(old in model.upper() for old in _WITHOUT_SLEEP)


def _shell(identity: Identity, address: Address, options: ReadOptions) -> SshControl | None:
    """The shell of a machine that can only be stopped there, if there is a login for it."""
    return SshControl.where_allowed(identity, address, options) if cannot_sleep(identity.model) else None


def _why_no_commands(identity: Identity, address: Address) -> str:
    """Why the machine can only be read; empty if it can be commanded."""
    if cannot_sleep(identity.model):
        return f"{identity.model} cannot sleep over its API; over SSH it can, with [credentials.ssh]"
    return "its web interface is not reached behind a forwarded port" if address.port is not None else ""


async def identify(address: Address, options: ReadOptions) -> Identity:
    """Who answers at an address as a stock Antminer. Raises `DriverError`.

    Where the web interface is closed or refuses our login there is no MAC, and the controller's `miner_id`
    stands in as serial. One that is merely slow or broken is a failure: with another identity for as long as
    that lasts, a known machine would look like a stranger.
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
    """`get_system_info`, or nothing if the web interface is closed, denied or has no such page."""
    web = web_access(address, options, Digest.of(options.login(Family.ANTMINER)))
    if web is None:
        return {}
    try:
        info: Answer = await web.get_system_info()
    except (AuthenticationFailed, Refused, Unsupported):
        return {}
    return info if mac(info.get("macaddr")) else {}
