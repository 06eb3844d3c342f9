"""Too few sockets are found out at the start, and not in the middle of a round."""

import pytest

from agent.config import Config, PollSection
from agent.limits import needed_files
from agent.reconciler import COMMANDS_AT_ONCE
from drivers.discovery import CONCURRENCY, MINER_PORTS
from tests.agent.processes import python

START = """
import resource, sys
from agent.config import Config
from agent.limits import LimitError, allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    allow_files(Config())
except LimitError as error:
    sys.exit(f"refused: {error}")
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
NEEDED = needed_files(Config())


def test_more_workers_need_more():
    assert needed_files(Config(poll=PollSection(workers=500))) == NEEDED + 3 * (500 - 64)


def test_readings_a_scan_and_commands_at_the_same_time_fit():
    assert 3 * 64 + len(MINER_PORTS) * CONCURRENCY + COMMANDS_AT_ONCE < NEEDED


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (NEEDED, NEEDED, NEEDED),
        (64, NEEDED, NEEDED),
        (64, 2 * NEEDED, NEEDED),
        (2 * NEEDED, 2 * NEEDED, 2 * NEEDED),
    ],
)
def test_the_limit_is_raised_as_far_as_is_needed(soft, hard, after):
    done = python(START, str(soft), str(hard))
    assert (done.returncode, done.stdout.strip()) == (0, str(after)), done.stderr


def test_a_host_that_allows_too_few_is_told_with_the_remedy():
    done = python(START, "64", str(NEEDED - 1))
    assert done.returncode == 1
    assert (
        f"refused: open files: this host allows {NEEDED - 1}, and poll.workers = 64 needs {NEEDED}"
        in done.stderr
    )
    assert "LimitNOFILE" in done.stderr
