"""The cgminer way of asking on TCP 4028: one JSON request, one JSON answer, then the machine closes.

Requests carry no length and need no line end: a request is complete when it parses.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from drivers.simulator.link import Link, Reply, spoil
from drivers.simulator.machine import SimulatedMachine

Json = dict[str, Any]
REQUEST_LIMIT_BYTES = 16 * 1024


def packed(answer: Mapping[str, Any]) -> bytes:
    """JSON as the machines write it: no spaces."""
    return json.dumps(answer, separators=(",", ":")).encode()


class RpcConversation:
    """One request on port 4028. `answer` gets the parsed request, or None for what is not a JSON object."""

    def __init__(
        self, machine: SimulatedMachine, link: Link, answer: Callable[[SimulatedMachine, Json | None], Reply]
    ) -> None:
        self._machine = machine
        self._link = link
        self._answer = answer
        self._buffer = b""
        self._answered = False

    def receive(self, data: bytes) -> None:
        """Answer as soon as the request is complete; wait for more while it may become so."""
        if self._answered:
            return
        self._buffer += data
        text = self._buffer.rstrip(b"\x00\r\n ")
        complete = not text.startswith(b"{") or text.endswith(b"}")
        if len(self._buffer) > REQUEST_LIMIT_BYTES or (complete and text):
            self._try(text)

    def _try(self, text: bytes) -> None:
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            if text.startswith(b"{") and len(self._buffer) <= REQUEST_LIMIT_BYTES:
                return
            request = None
        self._answered = True
        reply = self._answer(self._machine, request if isinstance(request, dict) else None)
        body = reply.body if reply.writes else spoil(self._machine, reply.body)
        self._link.answer(body, writes=reply.writes, crashed=reply.crashed)
