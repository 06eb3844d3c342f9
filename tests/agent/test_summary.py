"""The table in terminals of any width: what decides stays, what is hidden is named."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from agent.fleet import Fleet
from agent.summary import as_data, draw, fitting, fleet_table
from drivers.reading import PowerSource
from tests.agent.builders import asleep, failure, machine, picture, reading

SITE = picture(
    Fleet(
        [
            machine(1, reading()),
            machine(2, reading(power_w=9000.0, power_source=PowerSource.NAMEPLATE)),
            machine(3, failure("authentication_failed")),
            machine(4, asleep()),
        ]
    )
)


def printed(what, width):
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()


def headings(width):
    return [column.heading for column in fitting(SITE.views, width)]


def test_a_wide_terminal_shows_everything_and_hides_nothing():
    shown = printed(draw(SITE, width=200), 200)
    assert "W from" in shown
    assert "nameplate" in shown
    assert "hidden on this width" not in shown


def test_at_80_columns_what_decides_is_there_with_the_source_of_the_watts():
    shown = printed(draw(SITE, width=80), 80)
    assert headings(80)[-1] == "recommendation"
    assert {"machine", "state", "W", "margin"} < set(headings(80))
    assert "9000 n" in shown
    assert "3500 r" in shown
    assert "n nameplate" in shown
    assert "hidden on this width: model" in " ".join(shown.split())
    assert "hold unreachable:authentication_failed" in shown


def test_the_source_is_folded_before_anything_is_hidden():
    folded = next(width for width in range(200, 40, -1) if "W from" not in headings(width))
    assert len(headings(folded)) == 11


@pytest.mark.parametrize("width", range(40, 200, 7))
def test_the_table_fits_and_keeps_machine_margin_and_action(width):
    shown = printed(fleet_table(SITE.views, width), width)
    assert len(shown.splitlines()) == 5
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    kept = set(headings(width))
    assert {"machine", "margin"} < kept
    assert kept & {"action", "recommendation"}


def test_what_is_left_out_is_counted_apart_from_what_has_no_margin():
    assert "... and 3 more (1 of them without a margin)" in printed(draw(SITE, rows=1, width=120), 120)
    assert "... and 1 more (1 of them without a margin)" in printed(draw(SITE, rows=3, width=120), 120)
    some = picture(Fleet([machine(1, reading()), machine(2, reading())]))
    assert "... and 1 more\n" in printed(draw(some, rows=1, width=120), 120)


@pytest.mark.parametrize(
    "name", sorted({*as_data(SITE)["market"], *as_data(SITE)["totals"], *as_data(SITE)["machines"][0]})
)
def test_every_name_of_the_data_is_in_the_reference(name):
    reference = Path(__file__).parents[2] / "docs" / "reference.md"
    assert f"`{name}`" in reference.read_text()
