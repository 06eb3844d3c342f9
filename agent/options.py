"""How the drivers are to read, from the configuration."""

from agent.clock import Clock
from agent.config import Config
from agent.logins import logins
from drivers.driver import HostKeys, ReadOptions


def read_options(config: Config, clock: Clock, host_keys: HostKeys | None = None) -> ReadOptions:
    """The site's logins, deadlines and intervals; readings stamped by `clock`. Other logins: agent/logins.py."""
    return ReadOptions(
        credentials=logins(config).site,
        deadline_s=config.poll.deadline_s,
        slow_interval_s=config.poll.slow_interval_s,
        clock=clock.now,
        host_keys=host_keys,
    )
