"""The terminal's own process, on a real pseudo-terminal that goes away."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.agent.builders import machine, reading, stored_site
from tests.agent.processes import child_environment
from tui.vanished import EXIT_STATUS

DEADLINE_S = 60.0

AS_FROM_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored, as nohup has
runpy.run_module("tui", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def shown(tmp_path):
    """A process of `python -m tui` that has drawn its table, and the master of its terminal."""
    database = tmp_path / "hashcost.db"
    stored_site(database, machine(1, reading()))
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AS_FROM_A_TERMINAL, str(database), "agent.sock"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=child_environment() | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(slave)
    seen, until = b"", time.monotonic() + DEADLINE_S
    while b"10.0.0.1" not in seen:
        assert time.monotonic() < until, seen
        seen += os.read(master, 65536)
    yield process, master
    if process.poll() is None:
        process.kill()
    process.wait()


def _drain_until_it_ends(process, master):
    """Read what it writes on leaving, as a terminal does: it waits for its last words to be taken."""
    until = time.monotonic() + DEADLINE_S
    while process.poll() is None:
        assert time.monotonic() < until
        if select.select([master], [], [], 0.1)[0]:
            with suppress(OSError):
                os.read(master, 65536)
    os.close(master)


def test_a_terminal_that_vanishes_ends_the_program(shown):
    process, master = shown
    os.close(master)
    assert process.wait(timeout=DEADLINE_S) == EXIT_STATUS


def test_q_still_ends_it_politely(shown):
    process, master = shown
    os.write(master, b"q")
    _drain_until_it_ends(process, master)
    assert process.returncode == 0


def test_a_hangup_ends_the_program(shown):
    process, master = shown
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=DEADLINE_S) == -signal.SIGHUP
    os.close(master)
