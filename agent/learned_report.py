"""`hashcost learned`: what the site's own history says of its models, and how much it counts."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.curtailment import CurtailmentPolicy
from agent.learned import learned
from agent.learning import ModelLearned
from agent.status import PLAIN_WIDTH
from agent.summary import number


def print_learned(database: Path, policy: CurtailmentPolicy, *, as_json: bool) -> None:
    """Print it. Raises `StoreError`."""
    models = learned(database, policy)
    if as_json:
        sys.stdout.write(json.dumps([asdict(each) for each in models]) + "\n")
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(_draw(models) if models else "no machine is known yet; is `hashcost run` running?")


def _draw(models: Sequence[ModelLearned]) -> RenderableType:
    cycles = _table(
        "model", "wakes", "sleeps", "s to full", "s to sleep", "ramp kWh", "asleep W", "prior USD", "measured USD",
        "confidence", "K USD",
    )  # fmt: skip
    modes = _table("model", "mode", "machines", "TH/s", "W", "J/TH")
    for each in models:
        cycles.add_row(
            each.model,
            str(each.wakes),
            str(each.sleeps),
            number(each.seconds_to_full, 0),
            number(each.seconds_to_sleep, 0),
            number(each.ramp_kwh, 3),
            number(each.sleep_power_w, 0),
            number(each.prior_usd, 4),
            number(each.measured_usd, 4),
            f"{each.confidence:.0%}",
            number(each.switching_cost_usd, 4),
        )
        for mode in each.modes:
            modes.add_row(
                each.model,
                mode.power_mode or "-",
                str(mode.machines),
                number(mode.hashrate_ths, 1),
                number(mode.power_w, 0),
                number(mode.efficiency_j_per_th, 1),
            )
    heads = [Text(text, "bold") for text in ("What a sleep and a wake cost together", "Power modes")]
    return Group(heads[0], cycles, Text(), heads[1], modes)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table
