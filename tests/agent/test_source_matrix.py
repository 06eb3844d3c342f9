"""Every source failing in every way: the consensus stays true, and `docs/source-matrix.md` shows it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.simulated.web import SourceFault
from tests.agent.source_matrix import Cell, Key, collect, document, keys
from tests.loops import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "source-matrix.md"


@pytest.fixture(scope="module")
def cells() -> Mapping[Key, Cell]:
    """The matrix, made once."""
    return run(collect())


@pytest.mark.parametrize("key", list(keys()), ids="-".join)
def test_one_source_that_fails_or_lies_neither_moves_the_price_nor_stops_the_agent(cells, key):
    cell = cells[key]
    assert cell.moved is not None
    assert abs(cell.moved) < 0.01
    assert cell.automatic, cell.detail


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (SourceFault.DOWN, "unreachable"),
        (SourceFault.SLOW, "timeout"),
        (SourceFault.STATUS_429, "status_429"),
        (SourceFault.STATUS_503, "status_503"),
        (SourceFault.REDIRECT, "told"),
        (SourceFault.LOOP, "unreachable"),
        (SourceFault.HTML, "malformed"),
        (SourceFault.CUT, "malformed"),
        (SourceFault.HUGE, "too_large"),
        (SourceFault.TEXTS, "told"),
    ],
)
def test_each_failure_has_its_kind_whatever_the_source(cells, fault, kind):
    exceptions = {
        ("bitcoin_core", SourceFault.REDIRECT),  # nobody follows a redirect with a login
        ("bitcoin_core", SourceFault.LOOP),
        ("bitcoin_core", SourceFault.TEXTS),
        ("mempool", SourceFault.HTML),
        ("mempool", SourceFault.CUT),
    }
    for source in {source for source, _ in keys()}:
        if (source, fault) not in exceptions:
            assert cells[source, fault].source == kind, source


def test_the_document_is_current(cells):
    found = document(cells)
    if os.environ.get("HASHCOST_WRITE_DOCS"):
        DOCUMENT.write_text(found)
    assert DOCUMENT.read_text() == found, "write it anew: HASHCOST_WRITE_DOCS=1 python -m pytest " + __file__
