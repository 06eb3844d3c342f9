"""Whatsminers: API V2 on TCP 4028, one command per connection, and API V3 on TCP 4433, one connection per reading.

Never a joined command: how many may be joined, and which, depends on firmware.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime

from drivers import whatsminer_answers as answers
from drivers._pyasic import WhatsminerV2Rpc, WhatsminerV3Rpc, class_name
from drivers.catalogue import nameplate
from drivers.commands import Commanded, Control
from drivers.driver import (
    Capabilities,
    DriverError,
    Incomplete,
    OutOfSockets,
    ReadOptions,
    Refused,
)
from drivers.plausibility import judged
from drivers.power import power_truth
from drivers.reading import Address, Family, Identity, Pool, PowerMode, Reading
from drivers.reads import Due, WindDown, check_identity, deadline, endpoint, run_state
from drivers.strangers import refuse_stranger
from drivers.transport import CGMINER_PORT, WHATSMINER_V3_PORT, Answer
from drivers.whatsminer_control import WhatsminerV2Control, WhatsminerV3Control, v3_required

RAMP_S = 720.0
"""A Whatsminer hashes in full within 12 minutes of its start."""
_MAKE = "Whatsminer"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slow:
    """What is not asked in every poll. `notes` say what could not be read."""

    pools: tuple[Pool, ...] = ()
    errors: tuple[str, ...] = ()
    power_mode: PowerMode | None = None
    notes: tuple[str, ...] = ()


class _Whatsminer(Commanded):
    """What both protocols share: the slow schedule and how facts become a reading."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions, control: Control) -> None:
        super().__init__(address, control, self._outdate)
        self._identity = identity
        self._address = address
        self._options = options
        self._slow = _Slow()
        self._slow_due = Due()
        self._previous_ths: float | None = None
        self._wind_down = WindDown()

    def _outdate(self) -> None:
        self._slow_due = Due()

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
        """Whatsminers sleep, have three power modes and measure their watts."""
        return Capabilities(can_sleep=self.can_sleep, power_modes=self.power_modes, reports_power=True)

    async def read(self) -> Reading:
        """Read the machine once. Raises `DriverError`."""
        began_at = self._options.clock()
        async with deadline(self._address, self._options.deadline_s):
            live = await self._read_live()
            check_identity(self._address, self._identity, mac=live.mac, serial=live.serial)
            if self._slow_due.now():
                self._slow_due.again_within(self._options.slow_interval_s)
                self._slow = await self._read_slow()
        return self._reading(live, began_at)

    async def _read_live(self) -> answers.Live:
        raise NotImplementedError

    async def _read_slow(self) -> _Slow:
        raise NotImplementedError

    def _measured(self, live: answers.Live, why: str | None) -> answers.Live:
        """No hashrate from a machine that says it is stopped is a measured 0: the machine answers, and the
        process that hashes does not run. From any other machine it is no reading."""
        if live.hashrate_ths is not None:
            return live
        if live.told_to_sleep:
            return replace(live, hashrate_ths=0.0)
        raise Incomplete(self._address, f"no hashrate: {why or 'it is not in the answer'}")

    def _reading(self, live: answers.Live, began_at: datetime) -> Reading:
        plate = nameplate(self._identity.model, live.expected_ths)
        power = power_truth(live.power_w, live.hashrate_ths, plate)
        state = run_state(
            hashrate_ths=live.hashrate_ths,
            expected_ths=live.expected_ths or (plate.hashrate_ths if plate else None),
            told_to_sleep=live.told_to_sleep,
            told_for_s=self._wind_down.seconds(live.told_to_sleep, began_at),
            uptime_s=live.uptime_s,
            ramp_s=RAMP_S,
            previous_ths=self._previous_ths,
            tuning=live.tuning,
            power_mode=live.power_mode or self._slow.power_mode,
        )
        self._previous_ths = live.hashrate_ths
        reading = Reading(
            began_at=began_at,
            ended_at=self._options.clock(),
            run_state=state,
            hashrate_ths=live.hashrate_ths,
            expected_hashrate_ths=live.expected_ths,
            power_w=power.power_w,
            power_source=power.source,
            power_error=power.error,
            power_mode=live.power_mode or self._slow.power_mode,
            boards=live.boards,
            fans_rpm=live.fans_rpm,
            inlet_temp_c=live.inlet_temp_c,
            pools=self._slow.pools,
            uptime_s=live.uptime_s,
            errors=tuple(dict.fromkeys([*live.errors, *self._slow.errors, *self._slow.notes])),
            firmware=live.firmware or self._identity.firmware,
        )
        return judged(reading, plate)


