"""What may be believed of prices: live quotes age out, configured ones do not, and none comes from the future."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import economics
from agent.config import Config
from agent.market.fixed import FixedHashprice
from agent.market.quote import PowerPriceQuote, take_market
from agent.tariff.fixed import FixedTariff
from tests.agent.builders import NOW, hashprice_quote

QUARTER = timedelta(minutes=15)


class Source:
    """Gives the same quote whenever it is asked."""

    def __init__(self, quote):
        self._quote = quote

    async def quote(self, now):
        return self._quote


def price(**changes):
    usual = PowerPriceQuote(price_usd_per_kwh=0.06, source="test", observed_at=NOW)
    return replace(usual, **changes)


async def taken(hashprice, power, age):
    return await take_market(Source(hashprice), Source(power), NOW + age, max_age=QUARTER)


@pytest.mark.parametrize("age", [timedelta(), QUARTER], ids=str)
async def test_a_live_quote_is_a_price_up_to_its_greatest_age(age):
    market = await taken(hashprice_quote(), price(), age)
    assert market.hashprice_usd_per_ph_day is not None
    assert market.price_usd_per_kwh == 0.06


@pytest.mark.parametrize("age", [QUARTER + timedelta(microseconds=1), timedelta(days=1)], ids=str)
async def test_an_old_live_quote_is_no_price(age):
    market = await taken(hashprice_quote(), price(), age)
    assert market.hashprice is None
    assert market.hashprice_usd_per_ph_day is None
    assert market.power is None
    assert market.price_usd_per_kwh is None


async def test_a_quote_from_the_future_is_no_price():
    market = await taken(hashprice_quote(), price(), -timedelta(seconds=1))
    assert (market.hashprice, market.power) == (None, None)


@pytest.mark.parametrize("age", [timedelta(days=365), -timedelta(days=1)], ids=str)
async def test_a_fixed_quote_does_not_age(age):
    market = await taken(hashprice_quote(fixed=True), price(fixed=True), age)
    assert market.hashprice_usd_per_ph_day is not None
    assert market.price_usd_per_kwh == 0.06


async def test_the_two_prices_age_each_on_their_own():
    market = await taken(hashprice_quote(), price(observed_at=NOW + QUARTER), 2 * QUARTER)
    assert (market.hashprice, market.price_usd_per_kwh) == (None, 0.06)


async def test_a_source_without_a_quote_gives_no_price():
    market = await taken(None, None, timedelta())
    assert (market.hashprice_usd_per_ph_day, market.price_usd_per_kwh) == (None, None)


async def test_the_market_says_when_it_was_taken():
    assert (await taken(None, None, QUARTER)).at == NOW + QUARTER


@given(st.floats(1e13, 1e16), st.integers(0, 2_000_000), st.floats(0, 3), st.floats(1_000, 10_000_000))
def test_hashprice_is_that_of_the_next_block(difficulty, height, fees, btc):
    quote = hashprice_quote(difficulty=difficulty, height=height, fees_btc=fees, btc_usd=btc)
    assert quote.hashprice_usd_per_ph_day == economics.hashprice_usd_per_ph_day(
        difficulty=difficulty, subsidy_btc=economics.subsidy_btc(height + 1), fees_btc=fees, btc_usd=btc
    )


def test_the_block_before_a_halving_is_priced_with_the_halved_subsidy():
    last = hashprice_quote(height=1_049_999, fees_btc=0.0)
    one_before = hashprice_quote(height=1_049_998, fees_btc=0.0)
    assert last.hashprice_usd_per_ph_day == pytest.approx(one_before.hashprice_usd_per_ph_day / 2)


async def test_the_default_configuration_is_39_44_at_6_cents_and_never_ages():
    config = Config()
    hashprice = FixedHashprice(**config.market.fixed())
    power = FixedTariff(price_usd_per_kwh=config.power.price_usd_per_kwh)
    market = await take_market(hashprice, power, NOW + timedelta(days=900), max_age=QUARTER)
    assert round(market.hashprice_usd_per_ph_day, 2) == 39.44
    assert market.price_usd_per_kwh == 0.06
    assert (market.hashprice.source, market.power.source) == ("fixed", "fixed")
