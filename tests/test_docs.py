"""The reference names everything that exists."""

import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from agent.backtest.report import COLUMNS as BACKTEST_COLUMNS
from agent.cli import cli
from agent.config import Config, CredentialSection
from agent.config.alerts import TargetSection
from agent.config.market import SourceSection
from agent.config.overrides import OverrideSection
from agent.config.power import PeriodSection
from agent.export import COLUMNS
from agent.ledger_export import COLUMNS as LEDGER_COLUMNS
from agent.policy import Action, Reason
from agent.records import ENERGY_COLUMNS, EVENT_COLUMNS, ORDER_COLUMNS, PRICE_COLUMNS
from drivers import driver
from tui.bindings import as_markdown

RECORD_COLUMNS = {*ENERGY_COLUMNS, *ORDER_COLUMNS, *EVENT_COLUMNS, *PRICE_COLUMNS} - {*COLUMNS}
ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def keys_of(section: str, model: type[BaseModel]) -> list[str]:
    keys = []
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += keys_of(f"{section}.{key}", field.annotation)
        else:
            keys.append(f"{section}.{key}")
    return keys


def config_keys() -> list[str]:
    keys = [f"credentials.FAMILY.{key}" for key in CredentialSection.model_fields]
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += keys_of(section, field.annotation)
    nested = {
        "alerts.targets.NAME": TargetSection,
        "market.sources.NAME": SourceSection, "power.periods": PeriodSection, "overrides.NAME": OverrideSection,
    }  # fmt: skip
    return [*keys, *(f"{name}.{key}" for name, model in nested.items() for key in model.model_fields)]


def failure_kinds() -> set[str]:
    kinds = {
        value.kind for value in vars(driver).values() if isinstance(value, type) and hasattr(value, "kind")
    }
    return kinds - {driver.DriverError.kind}


@pytest.mark.parametrize("name", commands(cli))
def test_command_is_documented(name):
    assert f"`hashcost {name}" in REFERENCE


@pytest.mark.parametrize(
    "option",
    sorted(
        {
            option
            for command in commands(cli).values()
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
    ),
)
def test_option_is_documented(option):
    assert f"`{option}`" in REFERENCE or f"`{option} " in REFERENCE


@pytest.mark.parametrize("key", config_keys())
def test_config_key_is_documented(key):
    assert f"| `{key}` |" in REFERENCE


@pytest.mark.parametrize("code", [*Action, *Reason, *sorted(failure_kinds())])
def test_code_is_documented(code):
    assert f"| `{code}` |" in REFERENCE


@pytest.mark.parametrize("column", [*COLUMNS, *BACKTEST_COLUMNS, *LEDGER_COLUMNS, *sorted(RECORD_COLUMNS)])
def test_column_is_documented(column):
    assert f"`{column}`" in REFERENCE


def test_keys_of_the_terminal_are_documented():
    assert as_markdown() in REFERENCE


def test_every_alert_is_documented():
    source = (Path(__file__).parent.parent / "agent" / "alerts.py").read_text()
    names = set(re.findall(r'(?:_condition|_over)\(\s*f?"(\w+)', source)) | set(
        re.findall(r'name="(\w+)"', source)
    )
    assert len(names) == 11
    assert all(f"| `{name}" in REFERENCE for name in names)


ALERTS = re.findall(r"^\| `(\w+)(?::NAME)?` \| (?:warning|critical) \|", REFERENCE, flags=re.MULTILINE)
ORDER_FAILURES = re.findall(
    r"^\| `(\w+)` \|",
    REFERENCE.partition("| failure of an order |")[2].partition("##")[0],
    flags=re.MULTILINE,
)


def test_the_reference_lists_what_can_go_wrong():
    assert (len(ALERTS), len(ORDER_FAILURES)) == (11, 5)


@pytest.mark.parametrize("code", [*ALERTS, *ORDER_FAILURES, *sorted(failure_kinds())])
def test_there_is_a_recovery_from_each_failure(code):
    row = next(line for line in OPERATIONS.splitlines() if line.startswith(f"| `{code}` |"))
    assert len(row.split("|")[2].strip()) > 10


def written_commands():
    """Every `hashcost ...` that the documentation tells people to type."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        for line in [
            *re.findall(r"^(?: {4}|\t)(.*)$", text, flags=re.MULTILINE),
            *re.findall(r"`([^`\n]+)`", text),
        ]:
            for typed in re.findall(r"(?:^|[/ ])hashcost ((?!hashcost)[a-z][^#|>&;]*)", line):
                yield path.name, typed.strip()


def unknown_in(typed):
    """What of a command is none, or an option that it does not have."""
    command, words = cli, re.sub(r"[\"'].*?[\"']", "TEXT", typed).split()
    while words and isinstance(command, click.Group):
        found = command.commands.get(words[0])
        if found is None:
            return words[0] if command is cli or words[0].isidentifier() else None
        command, words = found, words[1:]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {word.strip("[]").partition("=")[0] for word in words if re.match(r"\[?--?[a-z]", word)}
    return next(iter(given - known - {"--help"}), None)


@pytest.mark.parametrize(("path", "typed"), sorted(set(written_commands())))
def test_a_command_that_is_written_down_is_one(path, typed):
    assert unknown_in(typed) is None
