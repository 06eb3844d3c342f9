"""The CSV that accountants get: its exact shape, its sums, and that no cell or file does harm."""

import csv
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import economics
from agent.appraisal import Terms
from agent.books import BookedHour
from agent.export import (
    COLUMNS,
    ExportError,
    Period,
    export_profitability,
    neutralise,
    profitability,
    split,
    to_csv,
    write_atomically,
)
from agent.rows import MachineRow, ReadingRow, Settled, Switch
from agent.store import Reader, Store, StoreError
from drivers.reading import MachineId, RunState
from tests.agent.builders import NOW, asleep, identity, mac, machine, market, reading, row, save, stored_site
from tests.agent.processes import child_environment, hashcost, open_directory, python

HOUR_MS = 3_600_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DESIGNED = """
    machine_id,mac,ip,make,model,firmware,group,period_start,period_end,
    mining_hours,asleep_hours,unknown_hours,hashrate_ths,power_w,power_source,efficiency_j_per_th,
    energy_kwh,revenue_usd,energy_cost_usd,margin_usd,
    hashprice_usd_per_ph_day,power_price_usd_per_kwh,hashcost_usd_per_ph_day,
    strike_price_usd_per_kwh,breakeven_hashprice_usd_per_ph_day,
    avoided_loss_usd,forgone_profit_usd,curtailments
"""


class FakeReader:
    """What `profitability` asks of a reader: one machine and its readings."""

    def __init__(self, *readings: ReadingRow, sleep_power_w: float = 40.0) -> None:
        self._readings = list(readings)
        self._sleep_power_w = sleep_power_w

    def machines(self) -> list[MachineRow]:
        return [
            MachineRow(
                machine_id=MachineId(mac(1)), mac=mac(1), ip="10.0.0.1", make="AntMiner", model="S21",
                firmware=None, group="site", sleep_power_w=self._sleep_power_w,
            )
        ]  # fmt: skip

    def readings(self, start: datetime, end: datetime) -> Iterator[tuple[MachineId, list[ReadingRow]]]:
        del start, end
        if self._readings:
            yield MachineId(mac(1)), self._readings

    def booked_until_ms(self) -> None:
        return None

    def booked(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]:
        del start_ms, end_ms
        return iter(())

    def rolled_until_ms(self) -> None:
        return None

    def steps(self, start_ms: int, end_ms: int) -> Iterator[tuple[MachineId, list[BookedHour]]]:
        return self.booked(start_ms, end_ms)

    def settlements(self, start_ms: int, end_ms: int) -> list[Settled]:
        del start_ms, end_ms
        return []

    def switches(self, start_ms: int, end_ms: int) -> dict[MachineId, list[Switch]]:
        del start_ms, end_ms
        return {}


def exported(*readings, hours=1, by=Period.MACHINE, sleep_power_w=40.0):
    """The rows of `readings` over the first hours of 1970."""
    reader = FakeReader(*readings, sleep_power_w=sleep_power_w)
    return list(profitability(reader, EPOCH, EPOCH + timedelta(hours=hours), by))


