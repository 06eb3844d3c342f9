"""What a kWh costs: by the calendar, by the settlement interval, by the contract; and what cannot be a price."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms, appraise
from agent.clock import Clock
from agent.config import ConfigError, load, parse
from agent.feeds import power_source
from agent.fetch import SourceError
from agent.fleet import Fleet
from agent.in_words import site_in_words
from agent.market.fixed import FixedHashprice
from agent.market.quote import Market, PowerPriceQuote
from agent.store import Reader, Store
from agent.tariff import feeds
from agent.tariff.calendar import DAYS, Calendar, Period
from agent.tariff.contract import Contract, Kind
from agent.tariff.intervals import (
    Band,
    IntervalPrice,
    absurd,
    contradicts,
    expected_settlement,
    settled,
)
from agent.terms import Economics
from agent.view import view_fleet
from drivers.reading import PowerSource
from tests.agent.builders import MAX_AGE, mac, machine, market, point, reading, save
from tests.agent.builders import NOW as NOW_STORED

LATER = NOW_STORED + timedelta(hours=1)
CHICAGO = ZoneInfo("America/Chicago")
NOW = datetime(2026, 2, 2, 12, tzinfo=UTC)
FIVE, QUARTER, GRACE = timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=15)
WEEKDAYS = frozenset(DAYS[:5])
PEAK = Period(
    price_usd_per_kwh=0.20, start=time(16), end=time(21), days=WEEKDAYS, months=frozenset({6, 7, 8, 9})
)
NIGHT = Period(price_usd_per_kwh=0.04, start=time(22), end=time(6))
TOU = Calendar(
    zone=CHICAGO, otherwise_usd_per_kwh=0.08, periods=[PEAK, NIGHT], holidays=frozenset({date(2026, 7, 3)})
)


def local(*when):
    return datetime(*when, tzinfo=CHICAGO)


# -- calendars ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "price"),
    [
        ((2026, 7, 1, 15, 59), 0.08),
        ((2026, 7, 1, 16, 0), 0.20),
        ((2026, 7, 1, 20, 59), 0.20),
        ((2026, 7, 1, 21, 0), 0.08),
        ((2026, 7, 1, 22, 0), 0.04),
        ((2026, 7, 2, 5, 59), 0.04),
        ((2026, 7, 2, 6, 0), 0.08),
        ((2026, 7, 4, 17, 0), 0.08),  # a Saturday
        ((2026, 7, 3, 17, 0), 0.08),  # a holiday
        ((2026, 5, 29, 17, 0), 0.08),  # before the season
    ],
    ids=str,
)
def test_the_price_is_that_of_the_site_s_wall_clock(when, price):
    assert TOU.price_at(local(*when)) == price


def test_a_period_over_midnight_belongs_to_the_day_it_began_on():
    friday_night = Period(price_usd_per_kwh=0.01, start=time(22), end=time(6), days=frozenset({"fri"}))
    calendar = Calendar(zone=CHICAGO, otherwise_usd_per_kwh=0.08, periods=[friday_night])
    assert calendar.price_at(local(2026, 7, 10, 23)) == 0.01
    assert calendar.price_at(local(2026, 7, 11, 5)) == 0.01
    assert calendar.price_at(local(2026, 7, 11, 23)) == 0.08
    assert calendar.price_at(local(2026, 7, 10, 5)) == 0.08


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25)], ids=str)
def test_days_on_which_clocks_change_have_as_many_hours_as_they_have(day, hours):
    """The night period ends at six of the wall clock, however many hours that is after midnight."""
    start = datetime.combine(day, time(), CHICAGO).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), time(), CHICAGO).astimezone(UTC)
    assert (end - start) / timedelta(hours=1) == hours
    cheap = sum(TOU.price_at(start + timedelta(minutes=minute)) == 0.04 for minute in range(hours * 60))
    assert cheap == (hours - 24 + 8) * 60


@given(st.integers(0, 425 * 1440))
def test_a_price_holds_until_the_calendar_s_next_change_and_not_longer(minute_of_time):
    moment = datetime(2025, 12, 1, tzinfo=UTC) + timedelta(minutes=minute_of_time)
    holding = TOU.interval_at(moment)
    assert holding.start == moment < holding.end
    minutes = int((holding.end - moment) / timedelta(minutes=1))
    for minute in range(0, min(minutes, 3000), 7):
        assert TOU.price_at(moment + timedelta(minutes=minute)) == holding.usd_per_kwh
    if holding.end - moment < timedelta(days=7):
        assert TOU.price_at(holding.end) != holding.usd_per_kwh


# -- settlement ---------------------------------------------------------------------------------------------------


def fives(*prices, start=NOW):
    return [
        IntervalPrice(start=start + index * FIVE, end=start + (index + 1) * FIVE, usd_per_kwh=price)
        for index, price in enumerate(prices)
    ]


def test_a_spike_early_in_the_interval_keeps_the_rest_dear():
    """One 5,000 USD/MWh of five minutes makes the quarter of an hour 1,687, whatever follows."""
    prices = fives(5.0, 0.03)
    at_spike = expected_settlement(prices[:1], NOW + timedelta(minutes=1), QUARTER, GRACE)
    assert at_spike.usd_per_kwh == pytest.approx(5.0)
    after = expected_settlement(prices, NOW + timedelta(minutes=6), QUARTER, GRACE)
    assert after.usd_per_kwh == pytest.approx((5.0 + 0.03 + 0.03) / 3)
    assert (after.start, after.end) == (NOW, NOW + QUARTER)
    in_the_next = expected_settlement(prices, NOW + timedelta(minutes=16), QUARTER, GRACE)
    assert in_the_next.usd_per_kwh == pytest.approx(0.03)


def test_a_price_that_is_not_renewed_is_nobody_s_expectation():
    prices = fives(0.05)
    late = NOW + FIVE + GRACE
    assert expected_settlement(prices, late, QUARTER, GRACE) is not None
    assert expected_settlement(prices, late + timedelta(seconds=1), QUARTER, GRACE) is None
    assert expected_settlement([], NOW, QUARTER, GRACE) is None
    assert expected_settlement(fives(0.05, start=NOW + FIVE), NOW, QUARTER, GRACE) is None


@given(st.lists(st.floats(-0.5, 5.0), min_size=1, max_size=6), st.integers(0, 29))
def test_the_expectation_lies_within_what_was_published(values, minute):
    prices = fives(*values)
    told = expected_settlement(prices, NOW + timedelta(minutes=minute), QUARTER, timedelta(hours=1))
    assert min(values) - 1e-9 <= told.usd_per_kwh <= max(values) + 1e-9


@given(st.permutations(fives(0.01, 0.5, 0.02)))
def test_the_order_of_publication_does_not_matter(prices):
    told = expected_settlement(prices, NOW + timedelta(minutes=14), QUARTER, GRACE)
    assert told.usd_per_kwh == pytest.approx(0.53 / 3)


@pytest.mark.parametrize(
    ("new", "believed"),
    [
        (fives(0.03, 0.04, 0.05), True),
        (fives(0.03, 0.04, 0.9), True),  # one interval corrected
        (fives(0.035, 0.05, 0.06), True),
        (fives(3.0, 4.0, 5.0), False),
        (fives(-1.0, -1.0, -1.0), False),
        (fives(3.0, 4.0, 5.0, start=NOW + timedelta(hours=1)), True),  # of other times: a spike
    ],
    ids=["the same", "one corrected", "a little", "another unit", "unknown", "later"],
)
def test_a_feed_that_tells_the_past_otherwise_is_not_believed(new, believed):
    assert (contradicts(new, fives(0.03, 0.04, 0.05)) is None) is believed


# -- contracts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "market", "marginal"),
    [
        (Contract(), 0.05, 0.05),
        (Contract(losses=0.02, adder_usd_per_kwh=0.01), 0.05, 0.061),
        (Contract(losses=0.02, adder_usd_per_kwh=0.01), -0.05, -0.041),
        (Contract(kind=Kind.BLOCK, adder_usd_per_kwh=0.01), 0.05, 0.05),
        (Contract(kind=Kind.BLOCK, sell_back_fee_usd_per_kwh=0.002), 0.05, 0.048),
        (Contract(kind=Kind.BLOCK), -0.02, -0.02),
    ],
    ids=str,
)
def test_what_the_contract_makes_of_the_market_s_price(contract, market, marginal):
    assert contract.marginal_usd_per_kwh(market) == pytest.approx(marginal)


# -- units ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "band", "question"),
    [
        (fives(0.03, 0.05), Band(), False),
        (fives(-0.04, 0.0), Band(), False),
        (fives(4.9), Band(low=-0.5, high=6.0), False),
        (fives(2.8, 3.1), Band(), True),  # cents taken for dollars
        (fives(28.0), Band(low=-0.5, high=6.0), True),  # USD/MWh taken for USD/kWh
        (fives(*[0.000028] * 12), Band(), True),  # USD/kWh taken for USD/MWh
        (fives(*[0.0] * 12), Band(), False),
    ],
    ids=["usual", "negative", "a spike", "cents", "MWh", "a thousandth", "nothing"],
)
def test_a_price_in_another_unit_is_found_out(prices, band, question):
    assert (absurd(prices, band) is not None) is question
    if question:
        assert "is the unit right" in absurd(prices, band)


# -- tables and times ------------------------------------------------------------------------------------------------


def table(text, **changes):
    wanted = feeds.Wanted(time_column="start", price_column="price", zone=CHICAGO, **changes)
    return feeds.table(text.encode(), wanted, NOW)


def test_the_hour_that_there_is_twice_is_told_by_the_order_of_rows():
    rows = "\n".join(f"2026-11-01T0{hour}:00:00,0.0{index}" for index, hour in enumerate((0, 1, 1, 2)))
    prices = table("start,price\n" + rows)
    assert [each.start.hour for each in prices] == [5, 6, 7, 8]
    assert [each.usd_per_kwh for each in prices] == [0.0, 0.01, 0.02, 0.03]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "start,price\n2026-01-01T00:00:00,0.1\n2026-01-01T01:00:00,dear",
            "row 2: price is|row 2: the price is",
        ),
        ("start,price\nyesterday,0.1", "row 1: 'yesterday' is no time"),
        ("when,price\n2026-01-01T00:00:00,0.1", "row 1: no start in the answer"),
        ("start,price\n", "the table has no prices"),
    ],
)
def test_a_table_that_cannot_be_read_names_the_row(text, said):
    with pytest.raises(SourceError, match=said):
        table(text)


def test_a_leap_second_is_the_second_before_and_minutes_are_left_alone():
    assert feeds.instant("2016-12-31T23:59:60Z") == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
    with pytest.raises(SourceError, match="is no time"):
        feeds.instant("2026-01-01T10:60:00Z")


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "feed"', "say which feed"),
        ('kind = "feed"\nfeed = "miso"', "give the location"),
        ('kind = "feed"\nfeed = "nord_pool"\nlocation = "NO1"', "give currency_usd"),
        ('kind = "feed"\nfeed = "json"', "give its url"),
        ('kind = "file"', "say which file"),
        ('kind = "time_of_use"', r"at least one \[\[power.periods\]\]"),
        ('feed = "comed"', "would do nothing"),
        ('time_zone = "Mars/Olympus"', "is no time zone"),
        ('kind = "feed"\nfeed = "comed"\nurl = "ftp://x"', "is not an http or https address"),
        ("lowest_usd_per_kwh = 2.0", "no price lies between"),
        (
            'kind = "time_of_use"\n[[power.periods]]\nprice_usd_per_kwh = 0.1\nhours = "4pm-9pm"',
            "is no time of day",
        ),
    ],
)
def test_a_tariff_that_makes_no_sense_is_refused_with_the_remedy(text, said):
    with pytest.raises(ConfigError, match=said):
        parse(f"[power]\n{text}", source="test.toml")


EXAMPLES = sorted((Path(__file__).parents[2] / "systemd" / "examples").glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
async def test_each_example_is_explained_back_in_words(example, monkeypatch, tmp_path):
    (tmp_path / "ercot").write_text("a key")
    (tmp_path / "ercot-account").write_text("a password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config = load(example)
    hashprice = await FixedHashprice(**config.market.fixed()).quote(NOW)
    source = power_source(config.power, None, Clock(now=lambda: NOW))
    power = await source.quote(NOW)
    if power is None:  # a feed that nobody asked
        power = PowerPriceQuote(price_usd_per_kwh=0.05, source="test", observed_at=NOW)
    words = await site_in_words(config, Market(at=NOW, hashprice=hashprice, power=power))
    assert any("at 39.44 USD/PH/day your break-even efficiency is" in line for line in words)
    assert any("a kWh more costs" in line for line in words)
    expected = {
        "block-sell-back": "3000 kW are paid for anyway",
        "ercot-index": "ercot HB_SOUTH (losses 1.9%, 0.0120 USD/kWh on top)",
        "fixed-ppa": "break-even efficiency is 26.1 J/TH",
        "flare-gas": "a kWh more costs 0.0060 USD now",
        "hosted": "south: South Mining AG's, at 0.0690 USD/kWh, curtailed when they lose money",
        "time-of-use": "on it costs 0.0710 USD",
    }
    assert any(expected[example.stem] in line for line in words), words


def test_there_are_examples_for_six_kinds_of_site():
    assert len(EXAMPLES) == 6


# -- terms -------------------------------------------------------------------------------------------------------------

HOSTED = """
[groups]
north = ["10.0.4.0/24"]
south = ["10.0.5.0/24"]
[overrides.north]
owner = "North"
price_usd_per_kwh = 0.072
[overrides.south]
owner = "South"
price_usd_per_kwh = 0.069
economics = "owner"
[overrides."02:13:00:00:00:07"]
custom_power_w = 3100.0
pool_fee = 0.01
"""


def test_a_machine_s_own_terms_count_before_its_group_s():
    book = parse(HOSTED, source="test").terms_book()
    north, south = book.of(mac(1), "north"), book.of(mac(2), "south")
    assert (north.economics, north.grid, north.terms.price_usd_per_kwh) == (Economics.NONE, False, 0.072)
    assert (south.economics, south.terms.price_usd_per_kwh) == (Economics.OWNER, 0.069)
    own = book.of(mac(7), "north")
    assert (own.owner, own.custom_power_w, own.terms.fee) == ("", 3100.0, pytest.approx(0.01))
    assert book.of(mac(9), "site").terms == book.site


def test_each_machine_is_appraised_at_what_its_own_energy_costs():
    book = parse(HOSTED, source="test").terms_book()
    here, hosted = machine(1, reading()), machine(2, reading(), group="north")
    shown = view_fleet(Fleet([here, hosted]), market(0.05), book, max_age=MAX_AGE)
    costs = {view.machine_id: view.energy_cost_usd_per_day for view in shown.views}
    assert costs[mac(1)] == pytest.approx(3.5 * 24 * 0.05)
    assert costs[mac(2)] == pytest.approx(3.5 * 24 * 0.072)


def test_watts_that_were_measured_once_are_better_than_a_nameplate_and_not_than_a_report():
    guessed = reading(power_source=PowerSource.NAMEPLATE, power_w=3500.0)
    known = machine(7, custom_power_w=3100.0)
    known.apply(guessed)
    assert (known.reading.power_w, known.reading.power_source) == (3100.0, PowerSource.CUSTOM)
    known.apply(reading(power_w=3400.0))
    assert (known.reading.power_w, known.reading.power_source) == (3400.0, PowerSource.REPORTED)


def test_a_credit_moves_the_decision_and_not_the_margin():
    plain, paid = Terms(), Terms(credit_usd_per_kwh=0.03)
    without, with_credit = (appraise(point(), market(0.05), terms) for terms in (plain, paid))
    assert with_credit.margin_usd_per_day == without.margin_usd_per_day
    saved = (3500.0 - plain.sleep_power_w) / 1000 * 24 * 0.03
    assert with_credit.decision_margin_usd_per_day == pytest.approx(
        without.decision_margin_usd_per_day - saved
    )
    assert with_credit.strike_price_usd_per_kwh == pytest.approx(without.strike_price_usd_per_kwh - 0.03)


def test_load_that_is_paid_for_anyway_is_kept():
    policy = parse("[power]\ntake_or_pay_kw = 900.0", source="test").policy()
    assert policy.min_site_kw == 900.0


def test_prices_of_its_own_are_stored_with_a_machine_s_readings(tmp_path):
    book = parse(HOSTED, source="test").terms_book()
    machines = [machine(1, reading()), machine(2, reading(), group="north")]
    with Store(tmp_path / "db") as store:
        save(store, *machines, terms=book)
    with Reader(tmp_path / "db") as reader:
        prices = {mid: rows[0].price_usd_per_kwh for mid, rows in reader.readings(NOW_STORED, LATER)}
        assert prices == {mac(1): 0.06, mac(2): 0.072}
        assert reader.conditions()[0].price_usd_per_kwh == 0.06
        assert reader.conditions_of(mac(2))[0].price_usd_per_kwh == 0.072
        assert reader.conditions_of(mac(1)) is None


# -- what it came to -----------------------------------------------------------------------------------------


def of(minutes, price, lasts=5):
    start = NOW + timedelta(minutes=minutes)
    return IntervalPrice(start=start, end=start + timedelta(minutes=lasts), usd_per_kwh=price)


def test_a_settlement_interval_that_is_over_came_to_the_mean_of_its_prices():
    prices = [of(0, 0.03), of(5, 0.06), of(10, 0.30), of(15, 0.01)]
    late = NOW + timedelta(minutes=30)
    (only,) = settled(prices, QUARTER, late)  # the second quarter is not published whole
    assert (only.start, only.end) == (NOW, NOW + QUARTER)
    assert only.usd_per_kwh == pytest.approx(0.13)
    assert settled(prices, QUARTER, NOW + timedelta(minutes=14)) == []  # not over


def test_prices_of_an_hour_settle_by_the_quarter_and_those_of_minutes_by_the_hour():
    quarters = settled([of(0, 0.05, lasts=60)], QUARTER, NOW + timedelta(hours=2))
    assert [each.usd_per_kwh for each in quarters] == pytest.approx([0.05] * 4)
    hourly = settled(
        [of(minutes, minutes / 100) for minutes in range(0, 60, 5)],
        timedelta(hours=1),
        NOW + timedelta(hours=1),
    )
    assert [each.usd_per_kwh for each in hourly] == pytest.approx([0.275])


async def test_a_live_tariff_tells_what_it_really_cost_by_the_contract_and_nothing_in_doubt(tmp_path):
    path = tmp_path / "prices.csv"
    rows = [f"{(NOW + timedelta(minutes=m)).isoformat()},{price}" for m, price in ((0, 0.03), (15, 0.05))]
    path.write_text("\n".join(["start,price", *rows]) + "\n")
    config = parse(
        f'[power]\nkind = "file"\nfile = "{path}"\ninterval_s = 900\nlosses = 0.1\nadder_usd_per_kwh = 0.01\n',
        source="test",
    )
    tariff = power_source(config.power, None, Clock())
    await tariff.ask(NOW + timedelta(minutes=20))
    (only,) = tariff.settled(NOW + timedelta(minutes=20))
    assert only.usd_per_kwh == pytest.approx(0.03 * 1.1 + 0.01)
    path.write_text("start,price\n" + f"{NOW.isoformat()},300\n")
    await tariff.ask(NOW + timedelta(minutes=21))
    assert tariff.settled(NOW + timedelta(minutes=21)) == []


async def test_a_live_tariff_learns_how_late_its_source_tells_and_when_the_next_comes(tmp_path):
    path = tmp_path / "prices.csv"
    config = parse(
        f'[power]\nkind = "file"\nfile = "{path}"\ninterval_s = 900\nlosses = 0.0\n', source="test"
    )
    tariff = power_source(config.power, None, Clock())

    async def told(*minutes, at):
        rows = [f"{(NOW + timedelta(minutes=m)).isoformat()},0.03" for m in minutes]
        path.write_text("\n".join(["start,price", *rows]) + "\n")
        await tariff.ask(NOW + timedelta(minutes=at))
        quote = await tariff.quote(NOW + timedelta(minutes=at))
        return quote.late_s, quote.next_at - NOW

    # how long the first was there nobody knows
    assert await told(0, at=14) == (0.0, timedelta(minutes=15))
    assert await told(0, 15, at=20) == (300.0, timedelta(minutes=35))
    assert await told(0, 15, at=32) == (300.0, timedelta(minutes=35))
    assert await told(0, 15, 30, 45, 60, at=34) == (0.0, timedelta(minutes=45))
