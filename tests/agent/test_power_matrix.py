"""Every feed of the power price failing in every way: nothing absurd is believed, nothing stale acted on, and
`docs/power-source-matrix.md` shows it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.config.power import AccountSection
from agent.feeds import power_source
from agent.fetch import Fetcher
from agent.simulated.power import ERCOT_KEY, SimulatedPower, TruePower
from agent.simulated.web import SourceFault
from tests.agent.power_matrix import FEEDS, START, Cell, Key, collect, document, keys, section
from tests.agent.source_matrix import HandClock
from tests.loops import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "power-source-matrix.md"


@pytest.fixture(scope="module")
def cells() -> Mapping[Key, Cell]:
    """The matrix, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERCOT_KEY", ERCOT_KEY)
        return run(collect())


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("fault", [None, SourceFault.REDIRECT, SourceFault.TEXTS], ids=str)
def test_a_feed_that_tells_is_believed_and_true(cells, feed, fault):
    cell = cells[feed, fault]
    assert cell.source == "told"
    assert cell.quote.state == "live"
    assert cell.quote.automatic
    assert cell.quote.price_usd_per_kwh == pytest.approx(cell.truth, abs=0.002)


@pytest.mark.parametrize("key", list(keys()), ids=str)
def test_whatever_a_feed_says_the_price_is_near_the_truth_or_not_acted_on(cells, key):
    _, fault = key
    for quote in (cells[key].quote, cells[key].later):
        if quote is None or not quote.automatic:
            continue
        near = abs(quote.price_usd_per_kwh - cells[key].truth) < 0.02
        # a zero, and a price a thousand times too small, are prices that there are
        assert near or fault in {SourceFault.ZEROS, SourceFault.THOUSANDTH}, quote


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("fault", [SourceFault.TIMES_100, SourceFault.TIMES_1000], ids=str)
def test_a_price_in_another_unit_is_quarantined(cells, feed, fault):
    cell = cells[feed, fault]
    assert cell.source == "implausible"
    assert (cell.quote.state, cell.quote.automatic) == ("quarantined", False)
    assert "is the unit right" in cell.quote.detail


@pytest.mark.parametrize("feed", sorted(set(FEEDS) - {"nord_pool", "octopus"}))
@pytest.mark.parametrize(
    "fault", [SourceFault.DOWN, SourceFault.STATUS_503, SourceFault.HTML, SourceFault.YESTERDAY], ids=str
)
def test_a_real_time_price_that_nobody_renews_is_held_and_not_acted_on(cells, feed, fault):
    assert cells[feed, fault].quote.automatic
    later = cells[feed, fault].later
    assert (later.state, later.automatic) == ("held", False)


async def test_ercot_is_asked_with_the_token_of_an_account_and_a_new_one_when_that_expired(
    monkeypatch, tmp_path
):
    (tmp_path / "password").write_text("pickaxe")
    monkeypatch.setenv("ERCOT_KEY", ERCOT_KEY)
    clock = HandClock(START)
    power = SimulatedPower(TruePower(), clock)
    power.ercot_account = ("site", "pickaxe")
    async with power.server, Fetcher(Clock(now=clock), timeout_s=2.0) as fetcher:
        given = {"token_url": power.server.url("ercot_token"), "password_file": str(tmp_path / "password")}
        tariff = power_source(
            section(power, "ercot", account=AccountSection(username="site", **given)),
            fetcher,
            Clock(now=clock),
        )
        for token in ("one", "two"):
            power.ercot_token = token
            await tariff.ask(clock())
            assert tariff.status.failure is None
        assert power.server.asked["ercot_token"] == 2
        thief = AccountSection(username="thief", **given)
        for own in ({"account": thief}, {}):
            refused = power_source(section(power, "ercot", **own), fetcher, Clock(now=clock))
            await refused.ask(clock())
            assert refused.status.failure == "status_401: HTTP 401"


def test_the_document_is_current(cells):
    found = document(cells)
    if os.environ.get("HASHCOST_WRITE_DOCS"):
        DOCUMENT.write_text(found)
    assert DOCUMENT.read_text() == found, "write it anew: HASHCOST_WRITE_DOCS=1 python -m pytest " + __file__
