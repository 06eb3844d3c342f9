"""The reconciler's way to the store: steps of many orders at a time share one transaction, and one sync of the disk.

A sync takes as long for fifty orders as for one, and a command goes out only after its own.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from agent.errors import ContradictionError
from agent.orders import Order
from agent.store import Store

_Step = tuple[str, tuple[Any, ...], asyncio.Future[Any]]


class OrderWriter:
    """An `OrderStore` on the store, in the thread of `executor`: what comes while a transaction is being written goes
    into the next one together. Each call returns when its own step is stored, and was told `kept`; one that is
    cancelled while that is being written does so too, and is cancelled at whatever it waits for next: nobody's memory
    is behind the store. Where the disk does not play along it raises what `unwritten` makes of that, and
    `ContradictionError` for a step that the store cannot hold, alone of those beside it."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        unwritten: Callable[[sqlite3.Error], Exception],
        kept: Callable[[Order], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._unwritten = unwritten
        self._kept = kept
        self._waiting: list[_Step] = []
        self._writing = False

    async def create(self, order: Order) -> Order | None:
        """Store a new order; None if the machine has an open one."""
        created: Order | None = await self._step("create_order", order)
        if created is not None:
            self._kept(created)
        return created

    async def create_all(self, orders: Sequence[Order]) -> list[Order | None]:
        """The same for many at once."""
        created: list[Order | None] = await self._step("create_orders", orders)
        for order in created:
            if order is not None:
                self._kept(order)
        return created

    async def advance(self, before: Order, after: Order) -> None:
        """Replace `before` by `after` if it is still as it was."""
        await self._step("advance", before, after)
        self._kept(after)

    async def supersede(self, before: Order, after: Order, new: Order) -> Order:
        """Advance one and create another at once."""
        created: Order = await self._step("supersede", before, after, new)
        self._kept(after)
        self._kept(created)
        return created

    async def advance_both(self, first: tuple[Order, Order], second: tuple[Order, Order]) -> None:
        """Advance two at once."""
        await self._step("advance_both", first, second)
        self._kept(first[1])
        self._kept(second[1])

    async def _step(self, name: str, *arguments: Any) -> Any:
        stored: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        step = (name, arguments, stored)
        self._waiting.append(step)
        self._write()
        task, cancels = asyncio.current_task(), 0
        assert task is not None  # noqa: S101 - this is a coroutine
        while not stored.done():
            try:
                await asyncio.wait([stored])
            except asyncio.CancelledError:
                if any(each is step for each in self._waiting):  # nothing of it is written
                    self._waiting.remove(step)
                    raise
                task.uncancel()
                cancels += 1
        for _ in range(cancels):
            task.cancel()
        return stored.result()

    def _write(self) -> None:
        """Begin to write what waits, unless that is being done."""
        batch = self._waiting
        if self._writing or not batch:
            return
        self._waiting, self._writing = [], True
        steps = [(name, arguments) for name, arguments, _ in batch]
        written = asyncio.get_running_loop().run_in_executor(self._executor, self._store.take_steps, steps)
        written.add_done_callback(lambda done: self._written(batch, done))

    def _written(self, batch: Sequence[_Step], done: asyncio.Future[list[Any]]) -> None:
        self._writing = False
        error = done.exception()
        if isinstance(error, sqlite3.Error):
            error = self._unwritten(error)
        results = [error] * len(batch) if error is not None else done.result()
        for (_, _, stored), result in zip(batch, results, strict=True):
            if isinstance(result, sqlite3.IntegrityError):
                stored.set_exception(ContradictionError(f"it contradicts what is stored ({result})"))
            elif isinstance(result, BaseException):
                stored.set_exception(result)
            else:
                stored.set_result(result)
        self._write()
