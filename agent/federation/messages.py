"""What goes over the wire between a site and the fleet: kinds, columns, versions, bounds.

    MessageError             a message that is refused; it changes nothing

A message is rows of one kind: `{"v": 1, "kind": ..., "site": ..., "columns": [...], "rows": [[...], ...]}`, as JSON
under zlib (RFC 1950). Rows are those of the site's own store, times integer milliseconds since 1970 UTC, None null.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent import books
from agent.decisions import DECISION_COLUMNS
from agent.order_rows import ORDER_COLUMNS
from agent.rows import LATEST_COLUMNS, MACHINE_COLUMNS, ROUND_COLUMNS

VERSION = 1
ROWS_IN_A_MESSAGE = 250
LIMIT_BYTES = 512 * 1024
"""Of a message on the wire; servers take 1 MiB unless configured otherwise."""
LIMIT_INFLATED_BYTES = 4 * 1024 * 1024
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""An organisation or a site: one token of a subject."""
Row = Sequence[Any]


class MessageError(ValueError):
    """Not a message of ours, or one that this version does not know; the text says why."""


class Kind(StrEnum):
    """What the rows of a message are; the last token of its subject."""

    MACHINES = "machines"
    """The inventory, when it changes."""
    GONE = "gone"
    """Machines that turned out to be others."""
    PRICES = "prices"
    """Prices and terms, each once, by an id."""
    APPRAISALS = "appraisals"
    """Machines that changed enough to tell, as they are from now on."""
    ROUNDS = "rounds"
    """The end of a poll round: its sums. A machine that the round did not tell of is as it was, and was seen again."""
    DECISIONS = "decisions"
    ORDERS = "orders"
    """Every state that an order goes through."""
    EVENTS = "events"
    LEDGER = "ledger"
    """What each machine did in an hour, in sums."""
    GAPS = "gaps"
    """What was left out because the site had no more room to keep it."""


QUOTE_COLUMNS = (
    "difficulty", "height", "fees_btc", "btc_usd", "hashprice_usd_per_ph_day", "hashprice_source",
    "price_usd_per_kwh", "price_source", "fee", "reject", "overhead", "credit_usd_per_kwh",
)  # fmt: skip
"""Of `agent.rows.quote_values`."""
_APPRAISED = tuple(name for name in LATEST_COLUMNS if name != "change")
COLUMNS: dict[Kind, tuple[str, ...]] = {
    Kind.MACHINES: MACHINE_COLUMNS,
    Kind.GONE: ("machine_id", "at_ms"),
    Kind.PRICES: ("quote_id", "at_ms", *QUOTE_COLUMNS, "own"),
    Kind.APPRAISALS: (*_APPRAISED, "quote_id", "ours", "valid_ms"),
    Kind.ROUNDS: ROUND_COLUMNS,
    Kind.DECISIONS: DECISION_COLUMNS,
    Kind.ORDERS: ("order_id", *ORDER_COLUMNS),
    Kind.EVENTS: ("at_ms", "kind", "machine_id", "detail"),
    Kind.LEDGER: books.COLUMNS,
    Kind.GAPS: ("kind", "messages", "from_ms", "until_ms"),
}
"""The columns of each kind in this version; a message with others is refused."""
_PLAIN = (str, int, float, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Rows of one kind from one site."""

    kind: Kind
    site: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where a message stands in what its site has told: `sequence` grows within an `epoch`, which begins with every
    start of an agent; `previous` is the sequence of the message before it, 0 for the first of an epoch."""

    epoch: str
    sequence: int
    previous: int

    @property
    def message_id(self) -> str:
        """By which servers know a message that comes twice."""
        return f"{self.epoch}.{self.sequence}"


def subject(org: str, site: str, kind: Kind | str) -> str:
    """Where messages of a kind go."""
    return f"hashcost.{org}.{site}.{kind}"


def encode(message: Message) -> bytes:
    """The message as it is sent and kept."""
    body = {
        "v": VERSION,
        "kind": message.kind.value,
        "site": message.site,
        "columns": COLUMNS[message.kind],
        "rows": message.rows,
    }
    return zlib.compress(json.dumps(body, separators=(",", ":")).encode(), level=6)


def decode(payload: bytes, *, told_on: str) -> Message:
    """Read a message that came on the subject `told_on`. Raises `MessageError`."""
    body = _parsed(_inflated(payload))
    if body.get("v") != VERSION:
        raise MessageError(f"version {body.get('v')!r:.20} is not known here")
    *_, site, kind = told_on.split(".")
    if body.get("kind") != kind or body.get("site") != site:
        raise MessageError("it says that it is of another site or kind than its subject")
    try:
        known = Kind(kind)
    except ValueError as error:
        raise MessageError("a kind that is not known here") from error
    if body.get("columns") != list(COLUMNS[known]):
        raise MessageError(f"other columns than those of {known.value} in version {VERSION}")
    return Message(kind=known, site=site, rows=_rows(body.get("rows"), len(COLUMNS[known])))


def _inflated(payload: bytes) -> bytes:
    if len(payload) > LIMIT_BYTES:
        raise MessageError(f"{len(payload)} bytes, more than {LIMIT_BYTES}")
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(payload, LIMIT_INFLATED_BYTES)
    except zlib.error as error:
        raise MessageError("not compressed as ours are") from error
    if not inflating.eof or inflating.unused_data:
        raise MessageError(f"cut off, or more than {LIMIT_INFLATED_BYTES} bytes")
    return text


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError("not JSON") from error
    if not isinstance(body, dict):
        raise MessageError("not a JSON object")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and infinities are no numbers of ours


def _rows(rows: Any, width: int) -> Sequence[Row]:
    if not isinstance(rows, list) or not 0 < len(rows) <= ROWS_IN_A_MESSAGE:
        raise MessageError(f"no list of 1 to {ROWS_IN_A_MESSAGE} rows")
    for row in rows:
        if not isinstance(row, list) or len(row) != width:
            raise MessageError("a row of another length than its columns")
        if not all(isinstance(cell, _PLAIN) for cell in row):
            raise MessageError("a cell that is neither text nor number")
    return rows
