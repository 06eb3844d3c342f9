"""What is asked and answered over a `Connection`: cgminer JSON, framed JSON, and the repairs that firmware needs.

Neither pyasic nor its objects appear here; `drivers/_pyasic.py` puts this underneath them.
"""

import contextlib
import json
import re
from typing import Any

from drivers.connection import Connection, Endpoint, Line, ProcessDownError, Take
from drivers.driver import Oversized

CGMINER_PORT = 4028
WHATSMINER_V3_PORT = 4433
_EARLY_ATTEMPTS = 8
_HEADER_BYTES = 4

Answer = dict[str, Any]


async def exchange(endpoint: Endpoint, request: bytes, take: Take, until: float | None = None) -> Any:
    """Send `request`, read until `take` has an answer, and close. As `Connection.ask`."""
    connection = Connection(endpoint)
    try:
        return await connection.ask(request, take, until)
    finally:
        await connection.close()


# -- cgminer JSON (TCP 4028) ----------------------------------------------------------------------


async def ask_cgminer(endpoint: Endpoint, request: Answer) -> Answer:
    """One JSON request, one JSON object back; the machine ends by closing, by NUL, or not at all."""
    answer: Answer = await exchange(endpoint, json.dumps(request).encode(), CgminerAnswer())
    return answer


class CgminerAnswer:
    """Takes an answer that ends with the connection, with NUL, or at its last brace.

    Some peers half-close and never end. So whenever as many braces have closed as have opened, the bytes
    are tried as an answer; a few times only, or a hostile peer would make us parse for ever.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._open = 0
        self._attempts = _EARLY_ATTEMPTS

    def __call__(self, received: bytearray, ended: bool) -> Answer | None:
        """The decoded answer, or None while it is not complete. Raises ValueError."""
        if ended:
            return decode_object(bytes(received))
        new = received[self._seen :]
        self._seen = len(received)
        self._open += new.count(b"{") - new.count(b"}")
        complete = received.endswith(b"\x00") or (self._open == 0 and received.rstrip().endswith(b"}"))
        if not complete or not self._attempts:
            return None
        self._attempts -= 1
        with contextlib.suppress(ValueError):
            return decode_object(bytes(received))
        return None


_PROCESS_DOWN = "Socket connect failed"
"""What the front of some firmware says for a mining process that does not run, asleep machines' among them."""


_REPAIRS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"}(?=\s*[{\"])"), "},"),  # bmminer: no comma between objects
    (re.compile(r"](?=\s*[\[\"])"), "],"),
    (re.compile(r"(?<=[^\s:,\[{\\])\"\"(?=[A-Za-z])"), '","'),  # btminer: no comma between members
    (re.compile(r"(?<=\d)\"(?=[A-Za-z][^\",:]*\":)"), ',"'),
    (re.compile(r",(?=\s*[}\]])"), ""),  # btminer: a comma too many
    (re.compile(r"(?<=\[),"), ""),
    (re.compile(r"(?<=[:,\[])\s*[-+]?(?:nan|inf(?:inity)?)(?=\s*[,}\]])", re.IGNORECASE), "null"),
    # Whatsminer API 2.0.4: a list written like a mapping
    (re.compile(r'("error_code"\s*+:\s*+)\[((?:\s*+"[^"]*"\s*+:\s*+"[^"]*"(?:\s*+,)?)++\s*+)\]'), r"\1{\2}"),
)
"""Repairs put back punctuation that firmware forgets. None of them can make up or finish a value, or has more than one
way to fit the same text: a hostile machine would make us try them all."""


def decode_object(data: bytes) -> Answer:
    """The JSON object in an answer. Raises ValueError if it is cut, is no JSON, or no object.

    NaN and infinities become None. A cut answer stays an error: completing it would invent its last value.
    """
    content = data.replace(b"\x00", b"").decode("utf-8", errors="replace").strip()
    if content.startswith(_PROCESS_DOWN):
        raise ProcessDownError(content[:60])
    if not content.startswith("{"):
        raise ValueError(f"not JSON: {content[:60]!a}")  # no byte of it reaches a terminal
    try:
        return _loads(content)
    except ValueError:
        for pattern, replacement in _REPAIRS:
            content = pattern.sub(replacement, content)
        return _loads(content)


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, strict=False)


def _loads(content: str) -> Answer:
    try:
        value = _DECODER.decode(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"cut or broken JSON of {len(content)} characters: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("JSON, but not an object")  # noqa: TRY004
    return value


# -- Whatsminer V3: little-endian length, then JSON (TCP 4433) -------------------------------------


class FramedAnswer:
    """Takes one answer with its length in front."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __call__(self, received: bytearray, ended: bool) -> Answer | None:
        """The decoded answer, removed from what was received, or None while it is not complete. Raises ValueError and
        `Oversized`."""
        length = int.from_bytes(received[:_HEADER_BYTES], "little")
        if len(received) >= _HEADER_BYTES and length > self._endpoint.max_bytes:
            raise Oversized(self._endpoint.name, f"port {self._endpoint.port} announces {length} bytes")
        if len(received) >= _HEADER_BYTES + length:
            body = bytes(received[_HEADER_BYTES : _HEADER_BYTES + length])
            del received[: _HEADER_BYTES + length]
            return decode_object(body)
        if ended:
            raise ValueError("the answer was cut")
        return None


async def ask_framed(endpoint: Endpoint, request: Answer, line: Line | None = None) -> Answer:
    """One length-prefixed JSON request and answer, over a connection of its own or over `line`."""
    body = json.dumps(request).encode()
    framed, take = len(body).to_bytes(_HEADER_BYTES, "little") + body, FramedAnswer(endpoint)
    answer: Answer = await (exchange(endpoint, framed, take) if line is None else line.ask(framed, take))
    return answer
