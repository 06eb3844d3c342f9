"""How the agent tells a person that it cannot go on, grouped by who must act.

    AgentError               .exit_status; the message names the place and the remedy
    |-- UsageError               exit 2: what was typed or configured
    |   |-- config.ConfigError       a configuration file, all its mistakes at once
    |   |-- store.StoreError         a database that is missing, foreign, newer or unreadable
    |   `-- export.ExportError       a range or an output file
    `-- demo.DemoError           exit 1: the simulated site did not start

Machines that cannot be read are no errors of the agent: `drivers.driver.DriverError` becomes a `fleet.Failure`.
"""

from typing import ClassVar


class AgentError(Exception):
    """The command failed."""

    exit_status: ClassVar[int] = 1


class UsageError(AgentError):
    """The command cannot be carried out as it was given or configured."""

    exit_status = 2
