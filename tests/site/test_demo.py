"""`hashcost demo` as a person runs it: a process, its output, its files, its end."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "agent"]
COLUMNS = (
    "machine_id,mac,ip,make,model,firmware,group,period_start,period_end,"
    "mining_hours,asleep_hours,unknown_hours,hashrate_ths,power_w,power_source,efficiency_j_per_th,"
    "energy_kwh,revenue_usd,energy_cost_usd,margin_usd,"
    "hashprice_usd_per_ph_day,power_price_usd_per_kwh,hashcost_usd_per_ph_day,"
    "strike_price_usd_per_kwh,breakeven_hashprice_usd_per_ph_day,"
    "avoided_loss_usd,forgone_profit_usd,curtailments"
)


def demo(*options: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *COMMAND, "demo", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> tuple[dict[str, Any], list[dict[str, str]], str]:
    """One run: its data, its CSV rows and the CSV's header."""
    file = tmp_path_factory.mktemp("demo") / "out.csv"
    result = demo("--once", "--machines", "24", "--seed", "7", "--json", "--csv", str(file))
    assert (result.returncode, result.stderr) == (0, "")
    lines = file.read_text().splitlines()
    return json.loads(result.stdout), list(csv.DictReader(lines)), lines[0]


def test_finds_and_appraises_every_machine_worst_margin_first(once):
    data, _, _ = once
    margins = [machine["margin_usd_per_day"] for machine in data["machines"]]
    assert len(margins) == 24
    assert margins == sorted(margins)
    assert margins[0] < 0 < margins[-1]
    assert data["market"]["hashprice_usd_per_ph_day"] == pytest.approx(39.44, abs=0.005)
    assert (data["market"]["hashprice_source"], data["market"]["price_source"]) == ("live", "fixed")


def test_every_number_follows_from_the_reading_and_the_prices(once):
    data, _, _ = once
    hashprice, price = data["market"]["hashprice_usd_per_ph_day"], data["market"]["price_usd_per_kwh"]
    for machine in data["machines"]:
        revenue = machine["hashrate_ths"] / 1000 * hashprice
        cost = machine["power_w"] / 1000 * 24 * price
        assert machine["margin_usd_per_day"] == pytest.approx(revenue - cost)
        assert machine["efficiency_j_per_th"] == pytest.approx(machine["power_w"] / machine["hashrate_ths"])
        assert machine["strike_price_usd_per_kwh"] == pytest.approx(
            revenue / ((machine["power_w"] - 40) / 1000 * 24)
        )
        expected = "curtail" if revenue < cost - 40 / 1000 * 24 * price else "run"
        assert machine["action"] == expected


def test_totals_are_those_of_the_table(once):
    data, _, _ = once
    machines, totals = data["machines"], data["totals"]
    losing = [machine for machine in machines if machine["action"] == "curtail"]
    assert totals["power_kw"] == pytest.approx(sum(m["power_w"] for m in machines) / 1000)
    assert totals["hashrate_phs"] == pytest.approx(sum(m["hashrate_ths"] for m in machines) / 1000)
    assert totals["lost_usd_per_day"] == pytest.approx(-sum(m["margin_usd_per_day"] for m in losing))
    assert totals["to_curtail_kw"] == pytest.approx(sum(m["power_w"] for m in losing) / 1000)


def test_csv_has_exactly_the_columns_and_a_row_per_machine(once):
    data, rows, header = once
    assert header == COLUMNS
    assert {row["mac"] for row in rows} == {machine["mac"] for machine in data["machines"]}
    for row in rows:
        assert float(row["mining_hours"]) > 0
        assert float(row["margin_usd"]) == pytest.approx(
            float(row["revenue_usd"]) - float(row["energy_cost_usd"]), abs=1e-9
        )


def test_text_output_has_a_line_per_machine_and_says_where_prices_come_from():
    result = demo("--once", "--machines", "6")
    assert result.returncode == 0
    assert "39.44 USD/PH/day (live)   power 0.0600 USD/kWh (fixed)" in result.stdout
    assert len(re.findall(r"^127\.77\.0\.\d+ .* (run|curtail|hold) ", result.stdout, flags=re.MULTILINE)) == 6
    assert re.search(r"under break-even \d+ machines lose \d+\.\d\d USD/day", result.stdout)


