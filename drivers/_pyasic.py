"""The only door to pyasic 0.79: imports it without its side effects and puts our bounded transport under it.

Importing pyasic runs `logging.basicConfig`, sets the root logger to WARNING and raises deprecation warnings
of pydantic; that is undone here. The API classes below keep pyasic's public methods (`rpc.stats()`,
`web.get_miner_conf()`) and replace what it does with bytes: its own has no connect timeout, waits 100 s,
turns a refused connection into an empty answer, `"nan"` into 0, and finishes a cut answer by guessing.
"""

import base64
import functools
import hashlib
import json
import logging
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any

from drivers.connection import Endpoint, Line, failure
from drivers.digest import Digest
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Credentials,
    DriverError,
    Malformed,
    Unsupported,
)
from drivers.transport import (
    Answer,
    CgminerAnswer,
    ask_cgminer,
    ask_framed,
    decode_object,
    exchange,
)
from drivers.values import number, rows
from drivers.web import BoundedTransport, Page, WebAccess, causes, overhear


@contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Put the root logger back as it was."""
    loggers = [logging.getLogger(), logging.getLogger("asyncssh")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


with _unchanged_logging(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from passlib.hash import md5_crypt
    from pyasic import settings
    from pyasic.errors import APIError
    from pyasic.miners import backends, factory
    from pyasic.rpc import btminer
    from pyasic.rpc.antminer import AntminerRPCAPI
    from pyasic.rpc.btminer import BTMinerRPCAPI, BTMinerV3RPCAPI
    from pyasic.web.antminer import AntminerModernWebAPI
    from pyasic.web.braiins_os import boser


class _Cgminer:
    """Mixed into pyasic's RPC classes: one bounded connection per command, failures raised."""

    endpoint: Endpoint

    async def send_command(
        self,
        command: str,
        parameters: Any = None,
        ignore_errors: bool = False,
        allow_warning: bool = True,
        **members: Any,
    ) -> Answer:
        """The machine's answer as it is; it may well say that the command failed. Raises `DriverError`."""
        parameter = {"parameter": parameters} if parameters else {}
        return await ask_cgminer(self.endpoint, {"command": command, **members, **parameter})


class AntminerRpc(_Cgminer, AntminerRPCAPI):  # type: ignore[misc]
    """pyasic's Antminer commands over TCP 4028."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self.endpoint = endpoint


class WhatsminerV2Rpc(_Cgminer, BTMinerRPCAPI):  # type: ignore[misc]
    """pyasic's Whatsminer commands over TCP 4028. Its own token flow is not used: it logs what it makes."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self.endpoint = endpoint

    async def send_sealed(self, token: Any, command: str, parameters: Answer) -> Answer:
        """An encrypted command under a `whatsminer_token`, and the answer to it, decrypted. Raises
        `DriverError`."""
        request = btminer.create_privileged_cmd(token, {"cmd": command, **parameters})
        answer: Answer = await exchange(self.endpoint, request, CgminerAnswer())
        if "enc" not in answer:
            return answer
        try:
            opened = btminer.parse_btminer_priviledge_data(token, answer)
        except (ValueError, TypeError, KeyError) as error:
            raise Malformed(self.endpoint.name, "an answer that cannot be decrypted", sent=True) from error
        return opened if isinstance(opened, dict) else {}


def whatsminer_token(password: str, issued: Mapping[str, Any]) -> Any:
    """What `get_token` issued (`time`, `salt`, `newsalt`) made into the token and key of encrypted commands.
    Raises ValueError for what was not issued by a Whatsminer."""
    told = [issued.get(name) for name in ("time", "salt", "newsalt")]
    if not all(isinstance(each, str) for each in told):
        raise ValueError("no time, salt or newsalt in it")
    when, salt, newsalt = map(str, told)
    key = _md5crypt(password, salt)
    sign = _md5crypt(key + when, newsalt)
    return btminer.TokenData(host_sign=sign, host_passwd_md5=key)


