"""Tokens and encryption of the Whatsminer V2 API, as the machine checks them.

The password and the machine's salt give a key by md5crypt; its SHA-256 is the AES-256-ECB key of every write. A token
is the md5crypt of that key and the time at which it was issued, under a salt of its own.
"""

import base64
import binascii
import hashlib
import json
import secrets
import string
import warnings
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drivers.simulator.machine import SimulatedMachine
from drivers.simulator.rpc import Json

with warnings.catch_warnings():
    # passlib tries the standard library's crypt first, which Python 3.11 and 3.12 deprecate
    warnings.simplefilter("ignore", DeprecationWarning)
    from passlib.hash import md5_crypt

    md5_crypt.set_backend()  # once: else each salt of `using` tries it anew, which costs as much as the hash

FACTORY_PASSWORD = "admin"  # noqa: S105 - what the factory sets
TOKEN_LIFE_S = 30 * 60.0
TOKEN_LIMIT = 32
_BLOCK_BYTES = 16
_SALT_LETTERS = string.ascii_letters + string.digits


class NotBase64Error(ValueError):
    """The envelope does not decode."""


class NotForUsError(ValueError):
    """It does not decrypt to JSON: another password, or another machine's salt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What `get_token` answers."""

    time: str
    salt: str
    newsalt: str


def issue(machine: SimulatedMachine) -> Token | None:
    """A new token, or None while too many are valid. Its life is real time, since clients keep it in real time."""
    now_s = machine.clock.monotonic()
    for sign in [sign for sign, until_s in machine.tokens.items() if until_s <= now_s]:
        del machine.tokens[sign]
    if len(machine.tokens) >= TOKEN_LIMIT:
        return None
    newsalt = "".join(secrets.choice(_SALT_LETTERS) for _ in range(8))
    issued = str(int(machine.clock.utc().timestamp()))[-4:]
    sign = _md5crypt(_key(machine) + issued, newsalt)
    machine.tokens[sign] = now_s + TOKEN_LIFE_S
    return Token(time=issued, salt=_salt(machine), newsalt=newsalt)


def valid(machine: SimulatedMachine, sign: object) -> bool:
    """Whether a token was issued and is still good."""
    return isinstance(sign, str) and machine.tokens.get(sign, 0.0) > machine.clock.monotonic()


def open_envelope(machine: SimulatedMachine, data: object) -> Json:
    """Decrypt the `data` of an encrypted command. Raises NotBase64Error or NotForUsError."""
    try:
        sealed = base64.b64decode(str(data), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotBase64Error from error
    if not sealed or len(sealed) % _BLOCK_BYTES:
        raise NotForUsError
    decryptor = _cipher(_key(machine)).decryptor()
    try:
        opened = json.loads((decryptor.update(sealed) + decryptor.finalize()).rstrip(b"\x00"))
    except (ValueError, RecursionError) as error:
        raise NotForUsError from error
    if not isinstance(opened, dict):
        raise NotForUsError
    return opened


def seal(machine: SimulatedMachine, body: bytes) -> str:
    """Encrypt an answer."""
    padded = body + b"\x00" * (-len(body) % _BLOCK_BYTES)
    encryptor = _cipher(_key(machine)).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def _salt(machine: SimulatedMachine) -> str:
    return hashlib.sha256(machine.serial.encode()).hexdigest()[:8]


def _key(machine: SimulatedMachine) -> str:
    return _md5crypt(machine.password(FACTORY_PASSWORD), _salt(machine))


@lru_cache(maxsize=20_000)
def _md5crypt(word: str, salt: str) -> str:
    return str(md5_crypt.using(salt=salt).hash(word)).split("$")[3]


def _cipher(key: str) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.ECB())  # noqa: S305
