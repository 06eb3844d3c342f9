"""The service's files are put in place, and taken away again but for configuration and data."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import installation
from agent.installation import InstallationError
from tests.agent.processes import hashcost, open_directory

SYSTEMD = Path(__file__).parents[2] / "systemd"
PROGRAM = Path("/opt/hashcost/bin/hashcost")


def written(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_files_are_written_once_and_name_the_program(tmp_path):
    first = installation.apply(PROGRAM, tmp_path)
    unit = (tmp_path / "etc/systemd/system/hashcost.service").read_text()
    assert f"ExecStart={PROGRAM} run --config /etc/hashcost/config.toml" in unit
    assert "/usr/bin/hashcost" not in unit
    assert {
        "etc/systemd/system/hashcost.service",
        "etc/sysusers.d/hashcost.conf",
        "etc/tmpfiles.d/hashcost.conf",
        "etc/hashcost/config.toml",
    } <= written(tmp_path)
    assert all(line.endswith("written") for line in first[:-1])
    again = installation.apply(PROGRAM, tmp_path)
    assert all(line.endswith(("up to date", "kept as it is")) for line in again[:-1])


def test_a_configuration_that_is_there_is_kept_by_all_of_it(tmp_path):
    config = tmp_path / "etc/hashcost/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("mine")
    database = tmp_path / "var/lib/hashcost/hashcost.db"
    database.parent.mkdir(parents=True)
    database.write_text("data")
    installation.apply(PROGRAM, tmp_path)
    installation.remove(PROGRAM, tmp_path)
    assert written(tmp_path) == {"etc/hashcost/config.toml", "var/lib/hashcost/hashcost.db"}
    assert config.read_text() == "mine"


def test_a_unit_of_an_older_version_is_brought_up_to_date(tmp_path):
    installation.apply(PROGRAM, tmp_path)
    unit = tmp_path / "etc/systemd/system/hashcost.service"
    unit.write_text("[Unit]")
    assert f"{unit}: written" in installation.apply(PROGRAM, tmp_path)
    assert "ExecStart" in unit.read_text()


@pytest.mark.parametrize("home", ["/home/me/.local/bin/hashcost", "/root/x/hashcost"])
def test_a_program_in_a_home_is_refused(home, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    with pytest.raises(
        InstallationError, match=f"{home}: a service sees no home directories; install it for"
    ):
        installation.refuse_unreachable(Path(home))


def test_a_program_behind_a_closed_door_is_refused():
    with open_directory(0o700) as directory:
        program = directory / "hashcost"
        program.touch()
        with pytest.raises(InstallationError, match=f"{directory}: only its owner may enter"):
            installation.refuse_unreachable(program)
        directory.chmod(0o755)
        installation.refuse_unreachable(program)
        with pytest.raises(InstallationError, match="there is no such file"):
            installation.refuse_unreachable(directory / "other")


@pytest.mark.parametrize("part", ["interpreter", "source"])
def test_a_program_whose_interpreter_or_sources_are_behind_a_closed_door_is_refused(part, monkeypatch):
    with open_directory(0o755) as place, open_directory(0o700) as home:
        program = place / "hashcost"
        interpreter, source = place / "python3", place / "installation.py"
        for path in (program, interpreter, source, home / "python3", home / "installation.py"):
            path.touch()
        monkeypatch.setattr(sys, "argv", [str(program)])
        monkeypatch.setattr(sys, "executable", str(interpreter))
        monkeypatch.setattr(installation, "__file__", str(source))
        assert installation.program_for_service() == program
        hidden = interpreter if part == "interpreter" else source
        hidden.unlink()
        hidden.symlink_to(home / hidden.name)
        with pytest.raises(InstallationError, match=f"{home}: only its owner may enter"):
            installation.program_for_service()


def test_only_root_may_install_on_the_host(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for change in (installation.apply, installation.remove):
        with pytest.raises(InstallationError, match="only root may do that"):
            change(PROGRAM, Path("/"))


def test_what_systemd_refuses_is_told():
    assert installation._run("false") == "false: FAILED, exit 1"
    assert installation._run("no-such-program").startswith("no-such-program: FAILED, ")
    assert installation._run("true") == "true: done"


def test_the_command_line_prints_and_installs_into_another_root(tmp_path):
    if not (Path(sys.executable).parent / "hashcost").is_file():
        pytest.fail("the tests run where hashcost is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installation, "refuse_unreachable", lambda _: None)
        assert str(Path(sys.executable).parent) in installation.as_text(installation.program_for_service())
    done = hashcost("install-service", "--apply", "--root", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_a_dynamic_user_is_told_a_home():
    """It has none, and without nss-systemd no entry either; what looks for its home would stop the service."""
    units = [unit.read_text() for unit in SYSTEMD.glob("*.service")]
    dynamic = [unit for unit in units if "DynamicUser=yes" in unit]
    assert dynamic
    assert all("\nEnvironment=HOME=/var/lib/" in unit for unit in dynamic)


@pytest.mark.parametrize("unit", sorted(SYSTEMD.glob("*.service")), ids=lambda path: path.name)
def test_units_are_verified_and_exposed_little(unit, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not on this machine: the units were not verified here")
    for path in (*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.timer")):
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/hashcost", "/usr/bin/true"))
    copy = tmp_path / unit.name
    verified = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    security = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=15", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert security.returncode == 0, security.stdout[-200:]