md5_crypt.set_backend()
"""Once here: else each salt of `using` would try the backend anew, which costs as much as the hash."""


def _md5crypt(word: str, salt: str) -> str:
    """The hash alone. Not pyasic's, which hands the salt over in a way that passlib warns about."""
    return str(md5_crypt.using(salt=salt[:8]).hash(word)).split("$")[3]


class WhatsminerV3Rpc(BTMinerV3RPCAPI):  # type: ignore[misc]
    """pyasic's Whatsminer commands over TCP 4433. What it sets is signed with `pwd` and `salt`, which must
    be told to it first."""

    account = "super"

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self.endpoint = endpoint
        self._kept = Line(endpoint)
        self._line: Line | None = None

    @asynccontextmanager
    async def one_connection(self) -> AsyncIterator[None]:
        """Ask all that is read inside over one connection, as far as the machine keeps it."""
        self._line = self._kept
        try:
            yield
        finally:
            self._line = None
            await self._kept.hang_up()

    async def send_command(
        self,
        command: str,
        parameters: Any = None,
        ignore_errors: bool = False,
        allow_warning: bool = True,
        **members: Any,
    ) -> Answer:
        """The machine's answer as it is. Raises `DriverError`."""
        parameter = {"param": parameters} if parameters is not None else {}
        if command.startswith("set."):  # not over a line, which repeats what got no answer
            signed = {**members, **self._signature(command)}
            return await ask_framed(self.endpoint, {"cmd": command, **parameter, **signed})
        return await ask_framed(self.endpoint, {"cmd": command, **parameter, **members}, self._line)

    def _signature(self, command: str) -> Answer:
        now = int(time.time())
        digest = hashlib.sha256(f"{command}{self.pwd}{self.salt}{now}".encode()).digest()
        return {"ts": now, "account": self.account, "token": base64.b64encode(digest).decode()[:8]}


class AntminerWeb(AntminerModernWebAPI):  # type: ignore[misc]
    """pyasic's `/cgi-bin` commands. The answer to one with parameters, which writes, may take `write_s`."""

    def __init__(self, endpoint: Endpoint, login: Digest | None, *, write_s: float) -> None:
        super().__init__(endpoint.host)
        self._access = WebAccess(endpoint, login)
        self._write_s = write_s

    def one_connection(self, *, left_open_s: float = 0.0) -> AbstractAsyncContextManager[None]:
        """As `WebAccess.one_connection`."""
        return self._access.one_connection(left_open_s=left_open_s)

    async def send_command(
        self,
        command: str,
        ignore_errors: bool = False,
        allow_warning: bool = True,
        privileged: bool = False,
        **parameters: Any,
    ) -> Answer | None:
        """The JSON object at `/cgi-bin/<command>.cgi`; parameters are posted, and None is answered if they are
        not taken as they are spelled. Raises `DriverError`."""
        path = f"/cgi-bin/{command}.cgi"
        if parameters:
            return await self._access.post(path, parameters, within_s=self._write_s)
        return await self._access.json(path)

    async def exact_miner_conf(self) -> Answer:
        """`get_miner_conf` without any repair, to be written back. Raises `DriverError`."""
        return await self._access.exact_json("/cgi-bin/get_miner_conf.cgi")


# -- pyasic's tables of models ------------------------------------------------------------------------


RefusedByMachine = APIError
"""What pyasic raises when a machine refuses a command, and over much else."""
KINDS = factory.MinerTypes
"""pyasic's makers and firmwares."""


def class_name(kind: str, model: str) -> str:
    """The pyasic class for a model of a maker or firmware (`"ANTMINER"`, `"WHATSMINER"`, ...); the generic
    class of the family for a model that pyasic does not know."""
    known = factory.MINER_CLASSES[factory.MinerTypes[kind]]
    found = known.get(model.upper()) or known[None]
    return str(found.__name__)


