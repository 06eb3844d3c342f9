"""Prices through a library: what it brings becomes the file that the agent reads, and what is wrong leaves the file."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType

import pytest
from click.testing import CliRunner

from agent.cli import cli
from agent.clock import Clock
from agent.config.power import PowerSection
from agent.feeds import power_source
from agent.tariff.library import LibraryError

NOW = datetime(2026, 2, 2, 18, 17, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))
ZONE = [datetime(2026, 2, 2, hour, tzinfo=BERLIN) for hour in (18, 19, 20)]


class Series(dict):
    """What a library gives, as far as it is used: times and values."""


class Table(dict):
    """Columns by name."""


def libraries(monkeypatch, *, prices=(50.0, 61.5, float("nan")), times=ZONE, place="DE_LU"):
    """The libraries are a hundred megabytes; these have their names, arguments and answers (entsoe-py 0.8, gridstatus
    0.37)."""
    entsoe, gridstatus, pandas = ModuleType("entsoe"), ModuleType("gridstatus"), ModuleType("pandas")
    pandas.Timestamp = lambda moment: moment

    class Client:
        def __init__(self, api_key):
            assert api_key == "a key"

        def query_day_ahead_prices(self, country_code, *, start, end):
            assert start < end
            return Series(zip(times, prices, strict=True)) if country_code == place else Series()

    class Caiso:
        def get_lmp(self, date, market, locations):
            assert (date, market) == ("today", "REAL_TIME_5_MIN")
            return Table({"Time": times, "Location": [*[place] * (len(times) - 1), "OTHER"], "LMP": prices})

    entsoe.EntsoePandasClient, gridstatus.CAISO, gridstatus.IESO = Client, Caiso, type("IESO", (), {})
    for module in (entsoe, gridstatus, pandas):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def run(tmp_path, *arguments):
    (tmp_path / "key").write_text("a key\n")
    key = ["--key-file", str(tmp_path / "key")] if arguments[0] == "entsoe" else []
    return CliRunner().invoke(cli, ["fetch-prices", *arguments, "-o", str(tmp_path / "p.csv"), *key])


async def test_day_ahead_prices_become_the_file_that_the_agent_reads(monkeypatch, tmp_path):
    libraries(monkeypatch)
    told = run(tmp_path, "entsoe", "day_ahead", "DE_LU")
    assert (told.exit_code, told.output) == (0, f"2 prices in {tmp_path / 'p.csv'}\n")
    section = PowerSection(kind="file", file=str(tmp_path / "p.csv"), unit="usd_per_mwh", currency_usd=1.1)
    tariff = power_source(section, None, Clock(now=lambda: NOW))
    await tariff.ask(NOW)
    assert (await tariff.quote(NOW)).price_usd_per_kwh == pytest.approx(0.0615 * 1.1)


def test_prices_of_a_node_are_taken_and_those_of_others_left(monkeypatch, tmp_path):
    libraries(monkeypatch, place="NODE")
    assert run(tmp_path, "gridstatus", "CAISO", "NODE").exit_code == 0
    assert (tmp_path / "p.csv").read_text() == (
        "start,price\n2026-02-02T17:00:00+00:00,50\n2026-02-02T18:00:00+00:00,61.5\n"
    )


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({}, ("entsoe", "day_ahead", "XX"), "no prices for 'XX'"),
        ({}, ("entsoe", "real_time", "DE_LU"), "'real_time' is no market here"),
        ({}, ("gridstatus", "IESO", "NODE"), "'IESO' has no prices by node"),
        ({}, ("gridstatus", "NOWHERE", "NODE"), "'NOWHERE' has no prices by node"),
        ({"prices": ("x", 1.0, 1.0)}, ("entsoe", "day_ahead", "DE_LU"), "ValueError"),
        (
            {"times": [each.replace(tzinfo=None) for each in ZONE]},
            ("entsoe", "day_ahead", "DE_LU"),
            "no zone",
        ),
    ],
)
def test_what_is_wrong_is_told_and_leaves_the_file(monkeypatch, tmp_path, changes, arguments, said):
    libraries(monkeypatch, **changes)
    (tmp_path / "p.csv").write_text("before")
    told = run(tmp_path, *arguments)
    assert isinstance(told.exception, LibraryError)
    assert said in str(told.exception)
    assert (tmp_path / "p.csv").read_text() == "before"


def test_a_library_that_is_not_there_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gridstatus", None)
    told = run(tmp_path, "gridstatus", "CAISO", "NODE")
    assert isinstance(told.exception, LibraryError)
    assert "pip install 'hashcost[markets]'" in str(told.exception)
