"""`hashcost recommend` and `hashcost explain`: the stored recommendations, and why one machine has its own."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from agent.explain import explain
from agent.policy import Action
from agent.selector import SelectorError, parse, select
from agent.status import PLAIN_WIDTH, STALE_AFTER
from agent.store import Reader, StoreError
from agent.summary import as_data, draw
from agent.view import MachineView, Picture, by_margin

_LEAVES_AS_IT_IS = frozenset({Action.RUN, Action.STAY_ASLEEP, Action.HOLD})


def print_recommendations(database: Path, *, as_json: bool) -> None:
    """Print the machines that are to be switched, worst margin first. Raises `StoreError` if nothing is stored."""
    picture, polled_at = _stored(database)
    to_act_on = [view for view in picture.views if view.action not in _LEAVES_AS_IT_IS]
    picture = Picture(market=picture.market, terms=picture.terms, views=to_act_on)
    if as_json:
        _print_data(as_data(picture), polled_at)
        return
    notes = [] if to_act_on else ["nothing is recommended: every machine is to be left as it is"]
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(picture, notes=[*notes, *_stale(polled_at)], width=console.width))


def print_explanation(database: Path, machine: str, *, as_json: bool) -> None:
    """Print why one machine, by id, MAC or address, is recommended what it is. Raises `SelectorError` or
    `StoreError`."""
    picture, polled_at = _stored(database)
    told = explain(_the_machine(machine, picture), picture.market, picture.terms)
    if as_json:
        _print_data(told.as_data(), polled_at)
        return
    sys.stdout.write("\n".join([told.as_text(), *_stale(polled_at)]) + "\n")


def _stored(database: Path) -> tuple[Picture, datetime]:
    with Reader(database) as reader:
        conditions = reader.conditions()
        if conditions is None:
            raise StoreError(f"{database}: no poll round yet; is `hashcost run` running?")
        market, terms = conditions
        picture = Picture(market=market, terms=terms, views=by_margin(reader.latest()))
        return picture, reader.last_round_at() or market.at


def _the_machine(name: str, picture: Picture) -> MachineView:
    found = select(parse(name), picture.views)
    if len(found) != 1:
        raise SelectorError(
            name, f"means {len(found)} machines and not one; name it by its id, MAC or address"
        )
    return found[0]


def _print_data(data: Mapping[str, Any], polled_at: datetime) -> None:
    age = {"polled_at": polled_at.isoformat(), "age_s": (datetime.now(UTC) - polled_at).total_seconds()}
    sys.stdout.write(json.dumps({**data, **age}) + "\n")


def _stale(polled_at: datetime) -> list[str]:
    if datetime.now(UTC) - polled_at <= STALE_AFTER:
        return []
    return [f"STALE: the agent has not polled since {polled_at:%Y-%m-%d %H:%M:%S} UTC; is it running?"]
