"""How a database takes over what another agent of the site left: in the caller's transaction, on its connection."""

import sqlite3

from agent.database import FIRST_ORDER_ID, TENURE
from agent.order_rows import ORDER_COLUMNS, order_row
from agent.orders import Order
from agent.tenure import Inheritance

_RELIEVED = """
    update orders set
        settled_ms = case state when 'confirmed' then coalesce(settled_ms, created_ms) else created_ms end,
        state = case state when 'confirmed' then 'released' else 'expired' end,
        detail = 'another agent had the machines meanwhile'
    where state in ('proposed', 'approved', 'dispatching', 'dispatched') or (action = 'sleep' and state = 'confirmed')
"""


def inherit(connection: sqlite3.Connection, left: Inheritance) -> list[Order]:
    """The orders that were left stand, and of our own none that was not. Gives those of machines that are not known
    here: nothing can be done for them."""
    _save(connection, TENURE, left.token)
    if left.orders is None:
        return []
    _save(connection, FIRST_ORDER_ID, left.first_order_id)
    for name, value in left.settings.items():
        _save(connection, name, value)
    connection.execute(_RELIEVED)
    known = {machine_id for (machine_id,) in connection.execute("select machine_id from machines")}
    columns = ("order_id", *ORDER_COLUMNS)
    connection.executemany(
        f"insert or replace into orders ({', '.join(columns)}) values ({', '.join('?' * len(columns))})",  # noqa: S608 - names of ours
        [(order.order_id, *order_row(order)) for order in left.orders if order.machine_id in known],
    )
    return [order for order in left.orders if order.machine_id not in known]


def drop_untold(connection: sqlite3.Connection) -> None:
    """Of what waits for the fleet keep what nobody else tells: how things stand, another agent has told since."""
    connection.execute("delete from outbox where kind not in ('ledger', 'events')")


def _save(connection: sqlite3.Connection, name: str, value: object) -> None:
    connection.execute("insert or replace into settings values (?, ?)", (name, str(value)))
