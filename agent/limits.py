"""How many files and sockets this process may have open, checked before the agent needs them.

LimitError          exit 2: the host allows too few
"""

import resource

from agent.config import Config
from agent.errors import UsageError
from agent.reconciler import COMMANDS_AT_ONCE
from drivers.discovery import CONCURRENCY, MINER_PORTS

SOCKETS_A_READ = 3
OTHERS = 100
"""Database, logs, control clients, sources of prices."""


class LimitError(UsageError):
    """The host does not let this process have as many sockets as its configuration needs."""


def needed_files(config: Config) -> int:
    """The most that reading, scanning and commanding at the same time have open."""
    scanning = len(MINER_PORTS) * CONCURRENCY
    return SOCKETS_A_READ * config.poll.workers + scanning + COMMANDS_AT_ONCE + OTHERS


def allow_files(config: Config) -> None:
    """Make sure of enough, as far as the host lets us. Raises `LimitError` where that is too little."""
    needed = needed_files(config)
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return
    if most == resource.RLIM_INFINITY or most >= needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
        except (OSError, ValueError):  # a sandbox forbids even that
            most = allowed
        else:
            return
    raise LimitError(
        f"open files: this host allows {most}, and poll.workers = {config.poll.workers} needs {needed}; "
        "raise the limit (LimitNOFILE of the service, or ulimit -n) or lower poll.workers"
    )
