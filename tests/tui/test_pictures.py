"""The pictures in docs/ and the texts beside these tests are what the program shows. `make docs` writes them anew."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.tui.pictures import fill, fill_fleet, fleet_picture, tour
from tests.tui.screens import MEDIUM, NARROW, WIDE

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SNAPSHOTS = Path(__file__).parent / "snapshots"
WRITE = bool(os.environ.get("HASHCOST_WRITE_DOCS"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "hashcost.db"
    fill(path)
    return path


def compare(path: Path, content: str) -> None:
    if WRITE:
        path.write_text(content)
    assert path.read_text() == content, f"{path.name} is not what is shown; look at it, then `make docs`"


async def test_the_pictures_of_the_documentation_are_current(database):
    async for screen, app in tour(database, MEDIUM):
        compare(PICTURES / f"{screen}.svg", app.export_screenshot(title="hashcost"))


async def test_the_picture_of_a_fleet_is_current(tmp_path):
    directory = await asyncio.to_thread(fill_fleet, tmp_path)
    compare(PICTURES / "sites.svg", await fleet_picture(directory, MEDIUM))


@pytest.mark.parametrize("size", [NARROW, MEDIUM, WIDE], ids=str)
async def test_screens_show_what_they_showed(database, size):
    async for screen, app in tour(database, size):
        compare(SNAPSHOTS / f"{screen}-{size[0]}x{size[1]}.txt", shown(app))


@pytest.mark.parametrize("size", [NARROW, MEDIUM, WIDE], ids=str)
@pytest.mark.parametrize("theme", ["textual-light", "no colour"])
async def test_light_and_colourless_terminals_show_the_same_text(database, theme, size, monkeypatch):
    if theme == "no colour":
        monkeypatch.setenv("NO_COLOR", "1")
    async for screen, app in tour(database, size, theme=None if theme == "no colour" else theme):
        assert (SNAPSHOTS / f"{screen}-{size[0]}x{size[1]}.txt").read_text() == shown(app)


def shown(app) -> str:
    lines = app.screen._compositor.render_strips()
    told = ("".join(segment.text for segment in strip).rstrip() for strip in lines)
    return "\n".join(told).rstrip() + "\n"
