"""How the agent tells a person that it cannot go on, grouped by who must act.

    AgentError               .exit_status; the message names the place and the remedy
    |-- UsageError               exit 2: what was typed or configured
    |   |-- config.ConfigError       a configuration file, all its mistakes at once
    |   |-- store.StoreError         a database that is missing, foreign, newer or unreadable
    |   |   |-- store.UnusableStoreError        one that is damaged or cannot be opened: the agent only observes
    |   |   `-- postgres.AwayError      a server that keeps a fleet and cannot be reached (agent.federation)
    |   |-- limits.LimitError            a host that allows too few sockets
    |   |-- fleet_database.FleetError   a directory of a fleet (agent.federation)
    |   |-- obligations.ScheduleError  a schedule of calls of the grid
    |   |-- backup.BackupError       a copy of the database, or its place
    |   |-- installation.InstallationError   a service that could not run
    |   |-- archive.ArchiveError     old days that cannot be read or written
    |   |-- export.ExportError       a range or an output file
    |   |-- lots.InventoryError      a list of machines
    |   |-- backtest.series.HistoryError   a history of prices
    |   |-- backtest.report.BacktestError   a backtest that makes no sense
    |   |-- whatif_report.WhatIfError   a scenario, or nothing to reckon it with
    |   |-- selector.SelectorError    an expression that selects machines
    |   |-- commands.CommandError     a command whose arguments make no sense, or that its sender may not give
    |   `-- control.BadCommandError   the same, told by the running agent
    |-- StorageError             exit 1: the database cannot be written; nothing is done that is not recorded
    |   `-- ContradictionError        one step of one order, which cannot be recorded; the others are
    |-- tenure.NotOursError    a command was not sent: the machines may be another agent's; the reconciler's own
    |-- control.ControlError     exit 1: the running agent cannot be reached, or could not do it
    |-- telling.UnreachableError   exit 1: no server of a fleet could be reached (agent.federation)
    |-- output.OutputError     exit 1: what is printed cannot be written
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


class StorageError(AgentError):
    """The database could not be written: a full, failing or read-only disk. What was to follow is not done."""


class ContradictionError(StorageError):
    """One step of one order contradicts what is stored: a fault of ours. It is not done; the others are."""
