"""What importing the drivers costs and changes."""

import subprocess
import sys

import pytest


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "drivers.reading",
        "drivers.driver",
        "drivers.catalogue",
        "drivers.plausibility",
        "drivers.power",
        "drivers.addresses",
        "drivers.inventory",
        "drivers.discovery",
        "drivers.transport",
    ],
)
def test_what_knows_no_machine_does_not_import_pyasic(module: str) -> None:
    assert run(f"import sys, {module}; print('pyasic' in sys.modules)") == "False"


def test_importing_pyasic_leaves_logging_as_it_was() -> None:
    program = (
        "import logging; root = logging.getLogger(); root.setLevel(logging.INFO);"
        "import drivers.connect, drivers.identify;"
        "import sys; print('pyasic' in sys.modules, root.level == logging.INFO, root.handlers,"
        "logging.getLogger('asyncssh').level)"
    )
    assert run(program) == "True True [] 0"


def test_our_own_logging_setup_still_works_afterwards() -> None:
    program = (
        "import logging, io, drivers.connect; out = io.StringIO();"
        "logging.basicConfig(stream=out, level=logging.INFO, format='%(message)s');"
        "logging.info('heard'); print(out.getvalue().strip())"
    )
    assert run(program) == "heard"
