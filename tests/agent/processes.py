"""Real processes: the command line as a person runs it, and readers that are somebody else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from click.testing import CliRunner

from agent.cli import cli
from agent.errors import AgentError

ROOT = Path(__file__).parents[2]
NOBODY = 65534
CLI = "from agent.cli import main; main()"
AS_NOBODY = f"""
import encodings.idna, locale, os, sqlite3, tempfile
import agent.check, agent.cli, agent.demo, agent.export, agent.service, agent.status, tui.app
from agent.store import Reader, Store
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


def python(
    code: str, *arguments: str, nobody: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in the interpreter of the tests with the project importable.

    `nobody` runs it without any privilege, for what directories and files refuse. Root's interpreter may lie where
    nobody can reach it, so what is needed is imported first; code for `nobody` imports nothing else.
    """
    return subprocess.run(
        [sys.executable, "-B", "-c", (AS_NOBODY if nobody else "") + code, *arguments],
        env={**child_environment(), **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def hashcost(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `hashcost` with these arguments."""
    return python(CLI, *map(str, arguments), **options)


def hashcost_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, which spares a start of Python: for commands that only read, and log nothing."""
    given = [str(each) for each in arguments]
    told = CliRunner(env={"COLUMNS": "200"}).invoke(cli, given)
    if isinstance(error := told.exception, AgentError):
        said = "".join(f"hashcost: {line}\n" for line in str(error).splitlines())
        return subprocess.CompletedProcess(given, error.exit_status, told.stdout, said)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return subprocess.CompletedProcess(given, told.exit_code, told.stdout, told.stderr)


def child_environment() -> dict[str, str]:
    """What a child is told: where the project is, a width, and nothing of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HASHCOST_")}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@contextmanager
def open_directory(mode: int = 0o755) -> Iterator[Path]:
    """A directory that everybody can reach, unlike those of pytest; `mode` is set by the test when it is filled."""
    directory = Path(mkdtemp(prefix="hashcost-test-"))
    directory.chmod(mode)
    try:
        yield directory
    finally:
        directory.chmod(0o755)
        subprocess.run(["rm", "-rf", str(directory)], check=True)
