"""Histories of prices: units by the column's name, gaps that stay gaps, mistakes told with their place."""

from datetime import UTC, datetime

import pytest

from agent.backtest.series import (
    HistoryError,
    hashprice_history,
    power_history,
    recorded_hashprice,
    recorded_power,
)

HOUR = 3600.0
T0 = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


def written(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("column", "factor"), [("usd_per_mwh", 1e-3), ("usd_per_kwh", 1.0)])
def test_the_column_says_the_unit(tmp_path, column, factor):
    text = f"timestamp_utc,{column}\n2025-01-01T00:00:00Z,5\n2025-01-01T01:00:00Z,-2\n"
    history = power_history(written(tmp_path, text))
    assert history.values == [5 * factor, -2 * factor]
    assert (history.starts, history.ends) == ([T0, T0 + HOUR], [T0 + HOUR, T0 + 2 * HOUR])


def test_a_gap_is_a_gap_and_an_empty_price_too(tmp_path):
    rows = ("00:00,1", "01:00,2", "02:00,", "05:00,3", "06:00,4")
    text = "start,usd_per_kwh\n" + "".join(f"2025-01-01T{row}\n" for row in rows)
    history = power_history(written(tmp_path, text))
    assert [history.value_at(T0 + hour * HOUR) for hour in (0, 1.5, 2, 4.9, 5, 6.9, 7)] == [
        1.0, 2.0, None, None, 3.0, 4.0, None,
    ]  # fmt: skip


def test_offsets_count(tmp_path):
    text = "time,usd_per_kwh\n2025-01-01T00:00:00-06:00,1\n2025-01-01T01:00:00-06:00,1\n"
    assert power_history(written(tmp_path, text)).starts[0] == T0 + 6 * HOUR


def test_hashprices_by_the_day(tmp_path):
    text = "date,btc_usd,hashprice_usd_per_ph_day\n2025-01-01,9,50.5\n2025-01-02,9,51\n"
    history = hashprice_history(written(tmp_path, text))
    assert (history.value_at(T0 + 23.9 * HOUR), history.value_at(T0 + 24 * HOUR)) == (50.5, 51.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a header and two rows"),
        ("start,usd_per_kwh\n2025-01-01,1\n", "a header and two rows"),
        ("start,price\n2025-01-01,1\n2025-01-02,1\n", "no column of prices"),
        ("when,usd_per_kwh\n2025-01-01,1\n2025-01-02,1\n", "no column of times"),
        ("start,usd_per_kwh\n2025-01-01,1\nsoon,1\n", "line 3: 'soon' is not a time"),
        (
            "start,usd_per_kwh\n2025-01-01,1\n9999-12-31T23:59-14:00,1\n",
            "line 3: .* in 9999",
        ),
        ("start,usd_per_kwh\n2025-01-01,1\n2025-01-02,dear\n", "line 3: 'dear' is not a price"),
        ("start,usd_per_kwh\n2025-01-01,1\n2025-01-02,inf\n", "line 3: 'inf' is not a price"),
        ("start,usd_per_kwh\n2025-01-02,1\n2025-01-01,1\n", "line 3: its time is not after"),
        ("start,usd_per_kwh\n2025-01-01,31\n2025-01-02,1\n", "is the column in USD/MWh"),
        ("start,usd_per_kwh\n2020-01-01,1\n2025-01-02,1\n", "longer than a month"),
    ],
)
def test_what_is_wrong_with_a_history_is_told(tmp_path, text, told):
    with pytest.raises(HistoryError, match=told):
        power_history(written(tmp_path, text))


@pytest.mark.parametrize("price", ["0", "-4", "5001"])
def test_hashprices_that_cannot_be_are_refused(tmp_path, price):
    text = f"date,hashprice_usd_per_ph_day\n2025-01-01,50\n2025-01-02,{price}\n"
    with pytest.raises(HistoryError, match="a hashprice is over 0"):
        hashprice_history(written(tmp_path, text))


def test_what_was_recorded_is_cut_where_it_changed_and_at_full_five_minutes():
    history = recorded_power([(250.0, 700.0, 0.05), (700.0, 800.0, 0.05), (800.0, 1000.0, 0.07)])
    assert list(zip(history.starts, history.ends, history.values, strict=True)) == [
        (250.0, 300.0, 0.05), (300.0, 600.0, 0.05), (600.0, 800.0, 0.05), (800.0, 900.0, 0.07), (900.0, 1000.0, 0.07),
    ]  # fmt: skip
    assert history.recorded


def test_what_was_recorded_has_gaps_where_nothing_was_known():
    history = recorded_power([(0.0, 100.0, 0.05), (100.0, 200.0, None), (250.0, 300.0, 0.05)])
    assert list(zip(history.starts, history.ends, strict=True)) == [(0.0, 100.0), (250.0, 300.0)]
    assert not recorded_power([]).starts


def test_a_recorded_hashprice_is_the_one_known_at_each_full_five_minutes_and_after_gaps():
    stretches = [(0.0, 200.0, 40.0), (200.0, 450.0, 41.0), (450.0, 500.0, 42.0), (550.0, 700.0, 43.0)]
    history = recorded_hashprice(stretches)
    assert list(zip(history.starts, history.ends, history.values, strict=True)) == [
        (0.0, 300.0, 40.0), (300.0, 500.0, 41.0), (550.0, 600.0, 43.0), (600.0, 700.0, 43.0),
    ]  # fmt: skip


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(HistoryError, match="nowhere"):
        power_history(tmp_path / "nowhere.csv")