def parsed(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_columns_are_those_of_the_design_in_their_order():
    assert list(COLUMNS) == re.sub(r"\s", "", DESIGNED).split(",")


def test_the_header_comes_first_even_without_rows():
    assert to_csv([]) == ",".join(COLUMNS) + "\n"


def test_a_row_of_an_hour_of_mining():
    (cells,) = parsed(to_csv(exported(row(valid_ms=HOUR_MS))))
    assert cells["period_start"] == "1970-01-01T00:00:00.000Z"
    assert cells["period_end"] == "1970-01-01T01:00:00.000Z"
    assert (cells["mining_hours"], cells["asleep_hours"], cells["unknown_hours"]) == ("1", "0", "0")
    assert (cells["hashrate_ths"], cells["power_w"], cells["efficiency_j_per_th"]) == ("200", "3500", "17.5")
    assert (cells["energy_kwh"], cells["energy_cost_usd"]) == ("3.5", "0.21")
    assert float(cells["revenue_usd"]) == pytest.approx(0.2 / 24 * 40)
    assert float(cells["margin_usd"]) == pytest.approx(0.2 / 24 * 40 - 0.21)
    assert (cells["hashprice_usd_per_ph_day"], cells["power_price_usd_per_kwh"]) == ("40", "0.06")
    assert cells["power_source"] == "reported"
    assert (cells["avoided_loss_usd"], cells["forgone_profit_usd"], cells["curtailments"]) == ("0", "0", "0")


def test_what_is_unknown_is_an_empty_cell_and_not_zero():
    (cells,) = parsed(to_csv(exported()))
    assert cells["unknown_hours"] == "1"
    empty = {name for name, cell in cells.items() if cell == ""}
    assert empty == {
        "firmware", "hashrate_ths", "power_w", "power_source", "efficiency_j_per_th", "energy_kwh",
        "revenue_usd", "energy_cost_usd", "margin_usd", "hashprice_usd_per_ph_day", "power_price_usd_per_kwh",
        "hashcost_usd_per_ph_day", "strike_price_usd_per_kwh", "breakeven_hashprice_usd_per_ph_day",
    }  # fmt: skip


def test_unpriced_energy_is_shown_without_money():
    (cells,) = exported(row(valid_ms=HOUR_MS, price_usd_per_kwh=None))
    assert cells["energy_kwh"] == pytest.approx(3.5)
    assert (cells["revenue_usd"], cells["energy_cost_usd"], cells["margin_usd"]) == (None, None, None)


def test_a_sleeping_hour_has_no_efficiency_and_no_strike_price():
    (cells,) = exported(row(valid_ms=HOUR_MS, run_state=RunState.ASLEEP, hashrate_ths=0.0, power_w=25.0))
    assert cells["hashrate_ths"] == 0
    assert cells["revenue_usd"] == 0
    assert cells["margin_usd"] == pytest.approx(-0.025 * 0.06)
    assert cells["efficiency_j_per_th"] is None
    assert cells["strike_price_usd_per_kwh"] is None
    assert cells["breakeven_hashprice_usd_per_ph_day"] is None


running = {
    "hashrate_ths": st.floats(1, 1000),
    "power_w": st.floats(100, 15_000),
    "price_usd_per_kwh": st.integers(-500, 900).map(lambda thousandths: thousandths / 1000),
    "hashprice_usd_per_ph_day": st.floats(1, 200),
    "fee": st.floats(0, 0.4),
    "reject": st.floats(0, 0.4),
    "overhead": st.floats(0.5, 3),
}


@given(st.fixed_dictionaries(running))
def test_the_ratios_of_a_constant_reading_are_those_of_the_formulas(values):
    (cells,) = exported(row(valid_ms=HOUR_MS, **values))
    machine_does = {
        "hashrate_ths": values["hashrate_ths"],
        "power_w": values["power_w"],
        "sleep_power_w": 40.0,
    }
    payout = {name: values[name] for name in ("fee", "reject", "overhead")}
    efficiency = values["power_w"] / values["hashrate_ths"]
    assert cells["efficiency_j_per_th"] == pytest.approx(efficiency)
    assert cells["hashcost_usd_per_ph_day"] == pytest.approx(
        economics.hashcost_usd_per_ph_day(
            efficiency_j_per_th=efficiency,
            price_usd_per_kwh=values["price_usd_per_kwh"],
            overhead=values["overhead"],
        )
    )
    assert cells["strike_price_usd_per_kwh"] == pytest.approx(
        economics.strike_price_usd_per_kwh(
            **machine_does, **payout, hashprice_usd_per_ph_day=values["hashprice_usd_per_ph_day"]
        )
    )
    assert cells["breakeven_hashprice_usd_per_ph_day"] == pytest.approx(
        economics.breakeven_hashprice_usd_per_ph_day(
            **machine_does, **payout, price_usd_per_kwh=values["price_usd_per_kwh"]
        ),
        rel=1e-9,
        abs=1e-12,
    )


def test_watts_below_the_sleep_draw_have_no_strike_price():
    (cells,) = exported(row(valid_ms=HOUR_MS, power_w=20.0))
    assert cells["strike_price_usd_per_kwh"] is None


def test_an_unpriced_half_hour_does_not_change_the_ratios_of_the_priced_one():
    half = HOUR_MS // 2
    (whole,) = exported(row(0, half))
    (gap,) = exported(row(0, half), row(half, half, price_usd_per_kwh=None, hashprice_usd_per_ph_day=None))
    for name in (
        "hashcost_usd_per_ph_day",
        "strike_price_usd_per_kwh",
        "breakeven_hashprice_usd_per_ph_day",
        "margin_usd",
    ):
        assert gap[name] == pytest.approx(whole[name]), name


def test_the_price_while_it_slept_does_not_change_what_it_breaks_even_at_while_it_runs():
    half = HOUR_MS // 2
    (running_only,) = exported(row(0, half))
    slept = row(half, half, run_state=RunState.ASLEEP, hashrate_ths=0.0, power_w=25.0, price_usd_per_kwh=5.0)
    (with_sleep,) = exported(row(0, half), slept)
    name = "breakeven_hashprice_usd_per_ph_day"
    assert with_sleep[name] == pytest.approx(running_only[name])


def test_prices_that_cancel_out_leave_the_strike_price_alone():
    half = HOUR_MS // 2
    (cells,) = exported(row(0, half, price_usd_per_kwh=0.06), row(half, half, price_usd_per_kwh=-0.06))
    (steady,) = exported(row(0, HOUR_MS))
    assert cells["strike_price_usd_per_kwh"] == pytest.approx(steady["strike_price_usd_per_kwh"])


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\tx", "\rx", "=", "-"])
def test_text_that_a_spreadsheet_would_execute_is_neutralised(text):
    assert neutralise(text) == "'" + text


@pytest.mark.parametrize("text", ["Antminer S21", "a=b", "10.0.0.1", "", "1-2", "'=x"])
def test_harmless_text_is_left_alone(text):
    assert neutralise(text) == text


def test_a_machine_with_a_formula_for_a_model_does_no_harm(tmp_path):
    evil = identity(1, model="=cmd|' /C calc'!A0", make="@SUM(A1)", firmware='+1","x\n=2')
    stored_site(tmp_path / "db", machine(1, reading(), identity=evil))
    text = export_profitability(tmp_path / "db", None, NOW + timedelta(minutes=1), Period.MACHINE, None)
    (cells,) = parsed(text)
    assert cells["model"] == "'=cmd|' /C calc'!A0"
    assert cells["make"] == "'@SUM(A1)"
    assert cells["firmware"] == '\'+1","x\n=2'


def test_negative_numbers_stay_numbers():
    (cells,) = parsed(to_csv(exported(row(valid_ms=HOUR_MS, price_usd_per_kwh=-0.1, hashrate_ths=1.0))))
    assert float(cells["energy_cost_usd"]) == pytest.approx(-0.35)
    assert cells["power_price_usd_per_kwh"] == "-0.1"


@given(st.floats(-1e300, 1e300))
def test_numbers_are_written_with_a_point_and_nothing_a_parser_stumbles_over(value):
    text = to_csv([dict.fromkeys(COLUMNS, value)])
    cells = text.splitlines()[1].split(",")
    assert len(cells) == len(COLUMNS)
    assert float(cells[0]) == pytest.approx(value, rel=1e-9)


moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, st.timedeltas(timedelta(milliseconds=1), timedelta(days=3)), st.sampled_from(Period))
def test_periods_cover_the_range_without_gap_or_overlap(start, length, by):
    periods = list(split(start, start + length, by))
    assert periods[0][0] == start
    assert periods[-1][1] == start + length
    assert all(one[1] == two[0] for one, two in pairwise(periods))
    assert all(since < until for since, until in periods)


