"""How the drivers are to read, from the configuration."""

from agent.clock import Clock
from agent.config import Config
from agent.logins import logins
from drivers.driver import ReadOptions


def read_options(config: Config, clock: Clock) -> ReadOptions:
    """The site's logins, deadlines and intervals; readings stamped by `clock`. Other logins: agent/logins.py."""
    return ReadOptions(
        credentials=logins(config).site,
        deadline_s=config.poll.deadline_s,
        slow_interval_s=config.poll.slow_interval_s,
        clock=clock.now,
    )
