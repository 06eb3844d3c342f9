"""HTTP/1.1 and digest authentication as the machines' small web servers do them. Framing is h11's."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from drivers.simulator.link import Link
from drivers.simulator.machine import SimulatedMachine

BODY_LIMIT_BYTES = 48 * 1024
REALM = "antMiner Configuration"
NONCE_LIFE_S = 600
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
    _http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
    )
    _head: h11.Request | None = None
    _body: bytes = b""
    _dead: bool = False

    def receive(self, data: bytes) -> None:
        """Take bytes, answer every request that they complete."""
        if self._dead:
            return
        self._http.receive_data(data)
        try:
            while self._step():
                pass
        except h11.RemoteProtocolError:
            self._dead = True
            self.link.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", close=True)

    def _step(self) -> bool:
        """Handle one h11 event; False when there is nothing more to do now."""
        event = self._http.next_event()
        match event:
            case h11.Request():
                self._head, self._body = event, b""
            case h11.Data():
                self._body += event.data
                if len(self._body) > BODY_LIMIT_BYTES:
                    raise h11.RemoteProtocolError("body too large")
            case h11.EndOfMessage():
                self._respond()
            case h11.ConnectionClosed():
                self._dead = True
                self.link.send(b"", close=True)
                return False
            case _:
                return False
        return not self._dead

    def _respond(self) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - h11 gives the head first
        reply = self.respond(self.machine, _request(head, self._body))
        response = h11.Response(
            status_code=reply.status,
            reason=HTTPStatus(reply.status).phrase.encode(),
            headers=[
                ("Content-Type", reply.content_type),
                ("Content-Length", str(len(reply.body))),
                ("Server", "lighttpd/1.4.32"),
                *reply.headers,
            ],
        )
        parts = [self._http.send(response)]
        if head.method != b"HEAD":
            parts.append(self._http.send(h11.Data(data=reply.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        wire = b"".join(part for part in parts if part)
        close = self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE
        self._dead = close
        self.link.answer(wire, writes=reply.writes, crashed=reply.crashed, close=close)
        if not close:
            self._http.start_next_cycle()


def _request(head: h11.Request, body: bytes) -> WebRequest:
    target = head.target.decode("latin-1")
    authorization = next((value for name, value in head.headers if name == b"authorization"), b"")
    return WebRequest(
        method=head.method.decode("ascii"),
        path=target.partition("?")[0],
        target=target,
        authorization=authorization.decode("latin-1"),
        body=body,
    )


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
    return stamp + hmac.new(_SECRET, f"{stamp}{machine.serial}".encode(), "md5").hexdigest()


def _fresh(machine: SimulatedMachine, nonce: str) -> bool:
    try:
        at_s = int(nonce[:8], 16)
    except ValueError:
        return False
    young = 0 <= time.monotonic() - at_s < NONCE_LIFE_S
    return young and hmac.compare_digest(_nonce(machine, at_s).encode(), nonce.encode())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("latin-1", "replace"), usedforsecurity=False).hexdigest()
