"""Digest login at a machine's web interface (RFC 7616 with `auth`, and RFC 2069 before it)."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Self
from urllib.request import parse_http_list

from drivers.driver import Credentials
from drivers.http import Response

_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_SESSION = "-SESS"
_UNAUTHORIZED = 401


class Digest:
    """The login of one machine, for all that is asked of it. Its challenge is kept, so that only the first request
    meets a 401; a machine that denies one with a new challenge is asked once more, in case only the nonce was old."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._meet: _Meet | None = None

    @classmethod
    def of(cls, credentials: Credentials | None) -> Self | None:
        """None where there is no login."""
        return None if credentials is None else cls(credentials)

    def authorization(self, method: str, path: str) -> Mapping[str, str]:
        """The header that a request is to have; none before the first challenge."""
        return {} if self._meet is None else {"Authorization": self._meet(method, path)}

    def challenged(self, response: Response) -> bool:
        """Take note of what a request was answered; whether it is worth another try, with what is known now. Raises
        ValueError for a challenge that is none, or cannot be met."""
        if response.status != _UNAUTHORIZED:
            return False
        for name, value in response.headers:
            scheme, _, fields = value.decode("latin-1").partition(" ")
            if name == b"www-authenticate" and scheme.lower() == "digest":
                self._meet = _Meet(_challenge(fields), self._credentials)
                return True
        return False

    def forget(self) -> None:
        """Begin anew, without a login."""
        self._meet = None


def _challenge(fields: str) -> Mapping[str, str]:
    found = {}
    for field in parse_http_list(fields):
        name, _, value = field.partition("=")
        found[name.strip().lower()] = value.strip().removeprefix('"').removesuffix('"')
    if "realm" not in found or "nonce" not in found:
        raise ValueError("a digest challenge without realm or nonce")
    return found


class _Meet:
    """Answers one challenge, as often as it is good; what is the same for every request is reckoned once. Raises
    ValueError for a challenge that cannot be met."""

    def __init__(self, challenge: Mapping[str, str], credentials: Credentials) -> None:
        realm, nonce = challenge["realm"], challenge["nonce"]
        algorithm = challenge.get("algorithm", "MD5")
        qop = challenge.get("qop")
        self._nonce, self._ours, self._count = nonce, secrets.token_hex(8), 0
        self._algorithm = algorithm.upper().removesuffix(_SESSION)
        self._counted = qop is not None
        if self._algorithm not in _HASHES:
            raise ValueError(f"a digest challenge with the algorithm {algorithm[:40]!r}")
        if qop is not None and "auth" not in [each.strip() for each in qop.split(",")]:
            raise ValueError(f"a digest challenge for {qop[:40]!r}")
        self._who = self._digest(credentials.username, realm, credentials.password)
        if algorithm.upper().endswith(_SESSION):
            self._who = self._digest(self._who, nonce, self._ours)
        opaque = f', opaque="{challenge["opaque"]}"' if challenge.get("opaque") else ""
        self._same = f'Digest username="{credentials.username}", realm="{realm}", nonce="{nonce}"'
        self._same += f", algorithm={algorithm}{opaque}"

    def __call__(self, method: str, path: str) -> str:
        """The header for a request."""
        what = self._digest(method, path)
        if not self._counted:
            return f'{self._same}, uri="{path}", response="{self._digest(self._who, self._nonce, what)}"'
        self._count += 1
        number = f"{self._count:08x}"
        proof = self._digest(self._who, self._nonce, number, self._ours, "auth", what)
        return f'{self._same}, uri="{path}", response="{proof}", qop=auth, nc={number}, cnonce="{self._ours}"'

    def _digest(self, *parts: str) -> str:
        return _HASHES[self._algorithm](":".join(parts).encode(), usedforsecurity=False).hexdigest()
