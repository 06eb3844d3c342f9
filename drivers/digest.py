"""Digest login at a machine's web interface (RFC 7616 with `auth`, and RFC 2069 before it)."""

import hashlib
import secrets
from collections.abc import Mapping
from urllib.request import parse_http_list

from drivers.driver import Credentials
from drivers.http import Response

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_SESSION = "-SESS"
_UNAUTHORIZED = 401
_DENIED = {401, 403}


class Digest:
    """The login of one machine. Its challenge is kept, so that only the first request meets a 401."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._challenge: Mapping[str, str] | None = None
        self._count = 0
        self.denied = False
        """Whether the machine denied the latest request that carried the login. One that did so with a new challenge
        is asked once more, in case only the nonce was old."""

    def authorization(self, method: str, path: str) -> Mapping[str, str]:
        """The header that a request is to have; none before the first challenge. Raises ValueError for a challenge that
        cannot be met."""
        if self._challenge is None:
            return {}
        self._count += 1
        fields = _response(self._challenge, self._credentials, method, path, self._count)
        return {"Authorization": "Digest " + ", ".join(f"{name}={value}" for name, value in fields.items())}

    def challenged(self, response: Response) -> bool:
        """Take note of what a request was answered; whether it is worth another try, with what is known now."""
        self.denied = response.status in _DENIED and self._challenge is not None
        if response.status != _UNAUTHORIZED:
            return False
        for name, value in response.headers:
            scheme, _, fields = value.decode("latin-1").partition(" ")
            if name == b"www-authenticate" and scheme.lower() == "digest":
                self._challenge, self._count = _challenge(fields), 0
                return True
        return False


def _challenge(fields: str) -> Mapping[str, str]:
    found = {}
    for field in parse_http_list(fields):
        name, _, value = field.partition("=")
        found[name.strip().lower()] = value.strip().removeprefix('"').removesuffix('"')
    if "realm" not in found or "nonce" not in found:
        raise ValueError("a digest challenge without realm or nonce")
    return found


def _response(
    challenge: Mapping[str, str], credentials: Credentials, method: str, path: str, count: int
) -> Mapping[str, str]:
    """The fields of the header, with their quotes."""
    algorithm = challenge.get("algorithm", "MD5")
    hash_name = _HASHES.get(algorithm.upper().removesuffix(_SESSION))
    if hash_name is None:
        raise ValueError(f"a digest challenge with the algorithm {algorithm[:40]!r}")

    def digest(*parts: str) -> str:
        return hashlib.new(hash_name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

    realm, nonce = challenge["realm"], challenge["nonce"]
    number, ours = f"{count:08x}", secrets.token_hex(8)
    who = digest(credentials.username, realm, credentials.password)
    if algorithm.upper().endswith(_SESSION):
        who = digest(who, nonce, ours)
    counted, qop = {}, challenge.get("qop")
    what = digest(method, path)
    if qop is None:
        proof = digest(who, nonce, what)
    elif "auth" in [each.strip() for each in qop.split(",")]:
        proof = digest(who, nonce, number, ours, "auth", what)
        counted = {"qop": "auth", "nc": number, "cnonce": f'"{ours}"'}
    else:
        raise ValueError(f"a digest challenge for {qop[:40]!r}")
    opaque = {"opaque": f'"{challenge["opaque"]}"'} if challenge.get("opaque") else {}
    return {
        "username": f'"{credentials.username}"',
        "realm": f'"{realm}"',
        "nonce": f'"{nonce}"',
        "uri": f'"{path}"',
        "response": f'"{proof}"',
        "algorithm": algorithm,
        **opaque,
        **counted,
    }
