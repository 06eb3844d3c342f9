"""A site's ear for commands of its fleet: only such as people that it knows have signed, each at most once."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.control import Request, Role
from agent.errors import AgentError, UsageError
from agent.federation.connection import Contact, Servers
from agent.federation.signing import RefusedError, SignedCommand, opened
from agent.rows import to_ms

log = logging.getLogger("hashcost")

COMMANDS = frozenset(
    {"status", "orders", "obligations", "hold", "resume", "approve", "reject", "shed", "release"}
)
REFUSED_TOLD = 1000
"""Of refused commands the first is logged, and then one in so many."""
NOBODY_HERE = -1
"""In the place of a user id of this host: the person is elsewhere."""
MOST_WAITING = 50
LOOK_EVERY_S = 1.0
Answer = dict[str, Any]


def command_subject(org: str, site: str) -> str:
    """Where commands for a site go; no stream keeps them."""
    return f"hashcost.{org}.{site}.command.do"


class Desk:
    """Takes commands as they come, and does each of them once.

    `load` and `save` keep what was answered across restarts, for as long as a command holds. One that had begun when
    the agent went down is not begun again: what became of it is in the site's events.
    """

    def __init__(
        self,
        handle: Callable[[Request], Awaitable[Answer]],
        people: Mapping[str, Ed25519PublicKey],
        *,
        org: str,
        site: str,
        now: Callable[[], datetime],
        load: Callable[[], Awaitable[str | None]],
        save: Callable[[str], Awaitable[None]],
    ) -> None:
        self._handle = handle
        self._people = people
        self._org, self._site = org, site
        self._now = now
        self._load, self._save = load, save
        self._answers: dict[str, tuple[int, Answer]] | None = None
        self._turn = asyncio.Lock()
        self.refused = 0

    async def answer(self, payload: bytes) -> Answer:
        """What became of a command: `{"result": ...}`, or `{"error": {"code", "message"}}`."""
        try:
            command = opened(payload, self._people, COMMANDS, org=self._org, site=self._site, now=self._now())
        except RefusedError as error:
            self.refused += 1
            if self.refused % REFUSED_TOLD == 1:  # a forger must not fill the log either
                log.warning("event=fleet_command_refused detail=%r count=%d", str(error), self.refused)
            return _error("refused", str(error))
        async with self._turn:
            return await self._once(command)

    async def _once(self, command: SignedCommand) -> Answer:
        answers = await self._remembered()
        if (known := answers.get(command.command_id)) is not None:
            return known[1]
        begun = _error(
            "unknown", "it had begun when the agent went down; the site's events tell what became of it"
        )
        await self._remember(command, begun)
        answer = await self._done(command)
        await self._remember(command, answer)
        log.info(
            "event=fleet_command command=%s person=%s id=%s",
            command.command,
            command.person,
            command.command_id,
        )
        return answer

    async def _done(self, command: SignedCommand) -> Answer:
        request = Request(
            command=command.command,
            arguments=command.arguments,
            user=f"fleet:{command.person}",
            uid=NOBODY_HERE,
            role=Role.OPERATOR,
        )
        try:
            return {"result": await self._handle(request)}
        except UsageError as error:
            return _error("usage", str(error))
        except AgentError as error:
            return _error("failed", str(error))

    async def _remembered(self) -> dict[str, tuple[int, Answer]]:
        if self._answers is None:
            found = json.loads(await self._load() or "{}")
            self._answers = {name: (until_ms, answer) for name, (until_ms, answer) in found.items()}
        now_ms = to_ms(self._now())
        self._answers = {name: each for name, each in self._answers.items() if each[0] > now_ms}
        return self._answers

    async def _remember(self, command: SignedCommand, answer: Answer) -> None:
        """On the disk before anything else happens. Raises `StorageError`, and then nothing is done."""
        answers = {**await self._remembered(), command.command_id: (command.expires_ms, answer)}
        await self._save(json.dumps(answers))
        self._answers = answers


def _error(code: str, message: str) -> Answer:
    return {"error": {"code": code, "message": message}}


class Listener:
    """Keeps listening for commands, for as long as the agent lives."""

    def __init__(self, servers: Servers, desk: Desk, *, org: str, site: str) -> None:
        self._contact = Contact(servers, "fleet_commands")
        self._desk = desk
        self._subject = command_subject(org, site)

    async def run(self) -> None:
        """Listen until cancelled; servers that cannot be reached are told once."""
        await self._contact.keep(self._listen)

    async def _listen(self, client: Client) -> None:
        await client.subscribe(self._subject, cb=self._on_message, pending_msgs_limit=MOST_WAITING)
        self._contact.reached()
        while not client.is_closed:  # noqa: ASYNC110 - the client's callback does not tell all endings
            await asyncio.sleep(LOOK_EVERY_S)

    async def _on_message(self, message: Msg) -> None:
        try:
            answer = await self._desk.answer(message.data)
        except AgentError as error:  # it could not be recorded: nothing was done
            answer = _error("failed", str(error))
        if message.reply:
            await message.respond(json.dumps(answer).encode())
