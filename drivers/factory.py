"""Does a machine still open with the password that it was delivered with? Asked by reading, never by changing.

A stock Antminer has one account: if our own login opens it, its password is ours, and nothing else is tried. A
Whatsminer V2 decrypts what the factory's password encrypted, or says that it cannot. Of the others no harmless request
is known that would tell, and none is sent.
"""

from dataclasses import dataclass
from enum import StrEnum

from drivers._pyasic import AntminerWeb, WhatsminerV2Rpc, whatsminer_token
from drivers.digest import Digest
from drivers.driver import (
    FACTORY_CREDENTIALS,
    AuthenticationFailed,
    Credentials,
    DriverError,
    OutOfSockets,
    ReadOptions,
)
from drivers.reading import Address, Family, Identity
from drivers.reads import deadline, endpoint
from drivers.transport import CGMINER_PORT, Answer
from drivers.values import mapping, whole

WEB_PORT = 80
_UNREADABLE = 23
_OPENED = {131, 14, 134, 45}
"""What it says to a request that it could decrypt: done, not known, or not before the factory's password is changed."""


class Verdict(StrEnum):
    """What was found out about a machine's password."""

    FACTORY = "factory"
    CHANGED = "changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordFinding:
    """Whether a machine has the factory's password; `detail` says how that is known, or why not."""

    verdict: Verdict
    detail: str


async def password_of(identity: Identity, address: Address, options: ReadOptions) -> PasswordFinding:
    """Find out. One login more than usual at most, because machines lock out. Raises `OutOfSockets`."""
    try:
        async with deadline(address, options.deadline_s):
            match identity.family:
                case Family.ANTMINER:
                    return await _antminer(address, options)
                case Family.WHATSMINER_V2:
                    return await _whatsminer_v2(address, options)
                case _:
                    return _unknown("no harmless request is known that tells; look at its own interface")
    except OutOfSockets:
        raise
    except DriverError as error:
        return _unknown(f"{error.kind}: {error.detail}")


async def _antminer(address: Address, options: ReadOptions) -> PasswordFinding:
    if address.port is not None:
        return _unknown("its web interface is not reached behind a forwarded port")
    factory, ours = FACTORY_CREDENTIALS[Family.ANTMINER], options.login(Family.ANTMINER)
    if ours is not None and ours != factory:
        if await _opens(address, options, ours):
            return _found(Verdict.CHANGED, "it opens with the configured login")
        if await _opens(address, options, factory):
            return _found(Verdict.FACTORY, "it refuses the configured login and opens with the factory's")
        return _unknown("it refuses the configured login, and after that the factory's too: is it locked?")
    if await _opens(address, options, factory):
        return _found(Verdict.FACTORY, "it opens with the factory's login")
    return _found(Verdict.CHANGED, "it refuses the factory's login, and no other is configured for it")


async def _opens(address: Address, options: ReadOptions, login: Credentials) -> bool:
    try:
        await AntminerWeb(
            endpoint(address, WEB_PORT, options), Digest(login), write_s=options.write_s
        ).get_system_info()
    except AuthenticationFailed:
        return False
    return True


async def _whatsminer_v2(address: Address, options: ReadOptions) -> PasswordFinding:
    rpc = WhatsminerV2Rpc(endpoint(address, address.port or CGMINER_PORT, options))
    issued = mapping((await rpc.send_command("get_token")).get("Msg"))
    try:
        token = whatsminer_token(FACTORY_CREDENTIALS[Family.WHATSMINER_V2].password, issued)
    except ValueError:
        return _unknown("it issues no token")
    code = _code(await rpc.send_sealed(token, "get_version", {}))
    if code == _UNREADABLE:
        return _found(Verdict.CHANGED, "it cannot decrypt what the factory's password encrypted")
    if code in _OPENED:
        return _found(Verdict.FACTORY, "it decrypts what the factory's password encrypted")
    return _unknown(f"it answers with code {code}")


def _code(answer: Answer) -> int | None:
    status = answer.get("STATUS")
    row = status[0] if isinstance(status, list) and status else answer
    return whole(mapping(row).get("Code"))


def _found(verdict: Verdict, detail: str) -> PasswordFinding:
    return PasswordFinding(verdict=verdict, detail=detail)


def _unknown(detail: str) -> PasswordFinding:
    return _found(Verdict.UNKNOWN, detail)
