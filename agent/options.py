"""How the drivers are to read, from the configuration."""

from agent.clock import Clock
from agent.config import Config
from drivers.driver import FACTORY_CREDENTIALS, ReadOptions


def read_options(config: Config, clock: Clock) -> ReadOptions:
    """Configured logins over the factory's; deadlines and intervals; readings stamped by `clock`."""
    return ReadOptions(
        credentials={**FACTORY_CREDENTIALS, **config.logins()},
        deadline_s=config.poll.deadline_s,
        slow_interval_s=config.poll.slow_interval_s,
        clock=clock.now,
    )
