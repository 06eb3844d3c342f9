"""Commands for sites: who signed them, for whom they are, and until when they hold.

    RefusedError             a command that a site does not take; it changes nothing

A command is `{"body": "...", "signature": "..."}`: the body a JSON text, the signature Ed25519 over its bytes, in
base64. Keys are nkeys (https://github.com/nats-io/nkeys): base32 of a prefix, 32 bytes and a CRC-16.
"""

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.rows import to_ms

VERSION = 1
LIMIT_BYTES = 64 * 1024
LONGEST = timedelta(minutes=5)
"""For how long a command may hold."""
SKEW = timedelta(seconds=60)
"""How far the clocks of a site and of the one who commands may differ."""
_USER, _SEED = 20 << 3, 18 << 3
_ID = re.compile(r"[0-9a-f]{32}")


class RefusedError(ValueError):
    """A command that is not taken; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCommand:
    """What a person wants of a site. Times are milliseconds since 1970 UTC."""

    v: int
    command_id: str
    org: str
    site: str
    person: str
    command: str
    arguments: Mapping[str, Any]
    issued_ms: int
    expires_ms: int


def public_key(text: str) -> Ed25519PublicKey:
    """A user's public nkey, `U...`. Raises `ValueError`."""
    raw = _decoded(text)
    if len(raw) != 35 or raw[0] != _USER:
        raise ValueError("no public key of a user (U...)")
    return Ed25519PublicKey.from_public_bytes(raw[1:33])


def private_key(seed: str) -> Ed25519PrivateKey:
    """A user's seed, `SU...`. Raises `ValueError` that does not show it."""
    raw = _decoded(seed)
    if len(raw) != 36 or raw[0] & 0xF8 != _SEED or (raw[0] & 7) << 5 | raw[1] >> 3 != _USER:
        raise ValueError("no seed of a user (SU...)")
    return Ed25519PrivateKey.from_private_bytes(raw[2:34])


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError("not an nkey") from error
    if len(raw) < 4 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError("an nkey with a mistake in it")
    return raw


def sign(command: SignedCommand, key: Ed25519PrivateKey) -> bytes:
    """The command as it is sent."""
    body = json.dumps(asdict(command), allow_nan=False)
    signature = base64.b64encode(key.sign(body.encode())).decode()
    return json.dumps({"body": body, "signature": signature}).encode()


def opened(
    payload: bytes,
    people: Mapping[str, Ed25519PublicKey],
    allowed: Collection[str],
    *,
    org: str,
    site: str,
    now: datetime,
) -> SignedCommand:
    """An `allowed` command that one of `people` signed for this site and that holds now. Raises `RefusedError`."""
    if len(payload) > LIMIT_BYTES:
        raise RefusedError(f"too large: {len(payload)} bytes")
    try:
        envelope = json.loads(payload)
        body, signature = envelope["body"], base64.b64decode(envelope["signature"], validate=True)
        values = json.loads(body)
        key = people.get(values["person"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RefusedError("not a command of ours") from error
    if key is None:
        raise RefusedError("signed by nobody who is known here")
    try:
        key.verify(signature, body.encode())
    except (InvalidSignature, UnicodeEncodeError) as error:
        raise RefusedError("the signature is not that person's") from error
    command = _command(values)
    if (command.org, command.site) != (org, site):
        raise RefusedError("for another site")
    if command.command not in allowed:
        raise RefusedError(f"{command.command:.40}: not to be given from afar")
    _check_time(command, to_ms(now))
    return command


def _command(values: dict[str, Any]) -> SignedCommand:
    if values.get("v") != VERSION:
        raise RefusedError(f"version {values.get('v')!r:.20} is not known here")
    try:
        command = SignedCommand(**values)
    except TypeError as error:
        raise RefusedError("not a command of ours") from error
    texts = (command.command_id, command.org, command.site, command.command)
    numbers = (command.issued_ms, command.expires_ms)
    if not (
        all(isinstance(each, str) for each in texts)
        and all(isinstance(each, int) for each in numbers)
        and isinstance(command.arguments, dict)
        and _ID.fullmatch(command.command_id)
    ):
        raise RefusedError("not a command of ours")
    return command


def _check_time(command: SignedCommand, now_ms: int) -> None:
    if not 0 < command.expires_ms - command.issued_ms <= to_ms_of(LONGEST):
        raise RefusedError("holds for too long")
    if command.issued_ms > now_ms + to_ms_of(SKEW):
        raise RefusedError("from the future; are both clocks right?")
    if command.expires_ms <= now_ms:
        raise RefusedError("expired; are both clocks right?")


def to_ms_of(time: timedelta) -> int:
    """Milliseconds of a duration."""
    return round(time.total_seconds() * 1000)
