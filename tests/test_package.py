"""What is shipped: a wheel with all three packages, their data and the systemd files; lock files that name no index."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_source_file_and_the_package_data(wheel_names):
    for package in ("agent", "drivers", "tui"):
        sources = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert sources <= wheel_names
    assert "drivers/models.csv" in wheel_names


def test_the_wheel_has_the_systemd_files_and_nothing_else_at_its_top(wheel_names):
    shared = {str(path.relative_to(ROOT)) for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    shipped = {name.partition("/data/share/hashcost/")[2] for name in wheel_names if "/data/" in name}
    assert shipped == shared
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not re.match(r"hashcost-.*\.(dist-info|data)$", top)} == {
        "agent",
        "drivers",
        "tui",
    }


@pytest.mark.parametrize("name", ["run", "dev", "maintain"])
def test_lock_files_have_hashes_and_name_no_index(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text
    requirements = re.findall(
        r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, flags=re.MULTILINE | re.DOTALL | re.IGNORECASE
    )
    assert requirements
    assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^  "[A-Za-z0-9_-]+[><=].*$', text, flags=re.MULTILINE)
    assert len(listed) > 20
    assert [line for line in listed if not re.search(r"# .{10}", line)] == []
