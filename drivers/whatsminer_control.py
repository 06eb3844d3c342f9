"""Commands Whatsminers: encrypted under a token (V2), or signed with a salt (V3).

A Whatsminer keeps its power mode while it sleeps, so waking is starting; only if somebody changed the mode
meanwhile is it put back first. Tokens, salts and passwords are in no message and no log.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drivers import whatsminer_answers as answers
from drivers._pyasic import WhatsminerV2Rpc, WhatsminerV3Rpc, whatsminer_token
from drivers.commands import Prepared, before_sending, receipt
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    DriverError,
    Incomplete,
    Malformed,
    ReadOptions,
    Receipt,
    RestorePoint,
    Timings,
    Unsupported,
)
from drivers.reading import Address, Family, Identity, PowerMode
from drivers.reads import check_identity, deadline, endpoint
from drivers.transport import CGMINER_PORT, WHATSMINER_V3_PORT, Answer
from drivers.values import flag, mapping, text, whole

TOKEN_LIFE_S = 25 * 60.0
"""A token is good for 30 minutes, and few can be good at once: it is used again, but not to its last minute."""
_V2_OK = 131
_V2_BAD_TOKEN = 135
_V2_UNREADABLE = 23
_V2_UNKNOWN = {14, 134}
_V2_REMEDIES = {
    45: "writing is closed: change the factory password once with the vendor's tool",
    135: "it takes no token; its clock or password may have changed",
    136: "no token is free: too many were issued within 30 minutes, by other programs too",
}
_V3_DENIED = {45, -4}
_V3_UNKNOWN = -2
_V2_MODES = {
    PowerMode.LOW: "set_low_power",
    PowerMode.NORMAL: "set_normal_power",
    PowerMode.HIGH: "set_high_power",
}


class _WhatsminerControl:
    """What both protocols share: restoring, and the order of things."""

    timings = Timings(sleep_within_s=60.0, wake_within_s=720.0)
    power_modes = frozenset({PowerMode.NORMAL, PowerMode.LOW, PowerMode.HIGH})

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        self._identity = identity
        self._address = address
        self._options = options
        self._prepared = Prepared[RestorePoint]()

    async def restore_point(self) -> RestorePoint:
        """Its power mode, which it also tells while it sleeps."""
        self._prepared.take()
        async with deadline(self._address, self._options.deadline_s):
            await self._meet()
            point = RestorePoint(power_mode=await self._power_mode(), settings={})
        self._prepared.keep(point)
        return point

    async def sleep(self) -> Receipt:
        """Stop hashing."""
        if self._prepared.take() is None:
            await self._met()
        return await receipt(self._stop())

    async def wake(self, point: RestorePoint) -> Receipt:
        """Start hashing; before that the mode of `point`, should it have changed."""
        note = await self._restored(point)
        found = await receipt(self._start())
        return Receipt(said=found.said, detail=f"{found.detail}{note}")

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Mine in another mode."""
        async with deadline(self._address, self._options.deadline_s):
            await self._meet()
            if await self._stopped():
                raise CommandRefused(self._address, "sleeps: a mode would wake it")
        return await receipt(self._set_mode(mode))

    async def _restored(self, point: RestorePoint) -> str:
        """Put the mode back if it is known to be another; what to say about that. A machine that does not
        take it is still woken: readings show its mode."""
        async with deadline(self._address, self._options.deadline_s):
            await self._meet()
            now = None if point.power_mode is None else await self._known_mode()
        if point.power_mode is None or now in (None, point.power_mode):
            return ""
        try:
            found = await receipt(self._set_mode(point.power_mode))
        except CommandRefused as error:
            return f"; did not take the mode {point.power_mode}: {error.detail}"
        return f"; the mode {point.power_mode} before it: {found.said}"

    async def _known_mode(self) -> PowerMode | None:
        try:
            return await self._power_mode()
        except DriverError:
            return None

    async def _met(self) -> None:
        async with deadline(self._address, self._options.deadline_s):
            await self._meet()

    async def _meet(self) -> None:
        """Make sure that it is the right machine. Raises `DriverError`."""
        raise NotImplementedError

    async def _stopped(self) -> bool:
        """Whether it says that it is stopped. Raises `DriverError`."""
        raise NotImplementedError

    async def _power_mode(self) -> PowerMode | None:
        raise NotImplementedError

    async def _stop(self) -> str:
        raise NotImplementedError

    async def _start(self) -> str:
        raise NotImplementedError

    async def _set_mode(self, mode: PowerMode) -> str:
        raise NotImplementedError

    def _check(self, who: answers.Who) -> None:
        if self._identity.mac and who.mac is None:
            raise Incomplete(self._address, "does not tell its MAC, so nothing was sent")
        check_identity(self._address, self._identity, mac=who.mac, serial=who.serial)


