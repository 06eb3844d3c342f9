"""`hashcost fleet demo`: real agents, simulated sites, real servers, one picture."""

import subprocess
import sys

import pytest

from agent.simulated.nats import server_program
from tests.agent.processes import CLI, child_environment

pytestmark = [
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
    pytest.mark.timeout(240),
]


def test_three_sites_make_one_picture_and_nothing_is_left_running(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CLI, "fleet", "demo", "--machines", "4", "--once"],
        env={**child_environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["denver", "ok"], ["tulsa", "ok"], ["ulvik", "ok"]]
    assert "site 12 machines" in done.stdout
    assert list(tmp_path.iterdir()) == []
