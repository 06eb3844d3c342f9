"""Commands the firmwares for which pyasic knows a call that really stops and starts mining; nothing else.

What is sent is what pyasic sends; it is sent by our own bounded transport, because pyasic answers True or False
where an operator must know whether the machine said no, said nothing, or was never asked. Braiins OS speaks gRPC
and goes through pyasic itself. None of these is simulated: the shapes of their answers are pyasic's and the
vendors'.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from drivers import _pyasic
from drivers._pyasic import Firmware
from drivers.commands import WITHIN_MINUTES, Prepared, before_sending, receipt
from drivers.connection import Endpoint
from drivers.digest import Digest
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    ConnectionLost,
    Credentials,
    DriverError,
    Incomplete,
    Malformed,
    NoAnswer,
    ReadOptions,
    Receipt,
    RestorePoint,
    Timings,
    Unsupported,
)
from drivers.http import Response
from drivers.reading import Address, Identity, PowerMode
from drivers.reads import deadline, endpoint
from drivers.transport import CGMINER_PORT, Answer, ask_cgminer, decode_object
from drivers.values import mapping, rows, text, whole
from drivers.web import WebAccess, fetch
from drivers.whatsminer_answers import refusal

_logger = logging.getLogger(__name__)
_DENIED = {401, 403}
_ABSENT = {404, 405, 501}
_LUXOS_SESSION_OPEN = 402


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a machine is, how it is logged into, and `meet`: makes sure that it is still the same."""

    identity: Identity
    address: Address
    options: ReadOptions
    login: Credentials
    meet: Callable[[], Awaitable[None]]

    def port(self, number: int) -> Endpoint:
        """A port for requests whose answer is not waited for long."""
        return endpoint(self.address, number, self.options)


