"""`hashcost status`: the stored picture, and how old it is."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from agent.store import Reader, StoreError
from agent.summary import as_data, draw
from agent.view import Picture, by_margin

STALE_AFTER = timedelta(minutes=5)
PLAIN_WIDTH = 200


def print_status(database: Path, *, as_json: bool) -> None:
    """Print the latest picture of the store. Raises `StoreError` if there is none."""
    with Reader(database) as reader:
        conditions = reader.conditions()
        if conditions is None:
            raise StoreError(f"{database}: no poll round yet; is `hashcost run` running?")
        market, terms = conditions
        picture = Picture(market=market, terms=terms, views=by_margin(reader.latest()))
        polled_at = reader.last_round_at() or market.at
    age = datetime.now(UTC) - polled_at
    if as_json:
        data = as_data(picture) | {"polled_at": polled_at.isoformat(), "age_s": age.total_seconds()}
        sys.stdout.write(json.dumps(data) + "\n")
        return
    notes = [f"last poll {polled_at:%Y-%m-%d %H:%M:%S} UTC, {_in_words(age)} ago"]
    if age > STALE_AFTER:
        notes.append("STALE: the agent has not polled since; is it running?")
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(picture, notes=notes, width=console.width))


def _in_words(age: timedelta) -> str:
    return str(timedelta(seconds=int(age.total_seconds())))