@given(moments, st.timedeltas(timedelta(minutes=1), timedelta(days=3)))
def test_periods_begin_on_full_utc_hours_and_days(start, length):
    for since, _ in list(split(start, start + length, Period.HOUR))[1:]:
        assert (since.minute, since.second, since.microsecond) == (0, 0, 0)
    for since, _ in list(split(start, start + length, Period.DAY))[1:]:
        assert (since.hour, since.minute, since.second, since.microsecond) == (0, 0, 0, 0)


@given(st.lists(st.integers(0, 240), min_size=1, max_size=12, unique=True), st.sampled_from(["hour", "day"]))
def test_the_rows_of_hours_add_up_to_the_row_of_the_machine(minutes, by):
    readings = [
        row(minute * 60_000, 40 * 60_000, power_w=1000.0 + minute, price_usd_per_kwh=minute / 1000)
        for minute in sorted(minutes)
    ]
    (whole,) = exported(*readings, hours=5)
    parts = exported(*readings, hours=5, by=Period(by))
    for name in ("mining_hours", "asleep_hours", "unknown_hours"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name])
    for name in ("energy_kwh", "revenue_usd", "energy_cost_usd", "margin_usd"):
        assert sum(part[name] or 0.0 for part in parts) == pytest.approx(whole[name]), name


