"""`hashcost recommend` and `hashcost explain`: the stored recommendations, and why one machine has its own."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from agent.appraisal import Terms
from agent.decisions import DecisionRecord, decision_lines
from agent.explain import WHY, explain
from agent.market.quote import Market
from agent.policy import Action
from agent.reader import Reader
from agent.selector import SelectorError, parse, select
from agent.status import PLAIN_WIDTH
from agent.stored import StoredPicture, stored_picture
from agent.summary import as_data, draw
from agent.view import MachineView, Picture

_LEAVES_AS_IT_IS = frozenset({Action.RUN, Action.STAY_ASLEEP, Action.HOLD})


def print_recommendations(database: Path, *, as_json: bool) -> None:
    """Print the machines that are to be switched, worst margin first. Raises `StoreError` if nothing is stored."""
    stored = stored_picture(database, datetime.now(UTC))
    picture = stored.picture
    to_act_on = [view for view in picture.views if view.action not in _LEAVES_AS_IT_IS]
    picture = Picture(market=picture.market, terms=picture.terms, views=to_act_on)
    if as_json:
        _print_data(as_data(picture, decisions=stored.decisions), stored)
        return
    notes = (
        decision_lines(stored.decisions)
        if to_act_on
        else ["nothing is recommended: every machine is to be left as it is"]
    )
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(picture, notes=[*notes, *_stale(stored)], width=console.width))


def print_explanation(database: Path, machine: str, *, as_json: bool) -> None:
    """Print why one machine, by id, MAC or address, is recommended what it is. Raises `SelectorError` or
    `StoreError`."""
    stored = stored_picture(database, datetime.now(UTC))
    picture = stored.picture
    view = _the_machine(machine, picture)
    market, terms = _conditions_of(database, view) or (picture.market, picture.terms)
    told = explain(view, market, terms)
    decided = stored.decisions.get(view.machine_id)
    if as_json:
        _print_data(told.as_data() | {"decision": decided and decided.as_data()}, stored)
        return
    does = "nothing was decided yet" if decided is None else f"{decided.in_words()}\n{_because(decided)}"
    sys.stdout.write("\n".join([told.as_text(), f"  {'agent':<14}{does}", *_stale(stored)]) + "\n")


def _conditions_of(database: Path, view: MachineView) -> tuple[Market, Terms] | None:
    """Prices and terms of a machine whose own they are."""
    with Reader(database) as reader:
        return reader.conditions_of(view.machine_id)


def _because(decided: DecisionRecord) -> str:
    return f"  {'':<14}{WHY[decided.reason]}"


def _the_machine(name: str, picture: Picture) -> MachineView:
    found = select(parse(name), picture.views)
    if len(found) != 1:
        raise SelectorError(
            name, f"means {len(found)} machines and not one; name it by its id, MAC or address"
        )
    return found[0]


def _print_data(data: Mapping[str, Any], stored: StoredPicture) -> None:
    age = {"polled_at": stored.polled_at.isoformat(), "age_s": stored.age.total_seconds()}
    sys.stdout.write(json.dumps({**data, **age}) + "\n")


def _stale(stored: StoredPicture) -> list[str]:
    if not stored.is_stale:
        return []
    return [f"STALE: the agent has not polled since {stored.polled_at:%Y-%m-%d %H:%M:%S} UTC; is it running?"]
