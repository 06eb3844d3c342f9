"""HTTP/1.1 and digest authentication as the machines' small web servers do them. What a benchmark waits for is this
process, and a framework's parsing costs several times what the answer does."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from drivers.simulator.link import Link
from drivers.simulator.machine import SimulatedMachine

BODY_LIMIT_BYTES = 48 * 1024
REALM = "antMiner Configuration"
NONCE_LIFE_S = 600
_HEAD_LIMIT_BYTES = 16 * 1024
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) (\S+) HTTP/1\.([01])")
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
_SECRET = secrets.token_bytes(16)
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRequest:
    """One request with its whole body."""

    method: str
    path: str
    target: str
    authorization: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WebReply:
    """One response. `writes` and `crashed` as in `Reply`; `reset` closes without a word."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    writes: bool = False
    crashed: bool = False


Respond = Callable[[SimulatedMachine, WebRequest], WebReply]


@dataclass(slots=True)
class HttpConversation:
    """Requests and responses on one kept-alive connection."""

    machine: SimulatedMachine
    link: Link
    respond: Respond
    _received: bytes = b""
    _ended: bool = False

    def receive(self, data: bytes) -> None:
        """Take bytes, answer every request that they complete."""
        if self._ended:
            return
        self._received += data
        try:
            while not self._ended and self._step():
                pass
        except ValueError:
            self._ended = True
            self.link.send(_BAD_REQUEST, close=True)

    def _step(self) -> bool:
        """Answer the first request that came; False while it is not complete. Raises ValueError for what is none."""
        end = self._received.find(b"\r\n\r\n", 0, _HEAD_LIMIT_BYTES)
        if end < 0:
            if len(self._received) >= _HEAD_LIMIT_BYTES:
                raise ValueError("no end of the headers")
            return False
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= BODY_LIMIT_BYTES or "transfer-encoding" in headers:
            raise ValueError("a body that these web servers do not take")
        body_at = end + 4
        if len(self._received) < body_at + length:
            return False
        body = self._received[body_at : body_at + length]
        self._received = self._received[body_at + length :]
        self._answer(first, headers, body)
        return True

    def _answer(self, first: str, headers: dict[str, str], body: bytes) -> None:
        line = _REQUEST_LINE.fullmatch(first)
        if line is None:
            raise ValueError("no request")
        method, target, version = line.groups()
        request = WebRequest(
            method=method,
            path=target.partition("?")[0],
            target=target,
            authorization=headers.get("authorization", ""),
            body=body,
        )
        reply = self.respond(self.machine, request)
        self._ended = version == "0" or "close" in headers.get("connection", "").lower()
        told = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            "Server: lighttpd/1.4.32",
            *(f"{name}: {value}" for name, value in reply.headers),
            *(["Connection: close"] if self._ended else []),
        ]
        wire = "\r\n".join([*told, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else reply.body)
        self.link.answer(wire, writes=reply.writes, crashed=reply.crashed, close=self._ended)


# -- digest


def challenge(machine: SimulatedMachine) -> tuple[str, str]:
    """The header of a 401."""
    nonce = _nonce(machine, int(time.monotonic()))
    return "WWW-Authenticate", f'Digest realm="{REALM}", nonce="{nonce}", qop="auth"'


def authorized(machine: SimulatedMachine, request: WebRequest, username: str, password: str) -> bool:
    """Whether the request carries a correct digest for these credentials."""
    scheme, _, rest = request.authorization.partition(" ")
    if scheme.lower() != "digest":
        return False
    given = {name: quoted or bare for name, quoted, bare in _FIELD.findall(rest)}
    nonce = given.get("nonce", "")
    if given.get("username") != username or given.get("realm") != REALM or not _fresh(machine, nonce):
        return False
    if given.get("uri") != request.target or given.get("qop") != "auth":
        return False
    first = _md5(f"{username}:{REALM}:{password}")
    second = _md5(f"{request.method}:{given['uri']}")
    counter, client_nonce = given.get("nc", ""), given.get("cnonce", "")
    expected = _md5(f"{first}:{nonce}:{counter}:{client_nonce}:auth:{second}")
    return hmac.compare_digest(expected.encode(), given.get("response", "").encode())


def _nonce(machine: SimulatedMachine, at_s: int) -> str:
    stamp = f"{at_s:08x}"
    return stamp + hmac.digest(_SECRET, f"{stamp}{machine.serial}".encode(), "md5").hex()


def _fresh(machine: SimulatedMachine, nonce: str) -> bool:
    try:
        at_s = int(nonce[:8], 16)
    except ValueError:
        return False
    young = 0 <= time.monotonic() - at_s < NONCE_LIFE_S
    return young and hmac.compare_digest(_nonce(machine, at_s).encode(), nonce.encode())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("latin-1", "replace"), usedforsecurity=False).hexdigest()
