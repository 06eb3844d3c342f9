"""What is believed of many sources: never outside of what they say, never moved by one that lies, never younger than
what was seen."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent import economics
from agent.market.consensus import (
    AUTOMATIC_AGE,
    BLOCKS_PER_RETARGET,
    SHOWN_AGE,
    TICKER_AGE,
    Kind,
    Observation,
    agree,
)
from agent.market.quote import Market, PriceState
from agent.market.report import accepted_figures, report

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
TICKERS = ("coinbase", "kraken", "bitstamp", "gemini")
DIFFICULTY, HEIGHT, FEES, PRICE = 149.30e12, 927_000.0, 0.0269, 92_870.0


def said(kind, value, source, age=timedelta()):
    return Observation(kind=kind, value=value, source=source, observed_at=NOW - age)


def chain(source="mempool", **changes):
    values = {"difficulty": DIFFICULTY, "height": HEIGHT, "fees": FEES} | changes
    return [said(Kind[name.upper()], value, source) for name, value in values.items()]


def tickers(*prices, age=timedelta()):
    return [said(Kind.PRICE, price, source, age) for price, source in zip(prices, TICKERS, strict=False)]


def market(*extra, height=HEIGHT, prices=(PRICE, PRICE, PRICE)):
    return [*chain(height=height), *tickers(*prices), *extra]


def figure(consensus, name):
    return next(each for each in consensus.figures if each.name == name)


def price_of(*observations, accepted=None):
    return figure(agree(list(observations), accepted or {}, NOW), "btc_usd")


def accepted_price(value=PRICE, age=timedelta()):
    before = agree(tickers(value, value), {}, NOW).accepted[Kind.PRICE]
    return {Kind.PRICE: replace(before, observed_at=NOW - age)}


# -- price -----------------------------------------------------------------------------------------------


def test_the_price_is_the_median_of_the_tickers():
    told = price_of(*tickers(92_000.0, 92_100.0, 92_300.0))
    assert (told.value, told.state, told.automatic) == (92_100.0, PriceState.LIVE, True)


def test_a_ticker_more_than_two_percent_off_is_left_out():
    told = price_of(*tickers(92_000.0, 92_100.0, 95_000.0))
    assert told.value == 92_050.0
    assert told.detail == "left out: bitstamp"


def test_the_price_is_as_old_as_its_oldest_ticker():
    told = price_of(said(Kind.PRICE, PRICE, "kraken", timedelta(seconds=90)), *tickers(PRICE))
    assert told.observed_at == NOW - timedelta(seconds=90)


@pytest.mark.parametrize(
    "alone",
    [tickers(PRICE), [*tickers(PRICE), said(Kind.PRICE, PRICE, "mempool")]],
    ids=["one ticker", "one ticker and a price that may be old"],
)
def test_one_ticker_is_shown_and_not_acted_on(alone):
    told = price_of(*alone)
    assert told.value == PRICE
    assert not told.automatic


def test_tickers_of_more_than_two_minutes_ago_say_nothing():
    told = price_of(*tickers(PRICE, PRICE, PRICE, age=TICKER_AGE + timedelta(seconds=1)))
    assert (told.value, told.state) == (None, PriceState.MISSING)


def test_tickers_that_contradict_each_other_are_not_believed():
    told = price_of(*tickers(90_000.0, 100_000.0))
    assert (told.value, told.state) == (None, PriceState.QUARANTINED)
    held = price_of(*tickers(90_000.0, 100_000.0), accepted=accepted_price())
    assert (held.value, held.state) == (PRICE, PriceState.HELD)


def test_a_jump_is_quarantined_until_a_second_source_says_the_same():
    before = accepted_price()
    alone = price_of(*tickers(PRICE * 1.3), accepted=before)
    assert (alone.value, alone.state, alone.automatic) == (PRICE, PriceState.QUARANTINED, False)
    assert "coinbase says 120731" in alone.detail
    both = price_of(*tickers(PRICE * 1.3, PRICE * 1.301), accepted=before)
    assert (both.state, both.automatic) == (PriceState.LIVE, True)


@pytest.mark.parametrize(
    ("age", "state", "automatic"),
    [
        (AUTOMATIC_AGE[Kind.PRICE], PriceState.HELD, True),
        (AUTOMATIC_AGE[Kind.PRICE] + timedelta(seconds=1), PriceState.HELD, False),
        (SHOWN_AGE[Kind.PRICE], PriceState.HELD, False),
        (SHOWN_AGE[Kind.PRICE] + timedelta(seconds=1), PriceState.MISSING, False),
    ],
    ids=str,
)
def test_a_price_that_nobody_renews_is_acted_on_then_shown_then_missing(age, state, automatic):
    told = price_of(accepted=accepted_price(age=age))
    assert (told.state, told.automatic) == (state, automatic)
    assert (told.value is None) is (state is PriceState.MISSING)


@pytest.mark.parametrize("absurd", [0.5, 92.87, 9_287_000_000.0])
def test_an_absurd_price_is_refused_whoever_says_it(absurd):
    told = price_of(*tickers(absurd, absurd, absurd))
    assert (told.value, told.state) == (None, PriceState.QUARANTINED)


def test_what_comes_from_the_future_is_not_heard():
    assert price_of(*tickers(PRICE, PRICE, age=-timedelta(seconds=1))).state is PriceState.MISSING


prices = st.floats(50_000, 150_000)


@given(st.lists(prices, min_size=2, max_size=4))
def test_the_consensus_lies_within_what_was_said(values):
    told = price_of(*tickers(*values))
    if told.value is not None:
        assert min(values) <= told.value <= max(values)


@given(prices, st.floats(-0.009, 0.009), st.floats(1, 1e9), st.integers(0, 2))
def test_one_liar_of_three_never_moves_it(price, spread, lie, place):
    assume(abs(lie / price - 1) > 0.03)  # nearer than that it is no lie worth the name
    honest = [price, price * (1 + spread)]
    values = [*honest[:place], lie, *honest[place:]]
    told = price_of(*tickers(*values))
    assert told.value is not None
    assert min(honest) <= told.value <= max(honest)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=6))
def test_the_age_never_falls_without_a_new_observation(waits):
    heard = tickers(PRICE, PRICE)
    accepted, now, youngest = {}, NOW, None
    for wait in waits:
        now += timedelta(seconds=wait)
        agreed = agree(heard, accepted, now)
        accepted = agreed.accepted
        told = figure(agreed, "btc_usd")
        if told.observed_at is None:
            continue
        assert youngest is None or told.observed_at <= youngest
        youngest = told.observed_at


# -- the chain ----------------------------------------------------------------------------------------------


def difficulty_of(*observations, accepted=None):
    return figure(agree(list(observations), accepted or {}, NOW), "difficulty")


def test_the_misprint_of_the_press_ends_in_quarantine():
    """ "Difficulty 1.5056 trillion" would make the hashprice a hundred times what it is."""
    told = difficulty_of(said(Kind.DIFFICULTY, 1.5056e12, "mempool"))
    assert (told.value, told.state, told.automatic) == (None, PriceState.QUARANTINED, False)
    assert "mempool says 1.5056e+12" in told.detail
    misprinted = [*chain(difficulty=1.5056e12), *tickers(PRICE, PRICE)]
    assert agree(misprinted, {}, NOW).quote is None
    before = agree(market(), {}, NOW).accepted
    held = agree(misprinted, before, NOW)
    assert held.quote.difficulty == DIFFICULTY
    assert not held.quote.automatic


def test_one_s_own_node_is_believed_before_others():
    told = difficulty_of(*chain("braiins"), said(Kind.DIFFICULTY, DIFFICULTY * 1.1, "bitcoin_core"))
    assert (told.source, told.automatic) == ("bitcoin_core", True)


def test_a_public_source_that_another_contradicts_is_not_acted_on():
    told = difficulty_of(*chain("mempool"), said(Kind.DIFFICULTY, DIFFICULTY * 1.1, "braiins"))
    assert (told.source, told.automatic) == ("mempool", False)
    assert "braiins says" in told.detail


def test_two_that_agree_outweigh_the_most_trusted():
    told = difficulty_of(
        said(Kind.DIFFICULTY, DIFFICULTY * 2, "bitcoin_core"), *chain("mempool"), *chain("braiins")
    )
    assert (told.value, told.source) == (DIFFICULTY, "mempool")
    assert told.detail == "left out: bitcoin_core"


def test_difficulty_moves_by_no_more_than_four_at_a_time_unless_two_say_so():
    before = agree(market(), {}, NOW).accepted
    five = DIFFICULTY * 5
    alone = difficulty_of(said(Kind.DIFFICULTY, five, "mempool"), accepted=before)
    assert (alone.value, alone.state) == (DIFFICULTY, PriceState.QUARANTINED)
    both = difficulty_of(
        said(Kind.DIFFICULTY, five, "mempool"), said(Kind.DIFFICULTY, five, "braiins"), accepted=before
    )
    assert (both.value, both.state) == (five, PriceState.LIVE)


@pytest.mark.parametrize(
    ("fees", "state"), [(3.0, PriceState.LIVE), (3.1, PriceState.QUARANTINED), (-0.1, PriceState.QUARANTINED)]
)
def test_fees_have_their_band(fees, state):
    assert figure(agree(chain(fees=fees), {}, NOW), "fees_btc").state is state


CHAIN = ("bitcoin_core", "mempool", "braiins", "blockchain_info")
TRUE = {Kind.DIFFICULTY: DIFFICULTY, Kind.HEIGHT: HEIGHT, Kind.FEES: FEES}
chain_kinds = st.sampled_from(list(TRUE))


def judged(kind, values, accepted=None, at=NOW):
    told = [said(kind, value, source) for value, source in zip(values, CHAIN, strict=False)]
    return figure(agree(told, accepted or {}, at), kind.value)


@given(chain_kinds, st.lists(st.floats(0.5, 1.9), min_size=1, max_size=4))
def test_a_number_of_the_chain_is_one_that_somebody_said(kind, factors):
    values = [TRUE[kind] * factor for factor in factors]
    told = judged(kind, values)
    if told.value is not None:
        assert told.value in values


@given(chain_kinds, st.floats(1e-6, 1e6), st.integers(0, 2), st.booleans())
def test_one_liar_of_three_never_moves_a_number_of_the_chain(kind, factor, place, known):
    """Not even if it is the most trusted."""
    lie = TRUE[kind] * factor
    apart = {Kind.DIFFICULTY: 0.01 * DIFFICULTY, Kind.HEIGHT: 6, Kind.FEES: 0.1}[kind]
    assume(abs(lie - TRUE[kind]) > apart)
    values = [TRUE[kind]] * 3
    values[place] = lie
    accepted = agree(market(), {}, NOW).accepted if known else {}
    told = judged(kind, values, accepted)
    assert (told.value, told.state) == (TRUE[kind], PriceState.LIVE)


@given(chain_kinds, st.lists(st.integers(0, 90_000), min_size=1, max_size=6))
def test_the_age_of_a_number_of_the_chain_never_falls_without_a_new_observation(kind, waits):
    heard, accepted, now, youngest = market(), {}, NOW, None
    for wait in waits:
        now += timedelta(seconds=wait)
        agreed = agree(heard, accepted, now)
        accepted = agreed.accepted
        told = figure(agreed, kind.value)
        if told.observed_at is not None:
            assert youngest is None or told.observed_at <= youngest
            youngest = told.observed_at


def test_what_is_remembered_from_long_ago_is_no_witness():
    """A site with one source of its own comes back after a month: the chain has gone on."""
    month = timedelta(days=30)
    old = {
        kind: replace(each, observed_at=NOW - month)
        for kind, each in agree(market(), {}, NOW).accepted.items()
    }
    ahead = HEIGHT + 144 * 30
    told = agree([*chain(height=ahead), *tickers(PRICE, PRICE)], old, NOW)
    assert figure(told, "height").value == ahead
    assert told.quote is not None


def test_what_was_accepted_outlives_the_agent_by_what_it_reported():
    """Without it the first word after a restart would meet no check of jumps."""
    agreed = agree(market(), {}, NOW)
    told = report(Market(at=NOW, hashprice=agreed.quote, power=None), agreed.figures, [])
    remembered = {Kind(each.name): each for each in accepted_figures(json.loads(json.dumps(told)))}
    assert remembered == dict(agreed.accepted)
    alone = agree([*chain(fees=FEES * 100), *tickers(PRICE, PRICE)], remembered, NOW)
    assert figure(alone, "fees_btc").state is PriceState.QUARANTINED


@pytest.mark.parametrize(
    "prices", [{}, {"at": "x", "figures": []}, {"at": NOW.isoformat(), "figures": [{}]}, []]
)
def test_a_report_of_another_version_is_no_memory(prices):
    assert accepted_figures(prices) == []


def test_fees_that_jump_are_quarantined_until_a_second_source_says_so():
    before = agree(market(), {}, NOW).accepted
    hundredfold = chain(fees=FEES * 100)
    alone = figure(agree(hundredfold, before, NOW), "fees_btc")
    assert (alone.value, alone.state, alone.automatic) == (FEES, PriceState.QUARANTINED, False)
    both = figure(agree([*hundredfold, *chain("bitcoin_core", fees=FEES * 100)], before, NOW), "fees_btc")
    assert (both.value, both.automatic) == (FEES * 100, True)


# -- the hashprice ---------------------------------------------------------------------------------------------


def test_the_hashprice_is_computed_from_what_is_believed():
    quote = agree(market(), {}, NOW).quote
    assert round(quote.hashprice_usd_per_ph_day, 2) == 39.44
    assert (quote.automatic, quote.detail) == (True, "")


@pytest.mark.parametrize("missing", ["difficulty", "height", "fees", "price"])
def test_without_one_of_its_numbers_there_is_none(missing):
    heard = [each for each in market() if each.kind is not Kind[missing.upper()]]
    assert agree(heard, {}, NOW).quote is None


@pytest.mark.parametrize(
    ("index", "automatic", "said_so"),
    [
        (39.44, True, False),
        (40.5, True, False),
        (42.0, True, True),
        (45.0, False, True),
        (3944.0, False, True),
        (0.0394, True, False),  # absurd: it is not heard
    ],
)
def test_an_index_that_says_otherwise_is_told_and_then_stops_the_agent(index, automatic, said_so):
    quote = agree(market(said(Kind.INDEX, index, "luxor")), {}, NOW).quote
    assert (quote.automatic, "luxor publishes" in quote.detail) == (automatic, said_so)


def test_one_index_that_agrees_is_enough():
    heard = market(said(Kind.INDEX, 39.5, "luxor"), said(Kind.INDEX, 60.0, "braiins"))
    assert agree(heard, {}, NOW).quote.automatic


@pytest.mark.parametrize("height", [937_440 - 1, 939_456 - 1])
def test_at_a_retarget_the_tip_s_difficulty_is_not_that_of_the_next_block(height):
    assert (height + 1) % BLOCKS_PER_RETARGET == 0
    change = said(Kind.RETARGET, 0.05, "mempool")
    at_boundary = agree(market(change, height=height), {}, NOW).quote
    assert at_boundary.difficulty == pytest.approx(DIFFICULTY * 1.05)
    assert not at_boundary.automatic
    assert at_boundary.forecast is None
    after = agree(market(change, height=height + 1), {}, NOW).quote
    assert (after.difficulty, after.automatic) == (DIFFICULTY, True)


def test_the_forecast_is_the_hashprice_after_the_next_retarget():
    quote = agree(market(said(Kind.RETARGET, 0.10, "mempool")), {}, NOW).quote
    assert quote.forecast.hashprice_usd_per_ph_day == pytest.approx(quote.hashprice_usd_per_ph_day / 1.10)
    assert quote.forecast.blocks == BLOCKS_PER_RETARGET - 927_001 % BLOCKS_PER_RETARGET
    assert agree(market(), {}, NOW).quote.forecast is None


def test_the_halving_is_that_of_the_next_block():
    before = agree(market(height=1_049_998.0), {}, NOW).quote
    at_it = agree(market(height=1_049_999.0), {}, NOW).quote
    subsidy = [economics.subsidy_btc(height + 1) for height in (before.height, at_it.height)]
    assert subsidy == [3.125, 1.5625]
    ratio = at_it.hashprice_usd_per_ph_day / before.hashprice_usd_per_ph_day
    assert ratio == pytest.approx((1.5625 + FEES) / (3.125 + FEES))


def test_all_sources_lost_is_held_then_missing():
    before = agree(market(), {}, NOW)
    later = NOW + timedelta(minutes=20)
    held = agree([], before.accepted, later)
    assert held.quote is not None
    assert not held.quote.automatic
    assert {each.state for each in held.figures} == {PriceState.HELD}
    assert agree([], before.accepted, NOW + timedelta(days=3, seconds=1)).quote is None


def test_a_clock_that_jumps_back_hears_nothing_and_invents_nothing():
    before = agree(market(), {}, NOW)
    for hours in (1, 10, 9000):
        back = agree(market(), before.accepted, NOW - timedelta(hours=hours))
        assert back.quote is None
        assert not any(each.automatic for each in back.figures)


def test_what_was_contradicted_is_not_held_as_if_it_had_been_accepted():
    contradicted = [*market(), said(Kind.DIFFICULTY, DIFFICULTY * 1.1, "braiins")]
    before = agree(contradicted, {}, NOW)
    assert not figure(before, "difficulty").automatic
    later = agree([], before.accepted, NOW + timedelta(minutes=1))
    assert figure(later, "difficulty").value is None
