"""The command line as it is typed: exit codes, messages without tracebacks, JSON that parses, help that is quick."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from agent.cli import cli
from agent.rows import Event
from agent.scanning import _print, as_data
from agent.store import Store
from drivers.discovery import ScanFailure, ScanResult
from drivers.reading import Address
from tests.agent.builders import asleep, at, failure, identity, machine, market, reading, stored_site
from tests.agent.processes import CLI, child_environment, hashcost, open_directory, python


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("site") / "hashcost.db"
    outcomes = (reading(), reading(power_w=9000.0), failure(), asleep())
    stored_site(path, *[machine(number, outcome) for number, outcome in enumerate(outcomes, start=1)])
    return path


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A site that was polled just now."""
    now = datetime.now(UTC)
    machines = at(now, [machine(1, reading()), machine(2, reading(power_w=9000.0)), machine(4, asleep())])
    stored_site(
        tmp_path / "fresh.db", *machines, machine(3, failure(at=now)), market=market(at=now), valid_s=600
    )
    return tmp_path / "fresh.db"


@pytest.fixture
def empty(tmp_path) -> Path:
    with Store(tmp_path / "hashcost.db"):
        pass
    return tmp_path / "hashcost.db"


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(path, option):
    ran = hashcost(*path, option)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    "code",
    [
        "import agent.cli",
        "import tui.app",
        "import agent.status, agent.export, agent.config, agent.store",
        f"import sys; sys.argv = ['hashcost', '--help']\ntry: {CLI}\nexcept SystemExit: pass",
    ],
    ids=["cli", "tui", "status and export", "help"],
)
def test_pyasic_is_not_imported_by_what_does_not_talk_to_machines(code):
    ran = python(f"{code}\nimport sys; print('pyasic' in sys.modules)")
    assert ran.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("arguments", [("status",), ("export", "profitability", "--by", "day")], ids=" ".join)
def test_what_reads_the_store_does_not_import_pyasic_either(site, arguments):
    code = f"import sys\ntry: {CLI}\nfinally: print('pyasic' in sys.modules)"
    ran = python(code, *arguments, HASHCOST_DATABASE=str(site))
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1] == "False"


