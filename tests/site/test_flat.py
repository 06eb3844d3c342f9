"""What the agent holds after a simulated month is what it held in its middle."""

import json
import subprocess
import sys

from tests.agent.processes import ROOT, child_environment
from tests.site.flat_month import DAYS, KEPT_DAYS, MACHINES

GROWTH_BLOCKS = 400
"""Of memory in 26 days, 624 rounds: to forget to drop the smallest thing once a round is more; caches make 200."""


def least(days):
    """Of some days, so that what was under way at the end of one does not count."""
    return [min(each) for each in zip(*days, strict=True)]


def test_memory_files_and_tasks_are_flat_over_a_simulated_month(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.site.flat_month", tmp_path],
        cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lived = json.loads(done.stdout)
    assert all(each >= 2 * (DAYS - 1) for each in lived["commands"])  # every evening it slept
    assert lived["orders"] >= DAYS * MACHINES
    assert lived["oldest_reading_days"] <= KEPT_DAYS + 1
    middle, end = least(lived["days"][10:15]), least(lived["days"][-5:])
    assert end[1:] == middle[1:]
    assert end[0] - middle[0] < GROWTH_BLOCKS
