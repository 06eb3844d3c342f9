"""Standard output as it may be: a pipe whose reader leaves, a disk that is full, or closed from the beginning.

OutputError          standard output cannot be written; the message says why
ReaderLeft           the reader of our output has seen enough, which is no error
"""

import io
import os
import sys

from agent.errors import AgentError


class OutputError(AgentError):
    """Standard output cannot be written."""


class ReaderLeft(Exception):  # noqa: N818 - it is none
    """Whoever read our output left. No `OSError`: click and rich would take that for a failure."""


class Output(io.TextIOWrapper):
    """Standard output whose failures have names."""

    def write(self, text: str, /) -> int:
        """Write, or raise `ReaderLeft` or `OutputError`."""
        try:
            return super().write(text)
        except OSError as error:
            raise _named(error) from error

    def flush(self) -> None:
        """Flush, or raise `ReaderLeft` or `OutputError`."""
        try:
            super().flush()
        except OSError as error:
            raise _named(error) from error


def _named(error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError):
        return ReaderLeft()
    return OutputError(f"standard output: cannot be written ({error.strerror})")


def prepare() -> None:
    """Make standard output an `Output`. Streams that are closed are opened on nothing, lest a database or a socket
    get their numbers; a closed standard output stays one that cannot be written."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _open_if_closed(number, mode)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as we are
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Output(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        old = sys.stdout
        encoding, errors, by_line = old.encoding, old.errors, old.line_buffering
        sys.stdout = Output(old.detach(), encoding=encoding, errors=errors, line_buffering=by_line)


def _open_if_closed(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def give_up() -> None:
    """Let what is still to be written vanish, so that nothing complains at the end of the process."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
