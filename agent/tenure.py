"""Whose a site's machines are, where several agents stand by for one another or have a part of them each; alone, an
agent has them for good.

NotOursError         a command must not be sent: the machines may be another agent's by now
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.errors import AgentError
from agent.orders import Order
from agent.policy import Reason
from drivers.reading import MachineId


class NotOursError(AgentError):
    """A command was not sent, or broken off, because the machines may be another agent's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What the agent that had the machines before left: its orders and settings, and where the numbers of orders are to
    go on. `token` is the number of the tenure that begins with it."""

    token: int
    orders: Sequence[Order] | None = None
    """None where it is this agent that had them before: its own orders stand."""
    settings: Mapping[str, str] = field(default_factory=dict)
    first_order_id: int = 1


class Tenure(Protocol):
    """An agent's claim to the machines of its site."""

    @property
    def stands_by(self) -> bool:
        """Whether another agent has them, or may have: this one reads and waits."""

    @property
    def may_command(self) -> bool:
        """Whether commands may be decided on and sent at all now."""

    @property
    def inheritance(self) -> Inheritance | None:
        """What is to be taken over before anything else; None if nobody was in between."""

    def sending(self, order: Order) -> AbstractAsyncContextManager[None]:
        """Around the sending of one order, which is as it will be stored. Raises `NotOursError`, also in its midst."""

    def begin(self, orders: Iterable[Order], settings: Mapping[str, str], *, token: int) -> None:
        """A store has been opened, and no other process writes to it: what it goes on from, and in which tenure that
        was written."""

    def keep_order(self, order: Order) -> None:
        """Another agent would have to know this, should it take over."""

    def keep_setting(self, name: str, value: str) -> None:
        """And this."""

    async def told(self, name: str) -> bool:
        """Whether whoever may take over knows a setting that was kept; waited for, a moment."""

    def as_data(self) -> dict[str, Any]:
        """How it stands, for people."""


class Alone:
    """Nobody else ever commands these machines, and nobody has to be asked."""

    stands_by = False
    may_command = True
    inheritance = None

    @asynccontextmanager
    async def sending(self, order: Order) -> AsyncIterator[None]:
        """Nothing stands against it."""
        del order
        yield

    def begin(self, orders: Iterable[Order], settings: Mapping[str, str], *, token: int) -> None:
        """Nothing."""

    def keep_order(self, order: Order) -> None:
        """Nothing."""

    def keep_setting(self, name: str, value: str) -> None:
        """Nothing."""

    async def told(self, name: str) -> bool:
        """Nobody may take over."""
        del name
        return True

    def as_data(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Parts(Protocol):
    """Which machines are this agent's to command, where others have the other parts of the site."""

    def want(self, wanted: Set[MachineId], spared: Set[MachineId]) -> None:
        """The machines that this part is to have, and those that it knows and another may have."""

    def stands_against(self, machine_id: MachineId) -> Reason | None:
        """Why it is not to be commanded from here; None if it is."""

    def sending(self, order: Order) -> AbstractAsyncContextManager[None]:
        """Around the sending of one order. Raises `NotOursError`."""

    async def run(self) -> None:
        """Keep the claims, until cancelled."""

    def as_data(self) -> dict[str, Any]:
        """How it stands, for people."""


class Whole:
    """The site has no parts: every machine that is known is this agent's."""

    def want(self, wanted: Set[MachineId], spared: Set[MachineId]) -> None:
        """Nothing."""

    def stands_against(self, machine_id: MachineId) -> Reason | None:
        """Nothing."""
        del machine_id
        return None

    @asynccontextmanager
    async def sending(self, order: Order) -> AsyncIterator[None]:
        """Nothing stands against it."""
        del order
        yield

    async def run(self) -> None:
        """Nothing, for ever."""
        await asyncio.Event().wait()

    def as_data(self) -> dict[str, Any]:
        """Nothing."""
        return {}