class WhatsminerV2Control(_WhatsminerControl):
    """Over TCP 4028."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        super().__init__(identity, address, options)
        port = endpoint(address, address.port or CGMINER_PORT, options)
        self._rpc = WhatsminerV2Rpc(port)
        self._writing = WhatsminerV2Rpc(replace(port, call_s=options.write_s))
        login = options.login(Family.WHATSMINER_V2)
        self._password: str = login.password if login else self._rpc.pwd
        self._token: Any = None
        self._token_until_s = 0.0

    async def _meet(self) -> None:
        who = answers.v2_who({}, {}, await self._rpc.get_miner_info(), {})
        if who.mac is None:
            who = replace(who, mac=answers.v2_who(await self._rpc.summary(), {}, {}, {}).mac)
        self._check(who)

    async def _stopped(self) -> bool:
        return bool(answers.v2_told_to_sleep(await self._rpc.status()))

    async def _power_mode(self) -> PowerMode | None:
        """The mode in `summary`; None from firmware that has none."""
        answer = await self._rpc.summary()
        total = answers.v2_total(answer)
        if not total:
            raise Incomplete(self._address, f"no summary: {answers.refusal(answer) or 'it is empty'}")
        return answers.power_mode(total.get("Power Mode"))

    async def _stop(self) -> str:
        return await self._send("power_off", respbefore="true")

    async def _start(self) -> str:
        return await self._send("power_on")

    async def _set_mode(self, mode: PowerMode) -> str:
        return await self._send(_V2_MODES[mode])

    async def _send(self, command: str, **parameters: str) -> str:
        """The machine's words. A refused token is replaced once; that command was not accepted."""
        answer = await self._writing.send_sealed(await self._current_token(), command, parameters)
        if _v2_code(answer) == _V2_BAD_TOKEN:
            self._token = None
            answer = await self._writing.send_sealed(await self._current_token(), command, parameters)
        if _v2_code(answer) == _V2_BAD_TOKEN:
            self._token = None
        return self._judged(command, answer)

    async def _current_token(self) -> Any:
        if self._token is not None and time.monotonic() < self._token_until_s:
            return self._token
        with before_sending():
            answer = await self._rpc.send_command("get_token")
            issued = mapping(answer.get("Msg"))
            if not issued:
                raise self._refusal("get_token", answer)
            try:
                self._token = whatsminer_token(self._password, issued)
            except ValueError:
                raise Incomplete(self._address, "get_token issued something else") from None
        self._token_until_s = time.monotonic() + TOKEN_LIFE_S
        return self._token

    def _judged(self, command: str, answer: Answer) -> str:
        code = _v2_code(answer)
        if code is None:
            raise Malformed(self._address, f"{command}: an answer without a code", sent=True)
        if answers.refusal(answer) or code != _V2_OK:
            raise self._refusal(command, answer)
        return f"code {code}: {text(answer.get('Msg')) or 'ok'}"

    def _refusal(self, command: str, answer: Answer) -> DriverError:
        """The error that an answer amounts to."""
        code = _v2_code(answer)
        why = f"{command}: {answers.refusal(answer) or f'code {code}'}"
        if code == _V2_UNREADABLE:
            return AuthenticationFailed(self._address, f"{why}; it cannot decrypt this, check the password")
        if code in _V2_UNKNOWN:
            return Unsupported(self._address, why)
        remedy = _V2_REMEDIES.get(code or 0)
        return CommandRefused(self._address, f"{why}; {remedy}" if remedy else why)


def _v2_code(answer: Answer) -> int | None:
    status = answer.get("STATUS")
    row = status[0] if isinstance(status, list) and status else answer
    return whole(mapping(row).get("Code"))


class WhatsminerV3Control(_WhatsminerControl):
    """Over TCP 4433."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        super().__init__(identity, address, options)
        port = endpoint(address, address.port or WHATSMINER_V3_PORT, options)
        self._rpc = WhatsminerV3Rpc(port)
        self._writing = WhatsminerV3Rpc(replace(port, call_s=options.write_s))
        login = options.login(Family.WHATSMINER_V3)
        if login:
            self._writing.account, self._writing.pwd = login.username, login.password
        self._device: Mapping[str, Any] = {}

    async def _meet(self) -> None:
        self._device = v3_required(self._address, await self._rpc.get_device_info())
        self._check(answers.v3_who(self._device))
        self._writing.salt = text(self._device.get("salt"))
        if self._writing.salt is None:
            raise Incomplete(self._address, "get.device.info has no salt to sign with")

    async def _stopped(self) -> bool:
        return flag(mapping(self._device.get("miner")).get("working")) is False

    async def _power_mode(self) -> PowerMode | None:
        setting = v3_required(self._address, await self._rpc.get_miner_setting())
        mode = answers.power_mode(setting.get("power-mode"))
        if mode is None:
            raise Incomplete(self._address, "get.miner.setting has no power-mode known here")
        return mode

    async def _stop(self) -> str:
        return await self._send("set.miner.service", "stop")

    async def _start(self) -> str:
        return await self._send("set.miner.service", "start")

    async def _set_mode(self, mode: PowerMode) -> str:
        return await self._send("set.miner.power_mode", mode.value)

    async def _send(self, command: str, parameter: str) -> str:
        """The machine's words. If it denies a command that was signed with an old salt, once more."""
        answer = await self._writing.send_command(command, parameter)
        if answer.get("code") in _V3_DENIED and await self._has_new_salt():
            answer = await self._writing.send_command(command, parameter)
        return self._judged(command, answer)

    async def _has_new_salt(self) -> bool:
        before = self._writing.salt
        with before_sending():
            await self._meet()
        return bool(self._writing.salt != before)

    def _judged(self, command: str, answer: Answer) -> str:
        code = answer.get("code")
        words = f"{command}: code {code}: {text(answer.get('msg')) or 'no reason given'}"
        if isinstance(code, bool) or not isinstance(code, int):
            raise Malformed(self._address, f"{command}: an answer without a code", sent=True)
        if code == 0:
            return words
        if code in _V3_DENIED:
            remedy = "check the password; while it is the factory's, the machine may take no commands"
            raise AuthenticationFailed(self._address, f"{words}; {remedy}")
        raise (Unsupported if code == _V3_UNKNOWN else CommandRefused)(self._address, words)


def v3_required(address: Address, answer: Answer) -> Mapping[str, Any]:
    """`msg` of an answer, or the reason why there is none as an error."""
    message = answers.v3_message(answer)
    if message is not None:
        return message
    detail = f"code {answer.get('code')}: {answer.get('msg')}"
    if answer.get("code") in _V3_DENIED:
        raise AuthenticationFailed(address, detail)
    raise Incomplete(address, detail)
