"""The one HTTP client: keys stay with the source that they are for, answers are bounded, politeness is kept."""

from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from agent.clock import Clock
from agent.fetch import CACHED_PAGES, Fetcher, SourceError, _retry_after_s, pause_s, told
from agent.market.live import LiveHashprice
from agent.market.sources import Endpoint
from agent.simulated.web import SimulatedSources, SourceFault
from tests.agent.source_matrix import HandClock, ask_all, site_of_sources


class Web:
    """A small web: pages by name, what each was asked with, and redirects to other origins."""

    def __init__(self):
        self.clock = HandClock()
        self.headers = []
        self.server = SimulatedSources({"page": self._page, "key": self._key})

    def _page(self, request):
        self.headers.append(request.headers)
        return {"path": request.path}

    def _key(self, request):
        self.headers.append(request.headers)
        return {"seen": "x-hi-api-key" in request.headers}


@asynccontextmanager
async def web():
    here = Web()
    async with here.server, Fetcher(Clock(now=here.clock), timeout_s=1.0) as fetcher:
        yield here, fetcher


async def test_a_key_does_not_follow_a_redirect_to_another_origin():
    async with web() as (here, fetcher), web() as (there, _):
        here.server.elsewhere = there.server.url("key")
        page = await fetcher.get(here.server.url("elsewhere"), headers={"X-Hi-Api-Key": "secret"})
        assert page.json() == {"seen": False}
        assert "secret" not in str(there.headers)


async def test_a_key_stays_where_its_own_source_redirects_to():
    async with web() as (here, fetcher):
        here.server.elsewhere = here.server.url("key")
        page = await fetcher.get(here.server.url("elsewhere"), headers={"X-Hi-Api-Key": "secret"})
        assert page.json() == {"seen": True}


async def test_the_memory_of_pages_is_bounded():
    async with web() as (here, fetcher):
        for day in range(CACHED_PAGES + 10):
            await fetcher.get(f"{here.server.url('page')}/{day}")
        assert len(fetcher._cache) == CACHED_PAGES


@asynccontextmanager
async def answering(answer):
    """A fetcher whose every question `answer` answers."""
    clock = HandClock()
    async with (
        Fetcher(Clock(now=clock)) as fetcher,
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client,
    ):
        await fetcher._client.aclose()
        fetcher._client = client
        yield clock, fetcher


async def test_what_its_source_says_not_to_have_changed_comes_from_memory_and_is_new():
    asked = []

    def answer(request):
        asked.append(request.headers.get("If-None-Match"))
        known = asked[-1] == '"one"'
        return httpx.Response(304 if known else 200, headers={"ETag": '"one"'}, text="" if known else "page")

    async with answering(answer) as (clock, fetcher):
        for _ in range(3):
            clock.forward(minutes=1)
            page = await fetcher.get("http://source/")
            assert (page.text(), page.fetched_at) == ("page", clock())
    assert asked == [None, '"one"', '"one"']


SENT, LATER = "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:33:00 GMT"


@pytest.mark.parametrize(
    ("headers", "minutes"),
    [
        ({}, 0),
        ({"Cache-Control": "public, max-age=300"}, 5),
        ({"Cache-Control": "max-age=300, no-store"}, 0),
        ({"Cache-Control": "no-cache", "Expires": LATER, "Date": SENT}, 0),
        ({"Expires": LATER, "Date": SENT}, 5),
        ({"Expires": SENT, "Date": LATER}, 0),
        ({"Expires": "0", "Date": SENT}, 0),
        ({"Expires": LATER}, 0),
        ({"Cache-Control": "max-age=99999999999"}, 15),
    ],
    ids=str,
)
async def test_a_page_stands_for_as_long_as_its_source_says_and_never_for_long(headers, minutes):
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(200, headers=headers, text="page")

    async with answering(answer) as (clock, fetcher):
        first = await fetcher.get("http://source/")
        for _ in range(minutes):
            assert await fetcher.get("http://source/") == first
            clock.forward(minutes=1)
        assert len(asked) == 1
        assert await fetcher.get("http://source/", fresh=True) is not first
        clock.forward(minutes=minutes)
        await fetcher.get("http://source/")
        assert len(asked) == 3


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), TypeError("x"), KeyError("x"), ZeroDivisionError("x"), AttributeError("x")],
    ids=repr,
)
async def test_whatever_is_wrong_with_an_answer_is_a_failure_of_its_source(error):
    async def asking():
        raise error

    with pytest.raises(SourceError, match="malformed"):
        await told(asking())


