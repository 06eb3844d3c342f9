"""Between orders and their rows in the store."""

import json
from datetime import datetime
from operator import itemgetter
from typing import Any

from agent.orders import Order, OrderAction, OrderState
from agent.rows import from_ms, to_ms
from drivers.driver import RestorePoint
from drivers.reading import MachineId, PowerMode

ORDER_COLUMNS = (
    "machine_id",
    "action", "state", "reason", "ordered_by", "created_ms", "dispatched_ms", "confirmed_ms", "settled_ms",
    "power_w",
    "target_mode",
    "attempts", "drifts", "restore", "failure", "detail", "snapshot",
)  # fmt: skip

CHANGING_COLUMNS = (
    "state", "ordered_by", "dispatched_ms", "confirmed_ms", "settled_ms", "attempts", "restore", "failure", "detail",
)  # fmt: skip
"""The others are as they were made for as long as an order lives."""
changing = itemgetter(*map(ORDER_COLUMNS.index, CHANGING_COLUMNS))
"""Their values in a row."""


def order_row(order: Order) -> tuple[object, ...]:
    """A row of `orders` without its id, in the order of `ORDER_COLUMNS`."""
    return (
        order.machine_id,
        order.action.value,
        order.state.value,
        order.reason,
        order.ordered_by,
        to_ms(order.created_at),
        _ms(order.dispatched_at),
        _ms(order.confirmed_at),
        _ms(order.settled_at),
        order.power_w,
        order.target_mode and order.target_mode.value,
        order.attempts,
        order.drifts,
        None if order.restore is None else _restore_text(order.restore),
        order.failure,
        order.detail,
        json.dumps(dict(order.snapshot)),
    )


def order_of(row: dict[str, Any]) -> Order:
    """A row of `orders`."""
    return Order(
        order_id=row["order_id"],
        machine_id=MachineId(row["machine_id"]),
        action=OrderAction(row["action"]),
        state=OrderState(row["state"]),
        reason=row["reason"],
        ordered_by=row["ordered_by"],
        created_at=from_ms(row["created_ms"]),
        dispatched_at=_moment(row["dispatched_ms"]),
        confirmed_at=_moment(row["confirmed_ms"]),
        settled_at=_moment(row["settled_ms"]),
        power_w=row["power_w"],
        target_mode=PowerMode(row["target_mode"]) if row["target_mode"] else None,
        attempts=row["attempts"],
        drifts=row["drifts"],
        restore=None if row["restore"] is None else _restore_point(row["restore"]),
        failure=row["failure"],
        detail=row["detail"] or "",
        snapshot=json.loads(row["snapshot"] or "{}"),
    )


def _restore_text(point: RestorePoint) -> str:
    mode = point.power_mode and point.power_mode.value
    return json.dumps({"power_mode": mode, "settings": dict(point.settings)})


def _restore_point(text: str) -> RestorePoint:
    values = json.loads(text)
    mode = values["power_mode"]
    return RestorePoint(power_mode=PowerMode(mode) if mode else None, settings=values["settings"])


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_ms(milliseconds)