@functools.cache
def _classes() -> dict[str, Any]:
    tables = factory.MINER_CLASSES.values()
    return {found.__name__: found for table in tables for found in table.values()}


def class_by_name(name: str) -> Any:
    """The pyasic class that an `Identity.driver_class` names, or None."""
    return _classes().get(name)


def expected_boards(name: str) -> int | None:
    """How many hashboards machines of a pyasic class are built with, as far as pyasic knows."""
    count = getattr(class_by_name(name), "expected_hashboards", None)
    return count if isinstance(count, int) else None


class Firmware(StrEnum):
    """Firmwares with a call of their own that stops and starts mining."""

    LUXOS = "luxos"
    BRAIINS = "braiins"
    OLD_BRAIINS = "old_braiins"
    VNISH = "vnish"
    EPIC = "epic"
    MARATHON = "marathon"
    AURADINE = "auradine"


_BACKENDS = {
    Firmware.LUXOS: backends.LUXMiner,
    Firmware.BRAIINS: backends.BOSer,
    Firmware.OLD_BRAIINS: backends.BOSMiner,
    Firmware.VNISH: backends.VNish,
    Firmware.EPIC: backends.ePIC,
    Firmware.MARATHON: backends.MaraMiner,
    Firmware.AURADINE: backends.Auradine,
}


def firmware_of(name: str) -> Firmware | None:
    """The firmware of the pyasic class that an `Identity.driver_class` names, or None for all others."""
    found = class_by_name(name)
    matches = (firmware for firmware, base in _BACKENDS.items() if found and issubclass(found, base))
    return next(matches, None)


# -- pyasic's own machines (everything without a driver of its own) -----------------------------------

_GRPC_PORT = 50051
WEB_MAX_BYTES = 1 << 20
"""Limit of any body that pyasic's own HTTP clients read."""


def _bounded_transport(verify: Any = None) -> BoundedTransport:
    return BoundedTransport(WEB_MAX_BYTES, verify if isinstance(verify, ssl.SSLContext) else None)


settings.transport = _bounded_transport


def build(name: str, endpoint: Endpoint, credentials: Credentials | None) -> Any:
    """A pyasic machine of the class `name` on bounded transports, or None if pyasic has no such class."""
    found = class_by_name(name)
    if found is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine = found(endpoint.host)
    bound(machine, endpoint)
    if credentials is not None and machine.web is not None:
        machine.web.username, machine.web.pwd = credentials.username, credentials.password
    return machine


def bound(machine: Any, endpoint: Endpoint) -> None:
    """Put our transport under a pyasic machine: bounded, one request at a time, no task of its own.

    Its errors are overheard (`drivers.web.overheard`), because pyasic turns them into missing fields.
    """
    if hasattr(machine.rpc, "_send_bytes"):
        _bind_rpc(machine.rpc, endpoint)
    if hasattr(machine.web, "multicommand"):
        machine.web.multicommand = _Overhearing(machine.web.multicommand)
    if isinstance(machine, factory.LUXMiner):
        _mend_luxos(machine)


def _mend_luxos(machine: Any) -> None:
    """MAC and hashrate of LuxOS: pyasic 0.79 returns None from these two before it looks at the answer."""

    async def get_mac(rpc_config: Answer | None = None) -> Any:
        return next((row.get("MACAddr") for row in rows((rpc_config or {}).get("CONFIG"))), None)

    async def get_hashrate(rpc_summary: Answer | None = None) -> Any:
        total = next(iter(rows((rpc_summary or {}).get("SUMMARY"))), {})
        rate = number(total.get("GHS 5s"))
        return None if rate is None else machine.algo.hashrate(rate=rate, unit=machine.algo.unit.GH)

    machine._get_mac, machine._get_hashrate = get_mac, get_hashrate


