"""`hashcost fleet demo`: real agents, simulated sites, real servers, one picture."""

import os
import pty
import select
import subprocess
import sys
import time

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


def test_in_a_terminal_it_shows_the_terminal_of_the_fleet(tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "fleet", "demo", "--machines", "2"],
        env={**child_environment(), "TMPDIR": str(tmp_path), "TERM": "xterm-256color"},
        stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    screen, pressed = b"", False
    deadline = time.monotonic() + 200
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline, screen[-3000:]
            if select.select([leader], [], [], 0.5)[0]:
                try:
                    screen += os.read(leader, 65536)
                except OSError:  # the last one has gone
                    break
            if not pressed and b"Open the site" in screen:
                os.write(leader, b"q")
                pressed = True
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert pressed
    assert list(tmp_path.iterdir()) == []
