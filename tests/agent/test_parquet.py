"""Exports as Parquet: the same rows as the CSV, each column with its type, also where nothing is known."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pyarrow
import pytest
from pyarrow import parquet

from agent.export import COLUMNS, ExportError, Period, export_profitability
from agent.ledger_export import COLUMNS as LEDGER_COLUMNS
from agent.parquet import MOMENTS, TEXTS, WHOLE, to_parquet
from agent.records import ENERGY_COLUMNS, EVENT_COLUMNS, ORDER_COLUMNS, PRICE_COLUMNS, export_day
from tests.agent.builders import NOW, asleep, failure, identity, machine, reading, stored_site
from tests.agent.processes import hashcost, python

ALL = {"site", *COLUMNS, *LEDGER_COLUMNS, *ENERGY_COLUMNS, *EVENT_COLUMNS, *ORDER_COLUMNS, *PRICE_COLUMNS}
END = NOW + timedelta(hours=2)


@pytest.fixture
def path(tmp_path):
    evil = identity(3, model="=1+1")
    machines = (machine(1, reading()), machine(2, asleep()), machine(3, failure(), identity=evil))
    stored_site(tmp_path / "hashcost.db", *machines, valid_s=600)
    return tmp_path / "hashcost.db"


def test_the_rows_are_those_of_the_csv(path, tmp_path):
    file = tmp_path / "out.parquet"
    export_profitability(path, NOW, END, Period.HOUR, file, file_format="parquet")
    rows = parquet.read_table(file).to_pylist()
    as_csv = list(csv.DictReader(io.StringIO(export_profitability(path, NOW, END, Period.HOUR, None))))
    assert len(rows) == len(as_csv) == 6
    for row, cells in zip(rows, as_csv, strict=True):
        assert list(row) == list(COLUMNS)
        for name, cell in cells.items():
            if cell == "":
                assert row[name] is None
            elif name in MOMENTS:
                assert row[name] == datetime.fromisoformat(cell)
            elif name in TEXTS:
                assert row[name] == cell.removeprefix("'")
            else:
                assert row[name] == pytest.approx(float(cell))


def test_types_do_not_hang_on_what_is_known():
    empty, row = to_parquet([], COLUMNS), to_parquet([dict.fromkeys(COLUMNS)], COLUMNS)
    schemas = [parquet.read_schema(pyarrow.BufferReader(each)) for each in (empty, row)]
    assert schemas[0] == schemas[1]
    assert schemas[0].field("period_start").type == pyarrow.timestamp("ms", tz="UTC")
    assert schemas[0].field("curtailments").type == pyarrow.int64()
    assert schemas[0].field("energy_kwh").type == pyarrow.float64()


def test_every_column_that_is_listed_by_type_exists():
    assert WHOLE | MOMENTS | TEXTS <= ALL


def test_all_of_yesterday_as_parquet(path, tmp_path):
    files = export_day(path, tmp_path, datetime(2026, 2, 2, 7, tzinfo=UTC), UTC, file_format="parquet")
    assert {file.suffix for file in files} == {".parquet"}
    tables = {file.stem.partition("-")[0]: parquet.read_table(file).num_rows for file in files}
    assert tables["energy"] == 96
    assert tables["profitability"] == 72


def test_it_wants_a_file(path):
    with pytest.raises(ExportError, match="name a file with -o"):
        export_profitability(path, NOW, END, Period.HOUR, None, file_format="parquet")


@pytest.mark.parametrize("what", ["profitability", "ledger", "energy", "orders", "events", "prices"])
def test_each_on_the_command_line(path, tmp_path, what):
    file = tmp_path / "out.parquet"
    done = hashcost(
        "export", what, "--to", "2026-02-02", "--format", "parquet", "-o", file, "--database", path
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert parquet.read_table(file).num_columns > 3


def test_without_the_extra_it_says_what_to_install(path, tmp_path):
    code = "import sys; sys.modules['pyarrow'] = None; from agent.cli import main; sys.argv[0] = 'hashcost'; main()"
    arguments = (
        "export",
        "ledger",
        "--format",
        "parquet",
        "-o",
        str(tmp_path / "x"),
        "--database",
        str(path),
    )
    done = python(code, *arguments)
    assert done.returncode == 2
    assert "install hashcost with the extra `parquet`" in done.stderr