def _bind_rpc(rpc: Any, endpoint: Endpoint) -> None:
    async def send_bytes(data: bytes, *, port: int | None = None, timeout: int = 0) -> bytes:
        try:
            return bytes(await exchange(replace(endpoint, port=port or endpoint.port), data, _RawAnswer()))
        except DriverError as error:
            overhear(error)
            raise APIError(str(error)) from error

    async def multicommand(*commands: str, allow_warning: bool = True) -> Answer:
        found: Answer = {"multicommand": True}
        for command in commands:
            try:
                found[command] = [await rpc.send_command(command, allow_warning=False)]
            except Exception as error:  # noqa: BLE001 - pyasic stumbles in every way over odd answers
                overhear(error)
        return found

    rpc.port = endpoint.port
    rpc._send_bytes = send_bytes
    rpc._load_api_data = decode_object
    rpc.multicommand = multicommand


class _RawAnswer:
    """As `CgminerAnswer`, but the bytes: pyasic decodes by itself (with our decoder)."""

    def __init__(self) -> None:
        self._complete = CgminerAnswer()

    def __call__(self, received: bytearray, ended: bool) -> bytes | None:
        """The bytes once they are an answer. Raises ValueError."""
        return None if self._complete(received, ended) is None else bytes(received)


class _Overhearing:
    """A pyasic call that fails with an empty answer instead of leaving its siblings running."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __call__(self, *commands: str, **options: Any) -> Answer:
        """What the call answers, or nothing."""
        try:
            answer: Answer = await self._call(*commands, **options)
        except Exception as error:  # noqa: BLE001 - see above
            overhear(error)
            return {}
        return answer


class Factory(factory.MinerFactory):  # type: ignore[misc]
    """pyasic's identification on bounded transports; `port` is where the machine's RPC answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def send_api_command(self, ip: str, command: str) -> Answer | None:
        """One RPC command, None if it failed."""
        try:
            return await ask_cgminer(self._endpoint, {"command": command})
        except DriverError as error:
            overhear(error)
            return None

    async def model_of(self, kind: Any) -> str | None:
        """The model of a machine of a kind (`MinerTypes`), by that kind's own question."""
        names = (
            kind.name.lower(),
            kind.name.lower().replace("_", ""),
        )  # it is get_miner_model_luxos for LUX_OS
        ask = next(
            (found for name in names if (found := getattr(self, f"get_miner_model_{name}", None))), None
        )
        return None if ask is None else await ask(self._endpoint.host)


def kind_by_rpc(answer: Answer) -> Any:
    """pyasic's `MinerTypes` for an answer to `version` or `devdetails`, or None."""
    said = json.dumps(answer)
    kind = factory.MinerFactory._parse_socket_type(said)
    return kind or (factory.MinerTypes.WHATSMINER if "WHATSMINER" in said.upper() else None)


def kind_by_page(page: Page) -> Any:
    """pyasic's `MinerTypes` for a web interface's first page, or None."""
    return factory.MinerFactory._parse_web_type(page.content, _Response(page))


class _Response:
    """The part of an httpx response that pyasic looks at."""

    def __init__(self, page: Page) -> None:
        self.status_code = page.status
        self.headers = page.headers
        self.history = page.history


# -- gRPC, which pyasic speaks by itself -----------------------------------------------------------------


def grpc_failure(name: str, error: Exception) -> DriverError | None:
    """What an error of pyasic's Braiins OS client says about the machine; None if it is none of gRPC's."""
    found = [each for each in causes(error) if isinstance(each, boser.GRPCError | OSError)]
    if not found:
        return None
    cause = found[-1]
    if isinstance(cause, OSError):
        lost = failure(name, _GRPC_PORT, cause)
        lost.sent = not isinstance(cause, ConnectionRefusedError)
        return lost
    said = f"gRPC {cause.status.name}: {cause.message}"
    if cause.status.name in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
        return AuthenticationFailed(name, f"{said}, check the credentials", sent=True)
    if cause.status.name == "UNIMPLEMENTED":
        return Unsupported(name, said, sent=True)
    if cause.status.name in {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}:
        return CommandRefused(name, said, sent=True)
    return Malformed(name, said, sent=True)