def test_every_machine_has_a_row_also_one_without_readings(tmp_path):
    with Store(tmp_path / "db") as store:
        save(store, machine(1, reading()))
        store.save_machines([machine(2)], Terms())
    with Reader(tmp_path / "db") as reader:
        rows = list(profitability(reader, NOW, NOW + timedelta(hours=1), Period.MACHINE))
    assert [each["machine_id"] for each in rows] == [mac(1), mac(2)]
    assert (rows[1]["mining_hours"], rows[1]["unknown_hours"]) == (0, 1)


def test_adjacent_exports_add_up_to_one_over_both(tmp_path):
    """A reading that was cut off before the range must stay cut off when it is the only one that reaches in."""
    with Store(tmp_path / "db") as store:
        save(store, machine(1, reading()), valid_s=600)
        later = NOW + timedelta(seconds=60)
        save(store, machine(1, asleep(began_at=later)), market=market(at=later), valid_s=30)
    with Reader(tmp_path / "db") as reader:

        def mined(start_s, end_s):
            since, until = NOW + timedelta(seconds=start_s), NOW + timedelta(seconds=end_s)
            (cells,) = profitability(reader, since, until, Period.MACHINE)
            return cells["mining_hours"]

        assert mined(0, 300) == pytest.approx(60 / 3600)
        assert mined(0, 120) + mined(120, 300) == pytest.approx(mined(0, 300))


def test_an_export_of_a_store_over_an_hour(tmp_path):
    stored_site(tmp_path / "db", machine(1, reading()), machine(2, asleep()), valid_s=600)
    text = export_profitability(tmp_path / "db", NOW, NOW + timedelta(hours=1), Period.MACHINE, None)
    first, second = parsed(text)
    assert float(first["mining_hours"]) == pytest.approx(1 / 6)
    assert float(second["asleep_hours"]) == pytest.approx(1 / 6)
    assert float(first["unknown_hours"]) == pytest.approx(5 / 6)
    assert first["period_start"] == "2026-02-01T12:00:00.000Z"


def test_the_range_begins_with_the_first_reading_unless_told(tmp_path):
    stored_site(tmp_path / "db", machine(1, reading()))
    (cells,) = parsed(export_profitability(tmp_path / "db", None, None, Period.MACHINE, None))
    assert cells["period_start"] == "2026-02-01T12:00:00.000Z"


def test_an_empty_range_is_refused_and_named(tmp_path):
    stored_site(tmp_path / "db", machine(1, reading()))
    with pytest.raises(ExportError, match=r"--from 2026-02-01.*--to 2026-02-01"):
        export_profitability(tmp_path / "db", NOW, NOW, Period.MACHINE, None)


def test_a_store_without_readings_is_refused(tmp_path):
    with Store(tmp_path / "db"):
        pass
    with pytest.raises(ExportError, match="no readings yet"):
        export_profitability(tmp_path / "db", None, None, Period.MACHINE, None)


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no such database"):
        export_profitability(tmp_path / "db", None, None, Period.MACHINE, None)


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    write_atomically(path, "new\n")
    assert path.read_text() == "new\n"
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_new_file_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "out.csv", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    path = tmp_path / "out.csv"
    path.touch()
    path.chmod(0o640)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_our_own_streams_are_written_to(site, tmp_path, name):
    ran = hashcost("export", "profitability", "-o", name, *RANGE, "--database", site)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(parsed(ran.stdout)) == 2


def test_a_file_that_standard_output_goes_to_is_added_to_and_not_replaced(tmp_path):
    path = tmp_path / "log"
    path.write_text("before\n")
    code = "from pathlib import Path; from agent.export import write_atomically;"
    with path.open("a") as file:
        subprocess.run(
            [sys.executable, "-c", f"{code} write_atomically(Path('/dev/stdout'), 'new')"],
            env=child_environment(),
            stdout=file,
            check=True,
        )
    assert path.read_text() == "before\nnew"