def test_the_same_seed_gives_the_same_site():
    first, second = (
        json.loads(demo("--once", "--machines", "6", "--seed", "3", "--json").stdout) for _ in range(2)
    )
    assert [sorted((m["mac"], m["model"]) for m in data["machines"]) for data in (first, second)] == [
        sorted((m["mac"], m["model"]) for m in first["machines"])
    ] * 2


def test_faults_do_not_stop_it_and_nothing_unknown_becomes_zero():
    data = json.loads(demo("--once", "--machines", "60", "--seed", "3", "--faults", "--json").stdout)
    troubled = [m for m in data["machines"] if m["failure"] or m["implausible"]]
    assert troubled
    assert all(machine["action"] == "hold" for machine in troubled)
    assert all(machine["margin_usd_per_day"] is None for machine in troubled)
    assert all(machine["power_w"] != 0 for machine in data["machines"])


def heed_signals() -> None:
    """As in a person's terminal; under nohup, or in the background of a script, a child would inherit deaf ears."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_ctrl_c_ends_it_cleanly_and_still_writes_the_csv(tmp_path, number, terminal):
    """On a real terminal: it shows pictures until Ctrl-C or its like, exits with 0, writes the CSV, and takes the
    simulated site and its directory with it."""
    file = tmp_path / "out.csv"
    (tmp_path / "tmp").mkdir()
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--machines", "6", "--csv", str(file)],
        stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": terminal, "COLUMNS": "160", "TMPDIR": str(tmp_path / "tmp")},
        preexec_fn=heed_signals,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    os.close(follower)
    try:
        shown = read_until(leader, "under break-even", seconds=120)
        children = children_of(process.pid)
        process.send_signal(number)
        shown += read_until(leader, None, seconds=120)
        assert process.wait(timeout=60) == 0, shown
    finally:  # or it would keep the addresses of the next test
        process.kill()
        process.wait()
        os.close(leader)
    assert children
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert file.read_text().startswith(COLUMNS)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "Traceback" not in shown


def test_in_the_background_of_a_script_sigterm_ends_it_though_ctrl_c_would_not(tmp_path):
    """A shell that does not talk to a person has its background jobs ignore SIGINT."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--machines", "4", "--csv", str(tmp_path / "out.csv")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=deaf_to_ctrl_c,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    try:
        for line in process.stdout:
            if "under break-even" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "out.csv").read_text().startswith(COLUMNS)


def deaf_to_ctrl_c():
    heed_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_reader_that_leaves_ends_it_in_silence(tmp_path):
    """Like `hashcost demo | head`."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--machines", "4", "--csv", str(tmp_path / "out.csv")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"hashprice ")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert (tmp_path / "out.csv").read_text().startswith(COLUMNS)


def read_until(descriptor: int, text: str | None, *, seconds: float) -> str:
    """What a terminal showed until `text` appeared, or until it was closed."""
    shown, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            shown += os.read(descriptor, 65536).decode(errors="replace")
        except OSError:  # the other end is gone
            return shown
        if text is not None and text in shown:
            return shown
    raise AssertionError(f"did not show {text!r} within {seconds} s: {shown[-2000:]}")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv to give privileges up")
def test_without_privilege_the_whole_site_is_there_or_one_is_told_what_is_left_out():
    """Without any capability port 80 cannot be bound, as for an ordinary user."""
    result = demo(
        "--once", "--machines", "8", "--seed", "2", "--json", prefix=["setpriv", "--bounding-set=-all"]
    )
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert len(data["machines"]) == 8
    assert data["notes"] or all(machine["mac"] for machine in data["machines"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--machines", "0"], "--machines"),
        (["--speed", "0"], "--speed"),
        (["--csv", "/nowhere/out.csv"], "/nowhere"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_options_are_refused_by_name_with_exit_2(options, names):
    result = demo("--once", *options)
    assert result.returncode == 2
    assert names in result.stderr
    assert result.stdout == ""
