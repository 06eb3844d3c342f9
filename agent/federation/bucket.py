"""The key-value bucket that the agents of a site share: who has the machines, and what a successor has to know.

Keys: `lease`, a `Tenant`; `orders.MACHINE` (in hex), the orders of a machine; `setting.NAME`. All but the lease carry
the token of the tenure in which they were written. Nothing is ever written over what the writer has not seen.

OvertakenError       somebody else wrote meanwhile
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import (
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)
from nats.js.kv import KeyValue

from agent.order_rows import ORDER_COLUMNS, order_of, order_row
from agent.orders import Order
from agent.supervision import heed_cancel
from drivers.reading import MachineId

LEASE = "lease"
_ORDERS, _SETTING, _CLAIM = "orders.", "setting.", "machine."
_COLUMNS = ("order_id", *ORDER_COLUMNS)
ANSWER_WITHIN_S = 2.0


class OvertakenError(Exception):
    """The key is not as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who has the machines. `instance` is a process of that agent; `token` the revision of the lease with which its
    tenure began, 0 in that revision itself."""

    agent: str
    instance: str
    token: int = 0
    last_order_id: int = 0
    released: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The lease as it stands."""

    tenant: Tenant
    revision: int

    @property
    def token(self) -> int:
        """Of the tenure: grows with each."""
        return self.tenant.token or self.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Another key as it was found."""

    key: str
    revision: int
    token: int
    value: Any


def orders_key(machine_id: MachineId) -> str:
    """Where the orders of a machine are."""
    return _ORDERS + machine_id.encode().hex()


def claim_key(machine_id: MachineId) -> str:
    """Where it stands which part of a site has a machine."""
    return _CLAIM + machine_id.encode().hex()


def setting_key(name: str) -> str:
    """Where a setting is."""
    return _SETTING + name


class Bucket:
    """One connection's view of it. Raises one of `connection.FAILURES` where servers do not play along."""

    def __init__(self, keys: KeyValue) -> None:
        self._keys = keys

    @classmethod
    async def open(cls, client: Client, *, org: str, site: str, replicas: int) -> Self:
        """The bucket of a site; made if it is not there."""
        stream = client.jetstream(timeout=ANSWER_WITHIN_S)
        name = f"HASHCOST-{org}-{site}"
        try:
            keys = await stream.key_value(name)
        except BucketNotFoundError:
            config = KeyValueConfig(bucket=name, history=1, replicas=replicas, storage=StorageType.FILE)
            keys = await stream.create_key_value(config)
        heed_cancel()
        return cls(keys)

    async def lease(self) -> Seen | None:
        """Who has the machines, as far as the servers know; None if nobody ever had."""
        try:
            entry = await self._keys.get(LEASE)
        except KeyNotFoundError:
            return None
        return Seen(tenant=Tenant(**json.loads(entry.value or b"")), revision=int(entry.revision or 0))

    async def claim(self, tenant: Tenant, *, last: int) -> int:
        """Write the lease if its revision is still `last`, 0 if there was none; the new revision. Most servers have it
        when this returns. Raises `OvertakenError`."""
        return await self._write(LEASE, asdict(tenant), last)

    async def put(self, key: str, value: Any, *, token: int, last: int) -> int:
        """Write another key in the same way."""
        return await self._write(key, {"token": token, "value": value}, last)

    async def put_or_create(self, key: str, value: Any, *, token: int, last: int) -> int:
        """The same; where there was nothing, also over what a person deleted."""
        if last:
            return await self.put(key, value, token=token, last=last)
        try:
            return await self._keys.create(key, _payload({"token": token, "value": value}))
        except KeyWrongLastSequenceError as error:
            raise OvertakenError(key) from error

    async def find(self, key: str) -> Entry | None:
        """Another key as it stands."""
        try:
            entry = await self._keys.get(key)
        except KeyNotFoundError:
            return None
        return _entry(key, entry)

    async def entries(self, *, until: int = 0) -> list[Entry]:
        """Every key but the lease, with all that was written before the lease had the revision `until`. The server that
        is asked may be behind the others: it is waited for. Raises one of `connection.FAILURES`."""
        watcher = await self._keys.watchall()
        found: dict[str, Entry] = {}
        seen, begins = 0, True
        try:
            while begins or seen < until:
                entry = await watcher.updates(timeout=5 * ANSWER_WITHIN_S)  # type: ignore[no-untyped-call]
                if entry is None:
                    begins = False
                elif entry.key == LEASE:
                    seen = max(seen, int(entry.revision or 0))
                elif entry.operation is None:
                    found[entry.key] = _entry(entry.key, entry)
                else:
                    found.pop(entry.key, None)
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]
        return list(found.values())

    async def _write(self, key: str, value: Any, last: int) -> int:
        try:
            return await self._keys.update(key, _payload(value), last=last)
        except KeyWrongLastSequenceError as error:
            raise OvertakenError(key) from error


def _payload(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _entry(key: str, found: KeyValue.Entry) -> Entry:
    body = json.loads(found.value or b"")
    return Entry(key=key, revision=int(found.revision or 0), token=body["token"], value=body["value"])


def left_by(entries: Iterable[Entry], tenure: int) -> list[Entry]:
    """What a tenure left: what it wrote, and what it found. What an earlier one wrote after it had begun is nothing:
    that agent had been relieved and did not know."""
    return [entry for entry in entries if entry.token == tenure or entry.revision < tenure]


def orders_as_value(orders: Sequence[Order]) -> Any:
    """Orders of one machine as they are kept."""
    return [[order.order_id, *order_row(order)] for order in orders]


def orders_in(entries: Iterable[Entry]) -> list[Order]:
    """The orders among what was left."""
    return [
        order_of(dict(zip(_COLUMNS, row, strict=True)))
        for entry in entries
        if entry.key.startswith(_ORDERS)
        for row in entry.value
    ]


def settings_in(entries: Iterable[Entry]) -> dict[str, str]:
    """The settings among it."""
    return {
        entry.key.removeprefix(_SETTING): entry.value for entry in entries if entry.key.startswith(_SETTING)
    }


def claims_in(entries: Iterable[Entry]) -> dict[MachineId, tuple[str | None, int]]:
    """The claims among it: whose each machine is, nobody's if it was given back, and the number of that."""
    return {
        MachineId(bytes.fromhex(entry.key.removeprefix(_CLAIM)).decode()): (entry.value, entry.revision)
        for entry in entries
        if entry.key.startswith(_CLAIM)
    }