@pytest.mark.parametrize("command", [("export", "profitability", "-o"), ("demo", "--once", "--csv")])
def test_a_file_in_a_directory_that_may_not_be_entered_is_refused_before_anything_runs(site, command):
    with open_directory() as directory:
        stored_site(directory / "db", machine(1, reading()))
        (directory / "secret").mkdir()
        (directory / "secret").chmod(0o700 if os.geteuid() == 0 else 0o000)
        arguments = ["hashcost", *command, str(directory / "secret" / "x.csv")]
        code = f"import sys; sys.argv = {arguments!r}; agent.cli.main()"
        ran = python(code, nobody=True, HASHCOST_DATABASE=str(directory / "db"))
    assert ran.returncode == 2
    assert (ran.stdout, len(ran.stderr.splitlines())) == ("", 1)
    assert f"{directory}/secret/x.csv: cannot be written" in ran.stderr


def test_a_range_that_nobody_can_have_meant_is_refused_at_once(site):
    ran = hashcost(
        "export", "profitability", "--from", "2009-01-01", "--to", "2140-01-01", "--by", "hour",
        "--database", site,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "more than 2,000,000: set --from and --to closer together" in ran.stderr


def test_a_missing_directory_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "none" / "out.csv"
    with pytest.raises(ExportError, match=re.escape(str(path))):
        write_atomically(path, "new")


def test_a_directory_that_may_not_be_written_leaves_the_old_file():
    with open_directory() as directory:
        path = directory / "out.csv"
        path.write_text("old")
        path.chmod(0o666)
        directory.chmod(0o555)
        ran = python(f"agent.export.write_atomically(agent.export.Path({str(path)!r}), 'new')", nobody=True)
        assert "ExportError" in ran.stderr
        assert "Permission denied" in ran.stderr
        assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_file():
    with open_directory() as directory:
        path = directory / "out.csv"
        path.write_text("old")
        code = (
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
            "from pathlib import Path; from agent.export import *;"
            f"write_atomically(Path({str(path)!r}), 'new' * 1000)"
        )
        ran = python(code)
        assert "ExportError" in ran.stderr
        assert path.read_text() == "old"
        assert [each.name for each in directory.iterdir()] == ["out.csv"]


def test_a_link_keeps_pointing_to_the_file_that_is_replaced(tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_or_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "new")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("site") / "hashcost.db"
    stored_site(path, machine(1, reading()), machine(2, asleep()))
    return path


RANGE = ("--from", "2026-02-01T11:30", "--to", "2026-02-01T13:15+00:00")


@pytest.mark.parametrize(("by", "rows"), [("hour", 3), ("day", 1), ("machine", 1)])
def test_the_command_cuts_the_range_as_asked(site, by, rows):
    ran = hashcost("export", "profitability", *RANGE, "--by", by, "--database", site)
    assert (ran.returncode, ran.stderr) == (0, "")
    cells = parsed(ran.stdout)
    assert len(cells) == 2 * rows
    assert cells[0]["period_start"] == "2026-02-01T11:30:00.000Z"
    assert cells[-1]["period_end"] == "2026-02-01T13:15:00.000Z"


def test_the_command_writes_a_file_and_nothing_else(site, tmp_path):
    ran = hashcost("export", "profitability", *RANGE, "-o", tmp_path / "out.csv", "--database", site)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert len(parsed((tmp_path / "out.csv").read_text())) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "2026-02-02", "--to", "2026-02-01"),
        ("--from", "2026-02-01", "--to", "2026-02-01"),
        ("--from", "yesterday"),
        ("--to", "2026-13-01"),
        ("--from", "0001-01-01T00:00+14:00"),
        ("--from", "2026-02-01", "--to", "9999-12-31T23:59", "--by", "machine"),
        ("--from", "9999-12-31", "--to", "9999-12-31T23:59", "--by", "day"),
        ("--by", "week"),
        ("--format", "parquet"),
        ("-o", "/nonexistent/out.csv"),
        ("-o", "/"),
    ],
    ids=" ".join,
)
def test_a_range_or_file_that_cannot_be_used_is_exit_2(site, arguments):
    ran = hashcost("export", "profitability", *arguments, "--database", site)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
