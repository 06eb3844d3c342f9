"""The demo in a real terminal: tmux, real keys, and what is on the screen. Skipped, and seen to be, where there is no
tmux."""

import os
import shutil
import subprocess
import time

import pytest

from tests.site.test_demo import COMMAND

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
DEADLINE_S = 90.0


class Terminal:
    """A tmux session of its own server."""

    def __init__(self, name, directory):
        self._base = ["tmux", "-L", f"hashcost-{os.getpid()}-{name}", "-f", os.devnull]
        self._environment = {
            **os.environ,
            "TMPDIR": str(directory),
            "TMUX_TMPDIR": str(directory),
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *arguments):
        done = subprocess.run(
            [*self._base, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    def start(self, command, width, height):
        self.run("new-session", "-d", "-s", "s", "-x", str(width), "-y", str(height), command)

    def press(self, *keys):
        self.run("send-keys", "-t", "s", *keys)

    def screen(self):
        return self.run("capture-pane", "-p", "-t", "s")

    def until(self, *words):
        end = time.monotonic() + DEADLINE_S
        while not all(word in (seen := self.screen()) for word in words):
            assert time.monotonic() < end, f"no {words} in\n{seen}"
            time.sleep(0.1)

    def gone(self):
        end = time.monotonic() + DEADLINE_S
        while self.run("list-sessions"):
            assert time.monotonic() < end, self.screen()
            time.sleep(0.1)


@pytest.fixture
def terminal(tmp_path, request):
    opened = Terminal(request.node.name[:20].replace("[", "-").replace("]", ""), tmp_path)
    yield opened
    opened.run("kill-server")


def test_the_demo_is_watched_and_operated_with_keys(terminal, tmp_path):
    arguments = " ".join([*COMMAND, "demo", "--machines", "24", "--seed", "7"])
    terminal.start(f"env TERM=xterm-16color {arguments}; echo ended with $? ; sleep 1", 100, 30)
    terminal.until("RECOMMEND", "OPERATE", "24 mining", "curtail below_breakeven", "hashprice")
    terminal.press("4")
    terminal.until("merit order", "under water", "braiins")
    terminal.press("3")
    terminal.until("proposals", "below_breakeven", "within this minute")
    terminal.press("Home", "A")
    terminal.until("approve 1 machine?", "USD/hour")
    terminal.press("Tab", "Enter")  # one of 24 is no twentieth: no number is asked for
    terminal.until("1 of 1")
    terminal.press("1")
    terminal.until("1 asleep")  # the watts of a simulated machine have fallen
    terminal.press("H")
    terminal.until(" HELD ")
    terminal.press("6")
    terminal.until("command_hold", "command_approve", "sleep confirmed")
    terminal.press("q")
    terminal.until("ended with 0")
    terminal.gone()
    assert not [left for left in tmp_path.iterdir() if left.name.startswith("hashcost-demo")]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (240, 80)])
def test_small_and_large_terminals_are_used(terminal, width, height):
    terminal.start(" ".join([*COMMAND, "demo", "--machines", "12", "--auto"]), width, height)
    terminal.until("AUTO", "machine", "margin", "recommendation", "q Quit", "H Hold")
    if width > 200:
        terminal.until("chip C", "expected", "strike", "group", "W from")
    terminal.press("q")
    terminal.gone()
