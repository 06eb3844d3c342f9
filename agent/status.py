"""`hashcost status`: the stored picture, how old it is, and what the last scan could not make out."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from agent.decisions import decision_lines
from agent.market.report import report_lines
from agent.stored import stored_picture
from agent.summary import as_data, doubt_lines, draw

PLAIN_WIDTH = 200


def print_status(database: Path, *, as_json: bool) -> None:
    """Print the latest picture of the store. Raises `StoreError` if there is none."""
    stored = stored_picture(database, datetime.now(UTC))
    if as_json:
        doubts = [f"{event.kind}: {event.detail}" for event in stored.doubts]
        data = as_data(stored.picture, notes=doubts, decisions=stored.decisions) | {
            "polled_at": stored.polled_at.isoformat(),
            "age_s": stored.age.total_seconds(),
            "stale": stored.is_stale,
            "prices": stored.prices,
        }
        sys.stdout.write(json.dumps(data) + "\n")
        return
    notes = [*report_lines(stored.prices), *decision_lines(stored.decisions), *doubt_lines(stored.doubts)]
    notes.append(f"last poll {stored.polled_at:%Y-%m-%d %H:%M:%S} UTC, {_in_words(stored.age)} ago")
    if stored.is_stale:
        notes.append("STALE: the agent has not polled since; is it running?")
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(stored.picture, notes=notes, width=console.width))


def _in_words(age: timedelta) -> str:
    return str(timedelta(seconds=int(age.total_seconds())))