class _FirmwareControl:
    """What they share: no modes, and nothing to put back but that it mines."""

    timings = WITHIN_MINUTES
    power_modes: frozenset[PowerMode] = frozenset()

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._address = reach.address
        self._write_s = reach.options.write_s
        self._prepared = Prepared[RestorePoint]()

    async def restore_point(self) -> RestorePoint:
        """The firmware's own settings, if it has any that a command changes."""
        self._prepared.take()
        async with deadline(self._address, self._reach.options.deadline_s):
            await self._reach.meet()
            point = RestorePoint(power_mode=None, settings=await self._settings())
        self._prepared.keep(point)
        return point

    async def sleep(self) -> Receipt:
        """Stop hashing."""
        await self._met()
        return await receipt(self._stop())

    async def wake(self, point: RestorePoint) -> Receipt:
        """Start hashing."""
        await self._met()
        return await receipt(self._start(point))

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Raises `Unsupported`."""
        raise Unsupported(self._address, f"cannot be set to the mode {mode}")

    async def told_to_sleep(self) -> bool | None:
        """Whether the machine says that it was told to sleep, where pyasic does not ask; None: it does not say."""
        return None

    async def _met(self) -> None:
        if self._prepared.take() is not None:
            return
        async with deadline(self._address, self._reach.options.deadline_s):
            await self._reach.meet()

    async def _settings(self) -> Mapping[str, str]:
        return {}

    async def _stop(self) -> str:
        raise NotImplementedError

    async def _start(self, point: RestorePoint) -> str:
        raise NotImplementedError


# -- over the cgminer port ------------------------------------------------------------------------------


class _CgminerControl(_FirmwareControl):
    async def _ask(
        self, command: str, parameter: str | None = None, *, within_s: float | None = None
    ) -> Answer:
        """One command. Raises `DriverError`: `CommandRefused` if the machine says no."""
        port = endpoint(self._address, self._address.port or CGMINER_PORT, self._reach.options)
        port = port if within_s is None else replace(port, call_s=within_s)
        request = {"command": command} | ({"parameter": parameter} if parameter else {})
        answer = await ask_cgminer(port, request)
        if "STATUS" not in answer:
            raise Malformed(self._address, f"{command} answered something else", sent=True)
        why = refusal(answer)
        if why:
            raise CommandRefused(self._address, f"{command}: {why}{_remedy(answer)}")
        return answer


def _words(answer: Answer) -> str:
    row = next(iter(rows(answer.get("STATUS"))), {})
    return f"code {row.get('Code')}: {text(row.get('Msg')) or 'ok'}"


def _remedy(answer: Answer) -> str:
    code = whole(next(iter(rows(answer.get("STATUS"))), {}).get("Code"))
    return (
        "; another session is open: end it, or wait until it expires" if code == _LUXOS_SESSION_OPEN else ""
    )


class LuxOs(_CgminerControl):
    """A session of our own for every command, and never one left open: it would block everybody."""

    timings = Timings(sleep_within_s=30.0, wake_within_s=300.0)

    async def told_to_sleep(self) -> bool | None:
        """By `CurtailMode` in `config`."""
        row = next(iter(rows((await self._ask("config")).get("CONFIG"))), {})
        said = text(row.get("CurtailMode"))
        return None if said is None else said.lower() == "sleep"

    async def _stop(self) -> str:
        return await self._curtail("sleep")

    async def _start(self, point: RestorePoint) -> str:
        return await self._curtail("wakeup")

    async def _curtail(self, what: str) -> str:
        with before_sending():
            session = await self._log_on()
        try:
            answer = await self._ask("curtail", f"{session},{what}", within_s=self._write_s)
        finally:
            await self._log_off(session)
        return _words(answer)

    async def _log_on(self) -> str:
        answer = await self._ask("logon")
        session = text(next(iter(rows(answer.get("SESSION"))), {}).get("SessionID"))
        if session is None:
            raise Incomplete(self._address, "logon gave no session")
        return session

    async def _log_off(self, session: str) -> None:
        """Tried twice, because a session that stays open locks the machine for everybody."""
        with suppress(DriverError):
            await self._ask("logoff", session)
            return
        try:
            await self._ask("logoff", session)
        except DriverError as error:
            _logger.warning("machine=%s session=open kind=%s", self._address, error.kind)


class OldBraiins(_CgminerControl):
    """BOSminer before gRPC: `pause` and `resume`."""

    async def _stop(self) -> str:
        return _words(await self._ask("pause", within_s=self._write_s))

    async def _start(self, point: RestorePoint) -> str:
        return _words(await self._ask("resume", within_s=self._write_s))


# -- over gRPC ------------------------------------------------------------------------------------------


class Braiins(_FirmwareControl):
    """Braiins OS: pyasic's gRPC client, made anew for every command, under our deadlines."""

    async def _stop(self) -> str:
        return await self._call("pause_mining")

    async def _start(self, point: RestorePoint) -> str:
        return await self._call("resume_mining")

    async def _call(self, name: str) -> str:
        reach = self._reach
        machine = _pyasic.build(reach.identity.driver_class, reach.port(CGMINER_PORT), reach.login)
        with before_sending():
            await self._within(machine.web.auth(), reach.options.call_s)
            if machine.web.token is None:
                raise AuthenticationFailed(self._address, "the login gave no token, check the credentials")
        await self._within(getattr(machine.web, name)(), self._write_s)
        return f"{name} answered"

    async def _within(self, calling: Awaitable[object], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await calling
        except TimeoutError as error:
            raise NoAnswer(self._address, "no answer on gRPC port in time", sent=True) from error
        except Exception as error:
            raise _pyasic.grpc_failure(str(self._address), error) or ConnectionLost(
                self._address, f"gRPC: {error.__class__.__name__}", sent=True
            ) from error


# -- over HTTP ------------------------------------------------------------------------------------------


class _HttpControl(_FirmwareControl):
    port = 80

    async def _post(
        self, path: str, body: Answer, headers: Mapping[str, str] | None = None, *, within_s: float
    ) -> Answer:
        """The answer, empty if it has no body. Raises `DriverError`."""
        port = replace(self._reach.port(self.port), call_s=within_s)
        page = await fetch(port, path, post=body, headers=headers)
        answer = self._decoded(path, page)
        said_no = answer.get("success") is False or answer.get("result") is False
        if said_no or ("STATUS" in answer and refusal(answer)):
            raise CommandRefused(self._address, f"{path}: {_excuse(answer)}")
        return answer

    def _token(self, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise AuthenticationFailed(self._address, "no token for our login, check the credentials")
        return value

    def _decoded(self, path: str, page: Response) -> Answer:
        where = f"{path}: HTTP {page.status}"
        if page.status in _DENIED:
            raise AuthenticationFailed(self._address, f"{where}, check the credentials")
        if page.status in _ABSENT:
            raise Unsupported(self._address, where)
        if 400 <= page.status < 500:
            raise CommandRefused(self._address, where)
        if not 200 <= page.status < 300:
            raise Malformed(self._address, where, sent=True)
        try:
            return decode_object(page.body) if page.body.strip() else {}
        except ValueError as error:
            raise Malformed(self._address, f"{where}: {error}", sent=True) from error


def _excuse(answer: Answer) -> str:
    told = (text(answer.get(key)) for key in ("error", "err", "message", "msg"))
    return next((each for each in told if each), None) or refusal(answer) or "it said no"


class VNish(_HttpControl):
    """Unlocks anew for every command: an old token fails."""

    async def _stop(self) -> str:
        return await self._mining("stop")

    async def _start(self, point: RestorePoint) -> str:
        return await self._mining("resume")

    async def _mining(self, what: str) -> str:
        path = f"/api/v1/mining/{what}"
        headers = {"Authorization": await self._unlock()}
        try:
            await self._post(path, {}, headers, within_s=self._write_s)
        except AuthenticationFailed:
            headers = {"Authorization": await self._unlock()}
            await self._post(path, {}, headers, within_s=self._write_s)
        return f"{path} answered"

    async def _unlock(self) -> str:
        body, within_s = {"pw": self._reach.login.password}, self._reach.options.call_s
        with before_sending():
            return self._token((await self._post("/api/v1/unlock", body, within_s=within_s)).get("token"))


class EPic(_HttpControl):
    """One request on the API's port, with the password in it."""

    port = 4028

    async def _stop(self) -> str:
        return await self._miner("Stop")

    async def _start(self, point: RestorePoint) -> str:
        return await self._miner("Autostart")

    async def _miner(self, what: str) -> str:
        body = {"param": what, "password": self._reach.login.password}
        await self._post("/miner", body, within_s=self._write_s)
        return f"/miner {what} answered"


class Auradine(_HttpControl):
    """A token anew for every command, then the mode `sleep`."""

    port = 8080

    async def _stop(self) -> str:
        return await self._sleep("on")

    async def _start(self, point: RestorePoint) -> str:
        return await self._sleep("off")

    async def _sleep(self, what: str) -> str:
        login = self._reach.login
        body = {"command": "token", "user": login.username, "password": login.password}
        with before_sending():
            answer = await self._post("/token", body, within_s=self._reach.options.call_s)
            token = self._token(next(iter(rows(answer.get("Token"))), {}).get("Token"))
        await self._post(
            "/mode", {"sleep": what, "command": "mode"}, {"Token": token}, within_s=self._write_s
        )
        return f"/mode sleep {what} answered"


class Marathon(_FirmwareControl):
    """Reads the whole configuration, changes the work mode's selector in it, and writes it back."""

    _path = "/kaonsu/v1/miner_config"
    _selector = "work-mode-selector"

    def __init__(self, reach: Reach) -> None:
        super().__init__(reach)
        self._web = WebAccess(reach.port(80), Digest(reach.login))

    async def told_to_sleep(self) -> bool | None:
        """By the selector."""
        return self._selected(await self._configuration()) == "Sleep"

    async def _settings(self) -> Mapping[str, str]:
        selected = self._selected(await self._configuration())
        if selected == "Sleep":
            raise CommandRefused(self._address, "sleeps already: the mode that it mined in is not known")
        return {self._selector: selected}

    async def _stop(self) -> str:
        return await self._select("Sleep")

    async def _start(self, point: RestorePoint) -> str:
        selected = point.settings.get(self._selector)
        if selected is None:
            raise CommandRefused(self._address, "the restore point has no work mode")
        return await self._select(selected)

    async def _select(self, what: str) -> str:
        with before_sending():
            configuration = await self._configuration()
        mode = {**configuration["mode"], self._selector: what}
        posted = {**configuration, "mode": mode}
        if await self._web.post(self._path, posted, within_s=self._write_s) is None:
            raise CommandRefused(self._address, f"{self._path}: HTTP 400")
        return f"{self._selector} {what} answered"

    async def _configuration(self) -> Answer:
        """The configuration, fit to be written back. Raises `DriverError`."""
        configuration = await self._web.exact_json(self._path)
        pools = configuration.get("pools")
        found = rows(pools) if isinstance(pools, list) else []
        if not any(text(pool.get("url")) for pool in found) or not self._selected(configuration):
            raise Incomplete(
                self._address, "miner_config without a pool or a work mode, so nothing was posted"
            )
        return configuration

    def _selected(self, configuration: Answer) -> str:
        return text(mapping(configuration.get("mode")).get(self._selector)) or ""


_CONTROLS: Mapping[Firmware, type[_FirmwareControl]] = {
    Firmware.LUXOS: LuxOs,
    Firmware.BRAIINS: Braiins,
    Firmware.OLD_BRAIINS: OldBraiins,
    Firmware.VNISH: VNish,
    Firmware.EPIC: EPic,
    Firmware.MARATHON: Marathon,
    Firmware.AURADINE: Auradine,
}
_ON_FORWARDED_PORT = {Firmware.LUXOS, Firmware.OLD_BRAIINS}


def control(reach: Reach) -> _FirmwareControl | None:
    """The commands of a machine by its pyasic class, or None if it has none that are real (or reachable)."""
    firmware = _pyasic.firmware_of(reach.identity.driver_class)
    if firmware is None or (reach.address.port is not None and firmware not in _ON_FORWARDED_PORT):
        return None
    return _CONTROLS[firmware](reach)
