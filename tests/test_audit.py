"""The reviews of what is locked: a silent service is no clean bill of health, and a new licence is looked at."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parent.parent / "requirements" / "audit.py"
_SPEC = importlib.util.spec_from_file_location("audit", SCRIPT)
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

HARMED = {"name": "h2", "version": "4.0", "vulns": [{"id": "CVE-1", "fix_versions": ["4.1"]}]}
SOUND = {"name": "rich", "version": "15", "vulns": []}
SKIPPED = {"name": "click", "skip_reason": "not found"}


def answering(monkeypatch, text):
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=text))


def test_what_is_known_is_told_with_its_remedy():
    assert audit.judge({"dependencies": [HARMED, SOUND, SKIPPED]}) == (["h2 4.0: CVE-1, fixed in 4.1"], 2)


@pytest.mark.parametrize(
    ("text", "strict", "status"),
    [
        (json.dumps({"dependencies": [HARMED]}), False, 1),
        (json.dumps({"dependencies": [SKIPPED]}), False, 0),
        (json.dumps({"dependencies": [SKIPPED]}), True, 1),
        ("", False, 0),
        ("", True, 1),
    ],
)
def test_nothing_asked_is_nothing_known_and_only_the_strict_run_fails_for_it(
    monkeypatch, capsys, text, strict, status
):
    answering(monkeypatch, text)
    assert audit.vulnerabilities(strict=strict) == status
    assert "packages audited" in capsys.readouterr().err


def test_everything_asked_and_nothing_found_is_silent(monkeypatch, capsys):
    everything = [SOUND | {"name": name} for name in audit.names("run.txt")]
    answering(monkeypatch, json.dumps({"dependencies": everything}))
    assert audit.vulnerabilities(strict=True) == 0
    assert capsys.readouterr().err == ""


def test_every_installed_package_has_its_licence_in_the_list():
    ran = subprocess.run([sys.executable, SCRIPT, "licences"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(audit.installed()) > 50


def test_a_new_package_a_changed_licence_and_one_that_nobody_allowed_are_told():
    here = {"a": "MIT", "b": "Apache-2.0", "new": "MIT"}
    problems = audit.licence_problems(here, {"a": "MIT", "b": "MIT", "c": "GPL-3.0"})
    assert [each.partition(":")[0] for each in problems] == ["b", "new", "c"]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0", False),
        ("GPL-3.0 OR MIT", True),
        ("Apache-2.0 AND BSD-2-Clause", True),
        ("Apache-2.0 AND GPL-3.0", False),
        ("unknown", False),
    ],
)
def test_of_alternatives_one_is_enough_and_of_what_is_joined_all(licence, allowed):
    assert audit.allowed(licence) is allowed