def test_help_imports_no_screen_and_no_database():
    code = "import sys, agent.cli; print({'textual', 'sqlite_utils', 'pydantic', 'httpx'} & set(sys.modules))"
    assert python(code).stdout == "set()\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("status", "--nonsense"),
        ("scan",),
        ("scan", "10.0.0.300"),
        ("scan", "@/nonexistent"),
        ("scan", "::1"),
        ("scan", "10.0.0.1", "--config", "/nonexistent.toml"),
        ("check", "--config", "/nonexistent.toml"),
        ("run", "--config", "/nonexistent.toml"),
        ("run",),
        ("demo", "--machines", "0"),
        ("demo", "--machines", "many"),
        ("demo", "--csv", "/nonexistent/out.csv"),
        ("demo", "--csv", "/dev"),
        ("demo", "--speed", "nan"),
        ("demo", "--speed", "inf"),
        ("status", "--database", "/nonexistent.db"),
        ("status", "--database", "/"),
        ("tui",),
        ("tui", "--database", "/nonexistent.db"),
        ("export", "profitability", "--database", "/nonexistent.db"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_carried_out_as_typed_is_exit_2(arguments):
    ran = hashcost(*arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr != ""
    assert "Traceback" not in ran.stderr


def test_a_bad_address_is_told_with_what_is_accepted():
    assert "accepted: 10.0.0.0/22" in hashcost("scan", "10.0.0.300").stderr


def test_a_missing_database_is_told_with_what_to_do():
    stderr = hashcost("status", "--database", "/nonexistent.db").stderr
    assert stderr.startswith("hashcost: /nonexistent.db: no such database; start the agent")


def test_the_database_and_the_configuration_can_be_named_by_the_environment(site, tmp_path):
    assert hashcost("status", HASHCOST_DATABASE=str(site)).returncode == 0
    ran = hashcost("check", HASHCOST_CONFIG=str(tmp_path / "none.toml"))
    assert ran.returncode == 2
    assert f"{tmp_path}/none.toml" in ran.stderr


def test_the_status_of_a_database_without_a_round_says_that_there_is_none(empty):
    ran = hashcost("status", "--database", empty)
    assert ran.returncode == 2
    assert "no poll round yet" in ran.stderr


def test_the_status_shows_machines_worst_first(fresh):
    ran = hashcost("status", "--database", fresh)
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = [line.split()[0] for line in ran.stdout.splitlines() if line.startswith("10.0.0.")]
    assert shown[0] == "10.0.0.2"
    assert shown[-1] == "10.0.0.3"
    assert "39.44 USD/PH/day" in ran.stdout
    assert "STALE" not in ran.stdout
    assert "below_breakeven" in ran.stdout


def test_the_status_of_an_old_picture_recommends_nothing(site):
    ran = hashcost("status", "--database", site)
    assert ran.returncode == 0
    assert "STALE: the agent has not polled since" in ran.stdout
    assert ran.stdout.count("hold stale_reading") == 4
    assert "below_breakeven" not in ran.stdout


def test_the_status_tells_the_doubts_of_the_last_scan(fresh):
    doubt = Event(at=datetime.now(UTC), kind="machine_stranger", detail="S21 at 10.0.0.9 [red]answers")
    with Store(fresh) as store:
        store.save_events([doubt, Event(at=datetime.now(UTC), kind="scanned", detail="")])
    assert "machine_stranger: S21 at 10.0.0.9 [red]answers" in hashcost("status", "--database", fresh).stdout
    data = json.loads(hashcost("status", "--json", "--database", fresh).stdout)
    assert data["notes"] == ["machine_stranger: S21 at 10.0.0.9 [red]answers"]


def test_the_status_is_json_if_asked(fresh, site):
    data = json.loads(hashcost("status", "--json", "--database", fresh).stdout)
    assert data["machines"][0]["address"] == "10.0.0.2"
    assert data["totals"]["machines"] == 4
    assert data["totals"]["to_curtail"] == 1
    assert not data["stale"]
    data = json.loads(hashcost("status", "--json", "--database", site).stdout)
    assert data["polled_at"] == "2026-02-01T12:00:00+00:00"
    assert data["age_s"] > 0
    assert data["stale"]
    assert data["totals"]["to_curtail"] == 0


def test_the_status_of_a_damaged_database_is_an_error_and_no_traceback(tmp_path):
    (tmp_path / "db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    ran = hashcost("status", "--database", tmp_path / "db")
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"hashcost: {tmp_path}/db: ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    ["status", "status --json", "export profitability --from 2026-02-01 --to 2026-02-02 --by hour"],
)
def test_a_reader_of_the_output_that_leaves_early_is_no_error(tmp_path, arguments):
    stored_site(tmp_path / "db", *[machine(number, reading()) for number in range(1, 251)])
    command = f"{sys.executable} -c '{CLI}' {arguments} --database {tmp_path / 'db'} | head -c 10"
    ran = subprocess.run(
        ["/bin/sh", "-c", command],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert len(ran.stdout) == 10
    assert ran.stderr == ""


def shell(command, database):
    """Run `hashcost COMMAND` in a shell, with what the shell does to its streams."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -c '{CLI}' {command}"],
        env=child_environment() | {"HASHCOST_DATABASE": str(database)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["status", "status --json", "export profitability", "--help"])
@pytest.mark.parametrize(
    ("streams", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_an_output_that_cannot_be_written_is_one_line_and_exit_1(site, command, streams, why):
    ran = shell(f"{command} {streams}", site)
    assert ran.returncode == 1
    assert ran.stderr == f"hashcost: standard output: cannot be written ({why})\n"


@pytest.mark.parametrize("command", ["status", "export profitability -o /dev/stdout", "--help"])
def test_a_command_whose_reader_leaves_ends_with_0(tmp_path, command):
    stored_site(tmp_path / "db", *[machine(number, reading()) for number in range(1, 251)])
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command.split()
    left = subprocess.run(
        [sys.executable, "-c", CLI, *arguments],
        env=child_environment() | {"HASHCOST_DATABASE": str(tmp_path / "db")},
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (left.returncode, left.stderr) == (0, b"")


@pytest.mark.parametrize("streams", ["2>&-", "<&-", "<&- 2>&-"])
def test_other_streams_that_are_closed_do_no_harm(site, streams):
    ran = shell(f"status --json {streams}", site)
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["machines"]


def test_the_terminal_without_a_terminal_is_refused_in_a_line(site):
    ran = hashcost("tui", "--database", site)
    assert ran.returncode == 2
    assert (
        ran.stderr == "hashcost: tui: needs a terminal; `hashcost status` prints the same picture anywhere\n"
    )


def test_a_scan_that_finds_nothing_is_a_failure_and_still_json():
    ran = hashcost("scan", "--json", "127.66.0.1-3")
    assert ran.returncode == 1
    assert json.loads(ran.stdout) == {"machines": [], "failures": [], "duplicates": [], "silent": 3}


def test_a_check_tells_what_stands_in_the_way(tmp_path, site):
    (tmp_path / "site.toml").write_text('[scan]\naddresses = ["127.66.0.1"]\n')
    ran = hashcost("check", "--json", "--config", tmp_path / "site.toml", "--database", site)
    findings = {each["what"]: each for each in json.loads(ran.stdout)}
    assert ran.returncode == 1
    assert findings["configuration"]["ok"]
    assert findings["database"]["ok"]
    assert "2026-02-01 12:00:00 UTC" in findings["database"]["detail"]
    assert not findings["machines"]["ok"]
    assert "1 silent" in findings["machines"]["detail"]


def test_a_check_without_addresses_says_where_to_put_them(tmp_path):
    (tmp_path / "site.toml").touch()
    ran = hashcost("check", "--config", tmp_path / "site.toml", "--database", tmp_path / "db")
    assert ran.returncode == 1
    assert "scan.addresses is empty" in ran.stdout
    assert "will be created" in ran.stdout
    assert not (tmp_path / "db").exists()


FEW_FILES = "import drivers.identify, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30));"


@pytest.mark.parametrize("command", ["scan", "check"])
def test_a_host_without_sockets_says_so_and_is_no_traceback(tmp_path, command):
    (tmp_path / "site.toml").write_text('[scan]\naddresses = ["127.66.0.0/24"]\n')
    arguments = ["127.66.0.0/24"] if command == "scan" else ["--database", str(tmp_path / "db")]
    ran = python(FEW_FILES + CLI, command, *arguments, "--config", str(tmp_path / "site.toml"))
    assert ran.returncode == 1
    assert "raise its limit of open files" in ran.stderr + ran.stdout
    assert "Traceback" not in ran.stderr


def as_nobody(*arguments, config="/nonexistent"):
    code = f"import sys; sys.argv = ['hashcost', *{[str(each) for each in arguments]!r}];"
    return python(
        f"{code} agent.cli.DEFAULT_CONFIG = agent.cli.Path({str(config)!r}); agent.cli.main()", nobody=True
    )


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A directory with a database and a configuration that an unprivileged user may not enter."""
    with open_directory() as directory:
        stored_site(directory / "hashcost.db", machine(1, reading()))
        (directory / "config.toml").touch()
        directory.chmod(0o700 if os.geteuid() == 0 else 0o000)
        yield directory


def test_a_database_that_may_not_be_reached_is_told(forbidden):
    ran = as_nobody("status", "--database", forbidden / "hashcost.db")
    assert ran.returncode == 2
    assert "Permission denied" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_configuration_that_may_not_be_reached_is_told_and_not_passed_over(forbidden):
    ran = as_nobody("check", config=forbidden / "config.toml")
    assert ran.returncode == 2
    assert f"{forbidden}/config.toml: cannot be read" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_check_of_a_database_that_may_not_be_reached_says_so(forbidden):
    ran = as_nobody("check", "--database", forbidden / "hashcost.db")
    assert ran.returncode == 1
    assert "Permission denied" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_what_machines_say_of_themselves_is_printed_and_not_obeyed(capsys):
    evil = identity(1, model="[/] [red]S21[/red] [link=http://x]y")
    lost = ScanFailure(address=Address(host="10.0.0.9"), kind="malformed", detail="[/x] {'a': [1]}")
    _print(ScanResult(found=((Address(host="10.0.0.1"), evil),), failures=(lost,), silent=7), 9)
    shown = capsys.readouterr().out
    assert "[/] [red]S21[/red] [link=http://x]y" in shown
    assert "10.0.0.9: malformed: [/x] {'a': [1]}" in shown
    assert "1 machines at 9 addresses, 7 silent" in shown


def test_a_scan_as_data_names_machines_failures_and_duplicates():
    twice = identity(1)
    found = ((Address(host="10.0.0.1"), twice), (Address(host="10.0.0.2", port=80), twice))
    data = as_data(ScanResult(found=found, failures=(), silent=0))
    assert [each["address"] for each in data["machines"]] == ["10.0.0.1", "10.0.0.2:80"]
    assert data["duplicates"] == [twice.machine_id]
    assert json.loads(json.dumps(data)) == data
