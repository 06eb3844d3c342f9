"""A terminal that vanishes: a closed window, a dropped connection. Textual would go on without it, unseen, for ever."""

import os
import select
import signal
import sys
import time
from threading import Thread

EXIT_STATUS = 128 + signal.SIGHUP
"""What a shell reports of a program that ended by the hangup of its terminal."""


def end_with_terminal(*, grace_s: float = 0.0) -> None:
    """From now on, end this process when the terminal on its standard input is gone: at once, or after `grace_s` if
    it has not ended by itself.

    There is nobody to say goodbye to and nothing to restore or to save: the terminal only reads. A polite exit would
    write to what is not there. Costs nothing meanwhile: the thread sleeps in the kernel.
    """
    if sys.__stdin__ is not None and sys.__stdin__.isatty():
        Thread(
            target=_wait, args=(sys.__stdin__.fileno(), grace_s), name="terminal-vanished", daemon=True
        ).start()


def _wait(descriptor: int, grace_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # hangups and errors are reported unasked; keys are Textual's
    poll.poll()
    time.sleep(grace_s)
    os._exit(EXIT_STATUS)