class WhatsminerV2(_Whatsminer):
    """One Whatsminer with firmware up to November 2024."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        super().__init__(identity, address, options, WhatsminerV2Control(identity, address, options))
        self._rpc = WhatsminerV2Rpc(endpoint(address, address.port or CGMINER_PORT, options))

    async def identify(self) -> Identity:
        """Ask the machine who it is now."""
        return await identify_v2(self._address, self._options)

    async def _read_live(self) -> answers.Live:
        status = await self._rpc.status()
        asleep = answers.v2_told_to_sleep(status)
        summary = await (_unless_down(self._rpc.summary()) if asleep else self._rpc.summary())
        devs = {} if asleep else await self._rpc.devs()
        live = answers.v2_live(status, summary, devs)
        if live.mac is None:
            live = replace(live, mac=await self._asked_mac())
        if live.hashrate_ths is None and not asleep:
            await refuse_stranger(self._identity, self._address, self._options)
        return self._measured(live, answers.refusal(summary))

    async def _asked_mac(self) -> str | None:
        """The MAC of a machine whose `summary` has none: one with V3 that answers V2 here, or one asleep."""
        return answers.v2_who({}, {}, await self._rpc.get_miner_info(), {}).mac

    async def _read_slow(self) -> _Slow:
        found: dict[str, Answer] = {}
        notes: list[str] = []
        for command in ("pools", "get_error_code", "get_miner_info"):
            answer = await _optional(self._rpc.send_command(command), notes, command)
            found[command] = {} if answers.refusal(answer) else answer
        who = answers.v2_who({}, {}, found["get_miner_info"], {})
        check_identity(self._address, self._identity, mac=who.mac, serial=who.serial)
        return _Slow(
            pools=answers.pools(found["pools"]),
            errors=answers.v2_errors(found["get_error_code"]),
            notes=tuple(notes),
        )


class WhatsminerV3(_Whatsminer):
    """One Whatsminer with firmware after November 2024."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        super().__init__(identity, address, options, WhatsminerV3Control(identity, address, options))
        self._rpc = WhatsminerV3Rpc(endpoint(address, address.port or WHATSMINER_V3_PORT, options))

    async def identify(self) -> Identity:
        """Ask the machine who it is now."""
        return await identify_v3(self._address, self._options)

    async def _read_live(self) -> answers.Live:
        async with self._rpc.one_connection():
            device = v3_required(self._address, await self._device_info())
            status = await self._rpc.get_miner_status_summary()
            edevs = await self._rpc.get_miner_status_edevs()
        live = answers.v3_live(device, answers.v3_message(status) or {}, answers.v3_message(edevs) or {})
        return self._measured(live, None if answers.v3_message(status) else str(status.get("msg")))

    async def _device_info(self) -> Answer:
        try:
            answer: Answer = await self._rpc.get_device_info()
        except Refused:
            await refuse_stranger(self._identity, self._address, self._options)
            raise
        return answer

    async def _read_slow(self) -> _Slow:
        notes: list[str] = []
        pools = await _optional(self._rpc.get_miner_status_pools(), notes, "pools")
        setting = await _optional(self._rpc.get_miner_setting(), notes, "get.miner.setting")
        mode = (answers.v3_message(setting) or {}).get("power-mode")
        return _Slow(
            pools=answers.v3_pools(answers.v3_message(pools) or {}),
            power_mode=answers.power_mode(mode),
            notes=tuple(notes),
        )


async def _optional(asked: Awaitable[Answer], notes: list[str], what: str) -> Answer:
    """An answer that a reading can do without; a failure is noted."""
    try:
        return await asked
    except OutOfSockets:
        raise
    except DriverError as error:
        notes.append(f"{what}: {error.kind} ({error.detail})")
        return {}


async def identify_v2(address: Address, options: ReadOptions) -> Identity:
    """Who answers at an address as a Whatsminer with API V2. Raises `DriverError`.

    Some firmware does not say its model while it sleeps; the model is then the bare make.
    """
    rpc = WhatsminerV2Rpc(endpoint(address, address.port or CGMINER_PORT, options))
    async with deadline(address, options.deadline_s):
        summary, details = await _unless_down(rpc.summary()), await _unless_down(rpc.devdetails())
        who = answers.v2_who(summary, await rpc.get_version(), await rpc.get_miner_info(), details)
    return _identity(address, Family.WHATSMINER_V2, who)


async def _unless_down(asked: Awaitable[Answer]) -> Answer:
    """The mining process's answer; nothing if it does not run, as on some machines that are asleep."""
    try:
        return await asked
    except Refused:
        return {}


async def identify_v3(address: Address, options: ReadOptions) -> Identity:
    """Who answers at an address as a Whatsminer with API V3. Raises `DriverError`."""
    rpc = WhatsminerV3Rpc(endpoint(address, address.port or WHATSMINER_V3_PORT, options))
    async with deadline(address, options.deadline_s):
        who = answers.v3_who(v3_required(address, await rpc.get_device_info()))
    return _identity(address, Family.WHATSMINER_V3, who)


def _identity(address: Address, family: Family, who: answers.Who) -> Identity:
    if who.mac is None and who.serial is None and who.model is None:
        raise Incomplete(address, "no model, MAC or serial in its answers")
    model = who.model or _MAKE
    return Identity(
        family=family,
        make=_MAKE,
        model=model,
        firmware=who.firmware,
        mac=who.mac,
        serial=who.serial,
        driver_class=class_name("WHATSMINER", model.replace("_", "")[:-1] + "0"),
    )
