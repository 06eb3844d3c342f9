"""Types of arguments, and options that several commands of the command line have."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from agent.economics import MINING_YEARS

DEFAULT_CONFIG = Path("/etc/hashcost/config.toml")
DEFAULT_DATABASE = Path("/var/lib/hashcost/hashcost.db")
DEFAULT_SOCKET = Path("/run/hashcost/agent.sock")
F = TypeVar("F", bound=Callable[..., Any])


class UtcTime(click.ParamType[datetime]):
    """An ISO-8601 date or time; without an offset it is UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse, or fail with what is accepted."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not a time; write 2026-01-31, 2026-01-31T18:00 or ...T18:00+01:00", param, ctx
            )
        if moment.year not in MINING_YEARS:
            self.fail(f"{value!r}: there are no bitcoins to be mined in that year", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Zone(click.ParamType[tzinfo]):
    """The name of a time zone."""

    name = "zone"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tzinfo:
        """Look it up, or fail with what is accepted."""
        if isinstance(value, tzinfo):
            return value
        try:
            return UTC if value == "UTC" else ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fail(f"{value!r} is no time zone; write one such as America/Chicago", param, ctx)


class FiniteRange(click.FloatRange):
    """A range of numbers; `nan`, which is in none, is refused too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse, or fail with the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


class HostPort(click.ParamType[tuple[str, int]]):
    """`127.0.0.1:2222` or `[::1]:2222`."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Refuse what has no port."""
        host, colon, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} is no address and port, as 0.0.0.0:2222 or [::]:2222", param, ctx)
        return host, int(port)


KW = FiniteRange(min=0, max=1e7, max_open=True)


def config_option(function: F) -> F:
    return click.option(
        "--config", "config_path", type=click.Path(path_type=Path), envvar="HASHCOST_CONFIG",
        help=f"Configuration file; else HASHCOST_CONFIG, else {DEFAULT_CONFIG} if it exists, else the defaults.",
    )(function)  # fmt: skip


def database_option(function: F) -> F:
    return click.option(
        "--database", type=click.Path(path_type=Path), envvar="HASHCOST_DATABASE", default=DEFAULT_DATABASE,
        show_default=True, help="The agent's database; else HASHCOST_DATABASE.",
    )(function)  # fmt: skip


def inventory_option(function: F) -> F:
    return click.option(
        "--inventory", type=click.Path(path_type=Path, dir_okay=False),
        help="CSV of machines instead of the agent's: model,count and, if need be, hashrate_ths,power_w.",
    )(function)  # fmt: skip


def socket_option(function: F) -> F:
    return click.option(
        "--socket", type=click.Path(path_type=Path), envvar="HASHCOST_SOCKET", default=DEFAULT_SOCKET,
        show_default=True, help="The agent's command socket; else HASHCOST_SOCKET.",
    )(function)  # fmt: skip


def span_options(function: F) -> F:
    """What exports cover."""
    to = click.option("--to", "end", type=UtcTime(), help="End, excluded; default: now.")
    since = click.option(
        "--from", "start", type=UtcTime(), help="Start, included; default: the first reading."
    )
    return since(to(function))


def range_options(function: F) -> F:
    """What exports cover, and how they are cut."""
    for option in (
        click.option(
            "--time-zone", "zone", type=Zone(), default="UTC", show_default=True,
            help="Where days and months begin at midnight, such as America/Chicago.",
        ),
        click.option(
            "--by", type=click.Choice(["hour", "day", "month", "machine"]), default="machine", show_default=True,
            help="A row per UTC hour, per day, per month, or one for the whole range.",
        ),
    ):  # fmt: skip
        function = option(function)
    return span_options(function)


def format_option(function: F) -> F:
    return click.option(
        "--format", "file_format", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True,
        help="Parquet needs the extra `parquet`, and a file.",
    )(function)  # fmt: skip


def output_option(function: F) -> F:
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; default: standard output."
    )(function)  # fmt: skip


def yes_option(function: F) -> F:
    return click.option("--yes", is_flag=True, help="Do it; without it, show what would happen.")(function)


def all_option(function: F) -> F:
    return click.option("--all", "all_orders", is_flag=True, help="Every order that is proposed.")(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")(function)