async def test_a_key_that_cannot_be_sent_is_a_failure_and_not_the_end_of_all_sources():
    async with web() as (here, fetcher):
        luxor = Endpoint(name="luxor", url=here.server.url("page"), secret=lambda: "schl\u00fcssel\u2713")
        live = LiveHashprice([luxor], fetcher)
        await ask_all(live)
        assert live.statuses()[0].failure is not None


def test_a_source_that_fails_is_asked_more_and_more_rarely_and_never_sooner_than_it_wants():
    assert 60 <= pause_s(60.0, 0, None) <= 66
    assert 240 <= pause_s(60.0, 2, None) <= 264
    assert 900 <= pause_s(60.0, 20, None) <= 990
    assert 300 <= pause_s(60.0, 0, 300.0) <= 330


async def test_a_source_may_ask_for_patience_with_a_date():
    """By its own clock, which need not be ours."""
    sent, until = "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:30:00 GMT"
    for headers, wanted in (
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": until, "Date": sent}, 120.0),
        ({"Retry-After": sent, "Date": until}, 0.0),
        ({"Retry-After": until}, None),
        ({"Retry-After": "soon", "Date": sent}, None),
        ({}, None),
    ):
        assert _retry_after_s(httpx.Response(429, headers=headers)) == wanted


async def test_a_failure_that_lasts_is_one_line_in_the_log_and_its_end_another(caplog):
    caplog.set_level("INFO", "hashcost")
    clock = HandClock()
    async with site_of_sources(clock, ("kraken",)) as (prices, live):
        await ask_all(live)
        assert caplog.messages == []
        prices.server.faults["kraken"] = SourceFault.STATUS_503
        for _ in range(3):
            clock.forward(minutes=1)
            await ask_all(live)
        failed = "event=source_failed source=kraken kind=status_503 detail='HTTP 503'"
        assert caplog.messages == [failed]
        for fault in ({}, {"kraken": SourceFault.STATUS_429}, {}, {}):  # it comes and goes
            prices.server.faults = fault
            await ask_all(live)
        assert caplog.messages == [failed]
        for _ in range(2):
            await ask_all(live)
        assert caplog.messages == [failed, "event=source_recovered source=kraken after_failures=4"]


async def test_a_node_that_fails_is_no_witness_against_those_that_answer():
    """Its old word of the difficulty must not outweigh a retarget that another has seen."""
    clock = HandClock()
    async with site_of_sources(clock, ("bitcoin_core", "mempool", "coinbase", "kraken")) as (prices, live):
        await ask_all(live)
        await live.quote(clock())
        clock.forward(hours=5)
        prices.server.faults["bitcoin_core"] = SourceFault.STATUS_503
        prices.market.difficulty *= 1.2
        await ask_all(live)
        quote = await live.quote(clock())
        assert quote.difficulty == prices.market.difficulty
        assert quote.automatic


async def test_numbers_that_are_missing_are_told_one_by_one():
    clock = HandClock()
    async with site_of_sources(clock, ("coinbase", "kraken")) as (_, live):
        await ask_all(live)
        assert await live.quote(clock()) is None
        states = {each.name: each.state.value for each in live.figures}
        assert states == {
            "difficulty": "missing",
            "height": "missing",
            "fees_btc": "missing",
            "btc_usd": "live",
        }
        clock.forward(minutes=1)
        assert live.statuses()[0].answered_at == clock() - timedelta(minutes=1)
