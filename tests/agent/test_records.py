"""Orders, events, prices and energy as files: what is in them, their ranges, and a whole day at once."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from agent.export import ExportError
from agent.orders import OrderState
from agent.reader import Reader
from agent.records import (
    ENERGY_COLUMNS,
    EVENT_COLUMNS,
    ORDER_COLUMNS,
    PRICE_COLUMNS,
    energy_rows,
    export_day,
    export_energy,
    export_records,
)
from agent.rows import Event
from agent.store import Store
from tests.agent.builders import NOW, asleep, mac, machine, market, order, reading, save
from tests.agent.processes import hashcost

QUARTER = timedelta(minutes=15)
LATER = NOW + timedelta(days=30)


@pytest.fixture
def path(tmp_path):
    """Two machines over two hours, one of them asleep in the second; dearer at noon than at one."""
    path = tmp_path / "hashcost.db"
    with Store(path) as store:
        for minutes in range(0, 121, 10):
            at = NOW + timedelta(minutes=minutes)
            second = asleep(began_at=at) if minutes >= 60 else reading(began_at=at)
            price = 0.06 if minutes < 60 else 0.03
            machines = [machine(1, reading(began_at=at)), machine(2, second)]
            save(store, *machines, market=market(price, at=at), valid_s=600)
        made = store.create_order(order(detail="=1+1", state=OrderState.APPROVED))
        done = replace(made, state=OrderState.CONFIRMED, confirmed_at=NOW + timedelta(minutes=1))
        store.advance(made, done)
        store.save_events([Event(at=NOW, kind="scanned", detail="2 machines")])
        store.save_events([Event(at=LATER, kind="scanned", detail="later")])
    return path


def parsed(text, columns):
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text.splitlines()[0] == ",".join(columns)
    return rows


def test_orders(path):
    (row,) = parsed(export_records(path, "orders", NOW, LATER, None), ORDER_COLUMNS)
    assert (row["machine_id"], row["action"], row["state"]) == (mac(1), "sleep", "confirmed")
    assert (row["created"], row["confirmed"]) == ("2026-02-01T12:00:00.000Z", "2026-02-01T12:01:00.000Z")
    assert (row["dispatched"], row["detail"]) == ("", "'=1+1")


def test_events_of_the_range_only(path):
    rows = parsed(export_records(path, "events", NOW, LATER, None), EVENT_COLUMNS)
    assert [(row["kind"], row["detail"], row["at"]) for row in rows] == [
        ("scanned", "2 machines", "2026-02-01T12:00:00.000Z")
    ]


def test_prices_are_changes_after_the_one_in_force(path):
    def prices(start):
        rows = parsed(export_records(path, "prices", start, LATER, None), PRICE_COLUMNS)
        return [(row["at"][11:16], row["power_price_usd_per_kwh"]) for row in rows]

    assert prices(NOW) == [("12:00", "0.06"), ("13:00", "0.03")]
    assert prices(NOW + timedelta(minutes=30)) == [("12:00", "0.06"), ("13:00", "0.03")]
    assert prices(NOW + timedelta(minutes=90)) == [("13:00", "0.03")]


def test_energy_by_the_quarter_of_an_hour(path):
    rows = parsed(export_energy(path, NOW, NOW + timedelta(hours=2), QUARTER, None), ENERGY_COLUMNS)
    assert len(rows) == 8
    assert rows[0]["interval_start"] == "2026-02-01T12:00:00.000Z"
    assert {row["machines"] for row in rows} == {"2"}
    assert [float(row["energy_kwh"]) for row in rows] == pytest.approx([1.75] * 4 + [(3.5 + 0.025) / 4] * 4)
    assert float(rows[0]["energy_cost_usd"]) == pytest.approx(1.75 * 0.06)
    assert [float(row["known_hours"]) for row in rows] == pytest.approx([0.5] * 8)


def test_intervals_of_energy_begin_with_full_ones_and_gaps_are_unknown(path):
    start, end = NOW + timedelta(minutes=7), NOW + timedelta(hours=3)
    with Reader(path) as reader:
        rows = list(energy_rows(reader, start, end, QUARTER))
    assert rows[0]["interval_end"] == "2026-02-01T12:15:00.000Z"
    assert (rows[-1]["energy_kwh"], rows[-1]["unknown_hours"]) == (None, 0.5)
    known = sum(row["known_hours"] for row in rows)
    assert known + sum(row["unknown_hours"] for row in rows) == pytest.approx(
        2 * (end - start) / timedelta(hours=1)
    )


def test_energy_of_a_range_that_nobody_can_have_meant_is_refused(path):
    with pytest.raises(ExportError, match="more than 20,000 rows"):
        export_energy(path, NOW, NOW + timedelta(days=400), QUARTER, None)


def test_all_of_yesterday_by_the_sites_own_midnight(path, tmp_path):
    chicago = ZoneInfo("America/Chicago")
    files = export_day(path, tmp_path / "new" / "out", datetime(2026, 2, 2, 7, tzinfo=UTC), chicago)
    assert [file.name for file in files] == [
        f"{name}-2026-02-01.csv"
        for name in ("profitability", "ledger", "site", "energy", "orders", "events", "prices")
    ]
    lines = {file.name.partition("-")[0]: len(file.read_text().splitlines()) - 1 for file in files}
    assert lines == {
        "profitability": 48, "ledger": 2, "site": 24, "energy": 96, "orders": 1, "events": 1, "prices": 2,
    }  # fmt: skip
    energy = (tmp_path / "new" / "out" / "energy-2026-02-01.csv").read_text().splitlines()
    assert energy[1].startswith("2026-02-01T06:00:00.000Z")


@pytest.mark.parametrize("what", ["orders", "events", "prices", "energy"])
def test_each_on_the_command_line(path, tmp_path, what):
    done = hashcost("export", what, "--to", "2026-02-02", "-o", tmp_path / "out.csv", "--database", path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) > 1


def test_yesterday_on_the_command_line(path, tmp_path):
    done = hashcost("export", "yesterday", "--directory", tmp_path / "out", "--database", path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list((tmp_path / "out").iterdir())) == 7


def test_a_directory_that_cannot_be_made_is_refused(path, tmp_path):
    (tmp_path / "file").touch()
    done = hashcost("export", "yesterday", "--directory", tmp_path / "file" / "out", "--database", path)
    assert done.returncode == 2
    assert "cannot be made" in done.stderr
