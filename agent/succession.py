"""How a database takes over what another agent of the site left: in the caller's transaction, on its connection."""

import json
import sqlite3
from collections.abc import Iterable

from agent.database import FIRST_ORDER_ID, INHERITED, TENURE
from agent.order_rows import ORDER_COLUMNS, order_of, order_row
from agent.orders import Order
from agent.tenure import Inheritance

_COLUMNS = ("order_id", *ORDER_COLUMNS)
_RELIEVED = """
    update orders set
        settled_ms = case state when 'confirmed' then coalesce(settled_ms, created_ms) else created_ms end,
        state = case state when 'confirmed' then 'released' else 'expired' end,
        detail = 'another agent had the machines meanwhile'
    where state in ('proposed', 'approved', 'dispatching', 'dispatched') or (action = 'sleep' and state = 'confirmed')
"""


def inherit(connection: sqlite3.Connection, left: Inheritance) -> None:
    """The orders that were left will stand, and of our own none that was not."""
    _save(connection, TENURE, left.token)
    if left.orders is None:
        return
    _save(connection, FIRST_ORDER_ID, left.first_order_id)
    for name, value in left.settings.items():
        _save(connection, name, value)
    connection.execute(_RELIEVED)
    _save_inherited(connection, left.orders)


def adopt(connection: sqlite3.Connection) -> tuple[list[Order], list[Order]]:
    """Of the orders that were left, those stand now whose machines are known here; the rest waits until they are. Gives
    both."""
    found = connection.execute("select value from settings where name = ?", [INHERITED]).fetchone()
    rows = [] if found is None else json.loads(found[0])
    if not rows:
        return [], []
    left = [order_of(dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    known = {machine_id for (machine_id,) in connection.execute("select machine_id from machines")}
    adopted = [order for order in left if order.machine_id in known]
    waiting = [order for order in left if order.machine_id not in known]
    connection.executemany(
        f"insert or replace into orders ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})",  # noqa: S608 - names of ours
        [(order.order_id, *order_row(order)) for order in adopted],
    )
    if adopted:
        _save_inherited(connection, waiting)
    return adopted, waiting


def _save_inherited(connection: sqlite3.Connection, orders: Iterable[Order]) -> None:
    _save(connection, INHERITED, json.dumps([(order.order_id, *order_row(order)) for order in orders]))


def drop_untold(connection: sqlite3.Connection) -> None:
    """Of what waits for the fleet keep what nobody else tells: how things stand, another agent has told since."""
    connection.execute("delete from outbox where kind not in ('ledger', 'events')")


def _save(connection: sqlite3.Connection, name: str, value: object) -> None:
    connection.execute("insert or replace into settings values (?, ?)", (name, str(value)))
