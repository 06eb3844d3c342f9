"""The command line: reads arguments, calls the rooms that do the work, turns their errors into exit codes.

Exit status: 0 done, 1 failed, 2 usage or configuration error, 3 done in part. Output for people, JSON with --json;
logs and progress on stderr. Heavy modules are imported by the command that needs them: `--help` must be quick.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, tzinfo
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent import output
from agent.arguments import (
    DEFAULT_CONFIG,
    KW,
    F,
    FiniteRange,
    HostPort,
    UtcTime,
    Zone,
    all_option,
    config_option,
    database_option,
    format_option,
    inventory_option,
    json_option,
    output_option,
    range_options,
    socket_option,
    span_options,
    yes_option,
)
from agent.errors import AgentError, UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.federation.telling import Sender

FAILED, PARTLY = 1, 3
DEFAULT_BACKUPS = Path("/var/lib/hashcost/backups")
DEFAULT_FLEET = Path("/var/lib/hashcost-fleet")
DEFAULT_EXPORTS = Path("/var/lib/hashcost/exports")
DEFAULT_KEYS = Path("/etc/hashcost/authorized_keys")
DEFAULT_HOST_KEY = Path("/var/lib/hashcost-ssh/host_key")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hashcost")
def cli() -> None:
    """Margin of every ASIC on a mining site, at this minute's hashprice and power price."""


@cli.command()
@click.option(
    "--machines", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Size of the site."
)
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed gives the same site.")
@click.option(
    "--speed", type=FiniteRange(min=0.1, max=3600), default=60.0, show_default=True,
    help="Simulated seconds that pass in a second.",
)  # fmt: skip
@click.option("--faults", is_flag=True, help="Give some machines the failures seen on real sites.")
@click.option(
    "--auto", is_flag=True, help="Let the agent act; with --once: curtail, drop the price, restore, sum up."
)
@click.option("--once", is_flag=True, help="Scan, poll a few rounds, print, exit.")
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False), help="Write the profitability CSV at the end."
)
@json_option
def demo(
    machines: int,
    seed: int,
    speed: float,
    faults: bool,
    auto: bool,
    once: bool,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Run a simulated site and the agent against it; needs nothing, leaves nothing."""
    with suppress(KeyboardInterrupt):  # Ctrl-C before it is heeded
        from agent import demo as demo_site
        from agent.daemon import setup_logging
        from agent.export import refuse_unwritable

        if csv is not None:
            refuse_unwritable(csv)
        setup_logging(quiet=True)
        options = demo_site.DemoOptions(
            machines=machines,
            seed=seed,
            speed=speed,
            faults=faults,
            auto=auto,
            once=once,
            csv=csv,
            as_json=as_json,
        )
        if not once and not as_json and _is_terminal():
            _show_demo(asdict(options))
        demo_site.run(options)


def _show_demo(options: dict[str, Any]) -> NoReturn:
    """Become the demo in the terminal."""
    csv = options["csv"]
    told = json.dumps({**options, "csv": None if csv is None else str(csv)})
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tui.demo", told])  # noqa: S606 - ourselves, no shell


@cli.command()
@click.argument("addresses", nargs=-1, required=True)
@config_option
@json_option
def scan(addresses: tuple[str, ...], config_path: Path | None, as_json: bool) -> None:
    """Find machines: 10.0.0.0/22, 10.0.1-4.1-200, @file, host:port. Changes nothing."""
    from agent.scanning import scan_addresses
    from drivers.addresses import AddressError

    config = _load(config_path)
    try:
        result = scan_addresses(list(addresses), config, as_json=as_json)
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="ADDRESSES") from error
    if not result.found:
        sys.exit(FAILED)
    if result.failures:
        sys.exit(PARTLY)


@cli.command()
@config_option
@database_option
@socket_option
def run(config_path: Path | None, database: Path, socket: Path) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C: scan, poll, appraise, remember. SIGHUP reloads the
    configuration; a bad one is refused and the old one stays."""
    with suppress(KeyboardInterrupt):  # Ctrl-C before it is heeded
        config = _load_site(config_path)
        from agent.daemon import run_until_stopped, setup_logging

        setup_logging()
        run_until_stopped(config, database, socket, reload=lambda: _load_site(config_path))


def _is_terminal() -> bool:
    """Whether a screen can be shown here."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@cli.command()
@database_option
@socket_option
@click.option("--operate", is_flag=True, help="Add the keys that change the site; the agent checks who may.")
def tui(database: Path, socket: Path, operate: bool) -> None:
    """Watch the site in the terminal. Read-only unless --operate; quitting never stops the agent."""
    if not _is_terminal():
        raise UsageError("tui: needs a terminal; `hashcost status` prints the same picture anywhere")
    options = ["--operate"] if operate else []
    os.execv(  # noqa: S606 - ourselves, no shell
        sys.executable, [sys.executable, "-P", "-m", "tui", str(database), str(socket), *options]
    )


@cli.command()
@click.option(
    "--listen", type=HostPort(), default="127.0.0.1:2222", show_default=True, metavar="ADDRESS:PORT",
    help="Where to wait for people.",
)  # fmt: skip
@click.option(
    "--keys", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_KEYS, show_default=True,
    help="Public keys, one a line, each followed by the name of its owner.",
)  # fmt: skip
@click.option(
    "--host-key", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_HOST_KEY, show_default=True,
    help="The server's own key; made if it is not there.",
)  # fmt: skip
@click.option(
    "--sessions", type=click.IntRange(1, 64), default=8, show_default=True, help="Terminals at the same time."
)
@database_option
@socket_option
def ssh(
    listen: tuple[str, int], keys: Path, host_key: Path, sessions: int, database: Path, socket: Path
) -> None:
    """Serve the terminal, read-only, over SSH: by public key only, one process per session."""
    from agent.daemon import setup_logging
    from agent.ssh.server import SshOptions, program_of, serve_until_stopped

    setup_logging()
    host, port = listen
    serve_until_stopped(
        SshOptions(
            host=host,
            port=port,
            keys=keys,
            host_key=host_key,
            sessions=sessions,
            program=program_of(database, socket),
        )
    )


@cli.command()
@database_option
@json_option
def status(database: Path, as_json: bool) -> None:
    """Show the latest picture that the agent has stored, worst margin first; of a fleet's directory, its sites."""
    from agent.federation.fleet_database import is_fleet
    from agent.federation.overview import print_fleet
    from agent.status import print_status

    if is_fleet(database):
        print_fleet(database, as_json=as_json)
    else:
        print_status(database, as_json=as_json)


@cli.command()
@database_option
@json_option
def recommend(database: Path, as_json: bool) -> None:
    """Show what the agent recommends to do: the machines to be switched, worst margin first."""
    from agent.advice import print_recommendations

    print_recommendations(database, as_json=as_json)


@cli.command()
@config_option
@database_option
@json_option
def learned(config_path: Path | None, database: Path, as_json: bool) -> None:
    """Show what the site's own history says of its models: switching costs, ramps, sleep watts, power modes."""
    from agent.learned_report import print_learned

    print_learned(database, _load(config_path).policy(), as_json=as_json)


@cli.command()
@click.argument("machine")
@database_option
@json_option
def explain(machine: str, database: Path, as_json: bool) -> None:
    """Show why MACHINE (MAC, id or address) is recommended what it is, and what would change that."""
    from agent.advice import print_explanation

    print_explanation(database, machine, as_json=as_json)


@cli.command()
@click.argument("selector", nargs=-1, required=True)
@yes_option
@socket_option
@json_option
def curtail(selector: tuple[str, ...], yes: bool, socket: Path, as_json: bool) -> None:
    """Put machines to sleep: 10.0.0.7, group:hydro, model:S19, 'margin<0', 'efficiency>30', kw:250, all."""
    _tell(socket, "curtail", as_json, selector=" ".join(selector), dry_run=not yes)


@cli.command()
@click.argument("selector", nargs=-1, required=True)
@yes_option
@socket_option
@json_option
def restore(selector: tuple[str, ...], yes: bool, socket: Path, as_json: bool) -> None:
    """Wake machines that hashcost put to sleep; selectors as for curtail."""
    _tell(socket, "restore", as_json, selector=" ".join(selector), dry_run=not yes)


@cli.command("fetch-prices")
@click.argument("library", type=click.Choice(["entsoe", "gridstatus"]))
@click.argument("market")
@click.argument("location")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV to write."
)
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the account's key.",
)
def fetch_prices(library: str, market: str, location: str, output: Path, key_file: Path | None) -> None:
    """Bring power prices through a LIBRARY into the CSV that `power.kind = "file"` reads: entsoe day_ahead DE_LU, or
    gridstatus CAISO TH_NP15_GEN-APND. For a timer; the agent does not use it."""
    from agent.config.secret import resolve
    from agent.tariff.library import fetch

    try:
        key = None if key_file is None else resolve(file=str(key_file))
    except ValueError as error:
        raise UsageError(f"--key-file: {error}") from error
    count = fetch(library, market, location, output, key=key, now=datetime.now(UTC))
    click.echo(f"{count} prices in {output}")


@cli.command()
@click.option("--to-kw", type=KW, help="Load that the site may draw.")
@click.option(
    "--by-kw",
    type=KW,
    help="How much less than it draws when this begins.",
)
@click.option("--from", "start", type=UtcTime(), help="When it begins; default: now.")
@click.option("--until", "end", type=UtcTime(), help="When it ends; without it, when it is released.")
@yes_option
@socket_option
@json_option
def shed(
    to_kw: float | None,
    by_kw: float | None,
    start: datetime | None,
    end: datetime | None,
    yes: bool,
    socket: Path,
    as_json: bool,
) -> None:
    """Answer a call of the grid: shed load, least efficient machines first, whatever they earn."""
    times = {"start": start and start.isoformat(), "end": end and end.isoformat()}
    _tell(socket, "shed", as_json, to_kw=to_kw, by_kw=by_kw, **times, dry_run=not yes)


@cli.command()
@socket_option
@json_option
def obligations(socket: Path, as_json: bool) -> None:
    """What the grid is owed, now and later."""
    _tell(socket, "obligations", as_json)


@cli.command()
@click.argument("call")
@socket_option
@json_option
def release(call: str, socket: Path, as_json: bool) -> None:
    """End a CALL that an operator gave with `shed`."""
    _tell(socket, "release", as_json, call_id=call)


@cli.command()
@socket_option
@json_option
def hold(socket: Path, as_json: bool) -> None:
    """Leave the whole site as it is: nothing is put to sleep or woken until `resume`."""
    _tell(socket, "hold", as_json)


@cli.command()
@socket_option
@json_option
def resume(socket: Path, as_json: bool) -> None:
    """End a hold."""
    _tell(socket, "resume", as_json)


@cli.command()
@click.argument("orders", nargs=-1, type=int)
@all_option
@socket_option
@json_option
def approve(orders: tuple[int, ...], all_orders: bool, socket: Path, as_json: bool) -> None:
    """Let proposed ORDERS be carried out."""
    _tell(socket, "approve", as_json, orders=orders, all=all_orders)


@cli.command()
@click.argument("orders", nargs=-1, type=int)
@all_option
@socket_option
@json_option
def reject(orders: tuple[int, ...], all_orders: bool, socket: Path, as_json: bool) -> None:
    """End proposed ORDERS without carrying them out."""
    _tell(socket, "reject", as_json, orders=orders, all=all_orders)


@cli.group()
def export() -> None:
    """Write files for spreadsheets and accountants."""


@export.command()
@range_options
@format_option
@output_option
@database_option
def profitability(
    start: datetime | None,
    end: datetime | None,
    by: str,
    zone: tzinfo,
    file_format: str,
    output: Path | None,
    database: Path,
) -> None:
    """Energy, revenue, cost and margin per machine and period."""
    from agent.export import Period, export_profitability
    from agent.federation.books import export_fleet
    from agent.federation.fleet_database import is_fleet

    export = export_fleet if is_fleet(database) else export_profitability
    text = export(database, start, end, Period(by), output, zone=zone, file_format=file_format, tell=_note)
    if output is None:
        click.echo(text, nl=False)


@export.command()
@range_options
@click.option("--site", is_flag=True, help="The whole site instead of each machine.")
@format_option
@output_option
@database_option
def ledger(
    start: datetime | None,
    end: datetime | None,
    by: str,
    zone: tzinfo,
    site: bool,
    file_format: str,
    output: Path | None,
    database: Path,
) -> None:
    """Sums of energy, hashes and money, hours by state, and what curtailment was worth: per machine, or of the site."""
    from agent.export import Period
    from agent.ledger_export import export_ledger

    text = export_ledger(
        database, start, end, Period(by), output, site=site, zone=zone, file_format=file_format, tell=_note
    )
    if output is None:
        click.echo(text, nl=False)


@export.command("energy")
@span_options
@click.option(
    "--interval", type=click.Choice(["5", "15", "30", "60"]), default="15", show_default=True, help="Minutes.",
)  # fmt: skip
@format_option
@output_option
@database_option
def export_energy(
    start: datetime | None,
    end: datetime | None,
    interval: str,
    file_format: str,
    output: Path | None,
    database: Path,
) -> None:
    """The site's energy in even intervals, as grid programmes settle it, with how much of it is known."""
    from agent import records

    text = records.export_energy(
        database, start, end, timedelta(minutes=int(interval)), output, file_format=file_format, tell=_note
    )
    if output is None:
        click.echo(text, nl=False)


@export.command("orders")
@span_options
@format_option
@output_option
@database_option
def export_orders(
    start: datetime | None, end: datetime | None, file_format: str, output: Path | None, database: Path
) -> None:
    """Every order, with who gave it, why, and what became of it."""
    _export_records("orders", start, end, file_format, output, database)


@export.command("events")
@span_options
@format_option
@output_option
@database_option
def export_events(
    start: datetime | None, end: datetime | None, file_format: str, output: Path | None, database: Path
) -> None:
    """Every event: scans, commands and who gave them, calls of the grid, hours that were appraised again."""
    _export_records("events", start, end, file_format, output, database)


@export.command("prices")
@span_options
@format_option
@output_option
@database_option
def export_prices(
    start: datetime | None, end: datetime | None, file_format: str, output: Path | None, database: Path
) -> None:
    """Every change of the prices and terms that the agent acted on."""
    _export_records("prices", start, end, file_format, output, database)


def _export_records(
    what: str,
    start: datetime | None,
    end: datetime | None,
    file_format: str,
    output: Path | None,
    database: Path,
) -> None:
    from agent.records import export_records

    text = export_records(database, what, start, end, output, file_format=file_format)
    if output is None:
        click.echo(text, nl=False)


@export.command("yesterday")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_EXPORTS, show_default=True,
    help="Where the files are written; it is made if it is not there.",
)  # fmt: skip
@click.option("--time-zone", "zone", type=Zone(), default="UTC", show_default=True, help="Whose yesterday.")
@format_option
@database_option
def export_yesterday(directory: Path, zone: tzinfo, file_format: str, database: Path) -> None:
    """Write all of yesterday, each file whole or not at all: profitability, ledger, site, energy, orders, events,
    prices."""
    from agent.records import export_day

    for path in export_day(database, directory, datetime.now(UTC), zone, file_format=file_format, tell=_note):
        click.echo(path)


def _note(text: str) -> None:
    click.echo(f"hashcost: {text}", err=True)


@cli.command()
@click.option("--btc", "btc_usd", multiple=True, help="Price of a bitcoin: 80000, or a change such as -20%.")
@click.option("--difficulty", multiple=True, help="Difficulty: 155T, or +5%.")
@click.option("--fees", "fees_btc", multiple=True, help="Mean fees of a block in BTC: 0.05, or +50%.")
@click.option("--power", "price_usd_per_kwh", multiple=True, help="Power price in USD/kWh: 0.07, or +10%.")
@click.option("--halving", is_flag=True, help="Each of them after the next halving.")
@click.option(
    "--growth", type=FiniteRange(min=0, max=100), default=0.0, show_default=True,
    help="Growth of difficulty in percent a month, for the days until models fall under break-even.",
)  # fmt: skip
@click.option(
    "--machine-price", type=FiniteRange(min=0, min_open=True, max=1e4),
    help="Price of a TH/s of machine, USD, for payback days; default: economics.machine_price_usd_per_ths.",
)  # fmt: skip
@inventory_option
@config_option
@database_option
@json_option
def whatif(
    btc_usd: tuple[str, ...],
    difficulty: tuple[str, ...],
    fees_btc: tuple[str, ...],
    price_usd_per_kwh: tuple[str, ...],
    halving: bool,
    growth: float,
    machine_price: float | None,
    inventory: Path | None,
    config_path: Path | None,
    database: Path,
    as_json: bool,
) -> None:
    """What other prices would do to the site. Options that are given more than once are combined; without any, the
    usual scenarios are shown."""
    from agent.federation.fleet_database import is_fleet
    from agent.whatif_report import Question, print_whatif

    question = Question(
        changes={
            "btc_usd": btc_usd,
            "difficulty": difficulty,
            "fees_btc": fees_btc,
            "price_usd_per_kwh": price_usd_per_kwh,
        },
        halving=halving,
        growth_per_month=growth / 100,
        machine_price_usd_per_ths=machine_price,
        inventory=inventory,
    )
    config = _load(config_path)
    if is_fleet(database):
        from agent.federation.what_if import print_fleet_whatif

        print_fleet_whatif(question, config, database, as_json=as_json)
        return
    print_whatif(question, config, database, as_json=as_json)


@cli.command()
@click.option(
    "--prices", type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of power prices: start of the interval, and usd_per_mwh or usd_per_kwh; "
    "default: as the agent recorded them.",
)  # fmt: skip
@click.option(
    "--hashprice", type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of hashprices: date or time, and hashprice_usd_per_ph_day, each known once its time has ended; "
    "default: as the agent recorded them.",
)  # fmt: skip
@click.option(
    "--policy", "policies", type=click.Path(path_type=Path, dir_okay=False), multiple=True,
    help="Configuration whose [curtailment] is replayed; several are compared. Default: that of --config.",
)  # fmt: skip
@click.option("--from", "start", type=UtcTime(), help="Start of the time that is replayed; default: all.")
@click.option("--to", "end", type=UtcTime(), help="Its end; default: all.")
@click.option(
    "--delay", "delay_min", type=FiniteRange(min=0, max=1440), default=0.0, show_default=True,
    help="Minutes from the start of an interval until its power price is known.",
)  # fmt: skip
@click.option(
    "--delays", default="0,5,10,15,30", show_default=True,
    help="Minutes of delay to compare; empty for none.",
)  # fmt: skip
@click.option(
    "--switching-cost", "switching_cost", type=FiniteRange(min=0, max=10),
    help="What a sleep and a wake cost together, USD; default: as configured for the model.",
)  # fmt: skip
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Write the results as CSV too.")
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what each gained over time as a picture too, .svg or .png.",
)
@inventory_option
@config_option
@database_option
@json_option
def backtest(
    prices: Path | None,
    hashprice: Path | None,
    policies: tuple[Path, ...],
    start: datetime | None,
    end: datetime | None,
    delay_min: float,
    delays: str,
    switching_cost: float | None,
    csv: Path | None,
    chart: Path | None,
    inventory: Path | None,
    config_path: Path | None,
    database: Path,
    as_json: bool,
) -> None:
    """Replay price histories: what the policy would have earned, beside others and beside knowing the future."""
    from agent.backtest.report import Question, parse_delays, print_backtest

    question = Question(
        prices=prices,
        hashprice=hashprice,
        inventory=inventory,
        policies=policies,
        start=start,
        end=end,
        delay_min=delay_min,
        delays_min=parse_delays(delays),
        switching_cost_usd=switching_cost,
        csv=csv,
        chart=chart,
    )
    print_backtest(question, _load(config_path), database, as_json=as_json)


@cli.command()
@config_option
@database_option
@json_option
def check(config_path: Path | None, database: Path, as_json: bool) -> None:
    """Look for what stands in the way: configuration, credentials, clock, disk, database, sources, machines."""
    from agent.check import check_site
    from agent.daemon import setup_logging

    setup_logging(quiet=True)  # what is found is printed
    config = _load(config_path)
    if not check_site(config, database, as_json=as_json, config_path=config_path):
        sys.exit(FAILED)


@cli.group()
def alerts() -> None:
    """What is wrong, and who is told."""


@alerts.command("list")
@socket_option
@json_option
def alerts_list(socket: Path, as_json: bool) -> None:
    """What is wrong now."""
    _tell(socket, "alerts", as_json)


@alerts.command("acknowledge")
@click.argument("alert")
@socket_option
@json_option
def alerts_acknowledge(alert: str, socket: Path, as_json: bool) -> None:
    """Say that somebody has seen an alert: no more reminders until it is over."""
    _tell(socket, "acknowledge", as_json, alert=alert)


@alerts.command("test")
@config_option
def alerts_test(config_path: Path | None) -> None:
    """Send a message to every target of the configuration."""
    from agent.trial import send_trial

    taken = send_trial(_load(config_path))
    if not all(taken.values()):
        sys.exit(PARTLY if any(taken.values()) else FAILED)


@cli.group()
def credentials() -> None:
    """Logins of the machines."""


@credentials.command("check")
@config_option
@json_option
def credentials_check(config_path: Path | None, as_json: bool) -> None:
    """Which machines still have the factory's password; prints none. Exit 1 if any has, 3 if some do not tell."""
    from agent.credentials import check_credentials
    from agent.daemon import setup_logging

    setup_logging(quiet=True)  # what is found is printed
    counts = check_credentials(_load_site(config_path), as_json=as_json)
    if counts["factory"] or not counts:
        sys.exit(FAILED)
    if counts["unknown"]:
        sys.exit(PARTLY)


@cli.command()
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_BACKUPS, show_default=True,
    help="Where copies are kept.",
)  # fmt: skip
@click.option("--keep", type=click.IntRange(1, 1000), default=7, show_default=True, help="Copies to keep.")
@database_option
def backup(directory: Path, keep: int, database: Path) -> None:
    """Copy the database while the agent runs; the oldest copies go."""
    from datetime import UTC

    from agent.backup import back_up

    click.echo(back_up(database, directory, keep=keep, now=datetime.now(UTC)))


@cli.command("restore-db")
@click.argument("copy", type=click.Path(path_type=Path, dir_okay=False))
@database_option
def restore_db(copy: Path, database: Path) -> None:
    """Put a copy of the database back; the one that is there is moved aside. The agent must not run."""
    from datetime import UTC

    from agent.backup import restore

    done = restore(copy, database, now=datetime.now(UTC))
    until = "no round yet" if done.last_round_at is None else f"{done.last_round_at:%Y-%m-%d %H:%M:%S} UTC"
    click.echo(f"{database}: as it was at {until}")
    if done.kept is not None:
        click.echo(f"{done.kept}: the database that was there")


@cli.command("install-service")
@click.option("--print", "what", flag_value="print", default="print", help="Show the files (default).")
@click.option("--apply", "what", flag_value="apply", help="Put them in place and have systemd take them in.")
@click.option("--remove", "what", flag_value="remove", help="Take them away; configuration and data stay.")
@click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False, exists=True), default=Path("/"),
    help="Another root directory, for images and packages; nothing is started there.",
)  # fmt: skip
def install_service(what: str, root: Path) -> None:
    """The files by which systemd runs the agent for months."""
    from agent import installation

    program = installation.program_for_service()
    if what == "print":
        click.echo(installation.as_text(program), nl=False)
        return
    lines = {"apply": installation.apply, "remove": installation.remove}[what](program, root)
    click.echo("\n".join(lines))
    if any(": FAILED" in line for line in lines):
        sys.exit(PARTLY)


def _fleet_directory(function: F) -> F:
    return click.option(
        "--fleet", "directory", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FLEET,
        envvar="HASHCOST_FLEET", show_default=True, help="Directory of the fleet's databases, one for each site.",
    )(function)  # fmt: skip


def _sender(config_path: Path | None, directory: Path, person: str, key_file: Path) -> "Sender":
    """Who commands, for a configuration that names servers."""
    fleet = _load(config_path).fleet
    if not fleet.servers or fleet.org is None:
        raise UsageError(f"{config_path or DEFAULT_CONFIG}: fleet.servers: none; there is nobody to tell")
    from agent.federation.telling import Sender, load_key

    servers = fleet.connection(f"desk-{person}")
    return Sender(servers=servers, org=fleet.org, person=person, key=load_key(key_file), directory=directory)


@cli.group()
def fleet() -> None:
    """Many sites over NATS JetStream."""


@fleet.command("run")
@config_option
@_fleet_directory
def fleet_run(config_path: Path | None, directory: Path) -> None:
    """Keep the fleet's databases from what the sites tell, until SIGTERM or Ctrl-C. `status` and `export` read them."""
    from agent.daemon import setup_logging

    config = _load(config_path)
    setup_logging()
    if not config.fleet.servers:
        raise UsageError(
            f"{config_path or DEFAULT_CONFIG}: fleet.servers: none; nothing to read a fleet from"
        )
    from agent.federation.service import run_fleet

    run_fleet(config, directory)


def _fleet_sender(function: F) -> F:
    for option in (
        click.option(
            "--key", "key_file", type=click.Path(path_type=Path, dir_okay=False), required=True,
            help="File with the seed of your nkey; sites know you by its public half.",
        ),
        click.option("--as", "person", required=True, help="Your name, as the sites' configurations have it."),
        _fleet_directory,
        config_option,
        json_option,
    ):  # fmt: skip
        function = option(function)
    return function


@fleet.command("tell")
@click.argument(
    "command", type=click.Choice(["status", "orders", "obligations", "hold", "resume", "approve", "release"])
)
@click.argument("sites", nargs=-1)
@click.option("--call", help="Of release: the call to end.")
@_fleet_sender
def fleet_tell(
    command: str, sites: tuple[str, ...], call: str | None, key_file: Path, person: str, directory: Path,
    config_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Give SITES (default: all) a COMMAND: status, orders, obligations, hold, resume, approve (all that is proposed),
    release. Exit 3 if some did not do it, 1 if none did."""
    if (command == "release") is not (call is not None):
        raise UsageError("fleet tell: release needs --call, and nothing else has one")
    sender = _sender(config_path, directory, person, key_file)
    from agent.federation import telling

    arguments: dict[str, Any] = {"call_id": call} if call else {"all": True} if command == "approve" else {}
    names = telling.known_sites(directory, sites)
    answers = telling.tell(sender, dict.fromkeys(names, (command, arguments)))
    sys.exit(telling.print_answers(answers, as_json=as_json))


@fleet.command("shed")
@click.argument("sites", nargs=-1)
@click.option("--by-kw", type=KW, required=True, help="How much less the sites are to draw together.")
@click.option("--until", "end", type=UtcTime(), help="When it ends; without it, when it is released.")
@yes_option
@_fleet_sender
def fleet_shed(
    sites: tuple[str, ...], by_kw: float, end: datetime | None, yes: bool, key_file: Path, person: str,
    directory: Path, config_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Shed load across SITES (default: all), the machines that earn least per kW first. Each site does it by its own
    limits. Exit 3 if less was taken on than wanted."""
    sender = _sender(config_path, directory, person, key_file)
    from agent.federation import telling

    names = telling.known_sites(directory, sites)
    plan = telling.plan_shedding(telling.current_sites(directory, names), by_kw)
    if not plan:
        raise UsageError("fleet shed: nothing is known to be mining at any of these sites now")
    until = end and end.isoformat()
    wanted = {name: ("shed", {"by_kw": kw, "end": until, "dry_run": not yes}) for name, kw in plan.items()}
    answers = telling.tell(sender, wanted)
    sys.exit(telling.print_answers(answers, as_json=as_json, by_kw=by_kw))


@fleet.command("demo")
@click.option(
    "--machines", type=click.IntRange(1, 2000), default=200, show_default=True, help="Machines at each site."
)
@click.option("--once", is_flag=True, help="Show the first whole picture and exit.")
def fleet_demo(machines: int, once: bool) -> None:
    """Run three simulated sites, a cluster of three NATS servers and the fleet of them; leaves nothing."""
    from agent.daemon import setup_logging

    if find_spec("nats") is None:
        raise UsageError("fleet demo needs nats-py, which is not installed: pip install 'hashcost[fleet]'")
    from agent.federation import demo as fleet_site

    setup_logging(quiet=True)
    fleet_site.run(fleet_site.FleetDemoOptions(machines=machines, once=once))


def _tell(socket: Path, command: str, as_json: bool, **arguments: Any) -> None:
    """Give the running agent a command, print its answer, exit by what became of it."""
    import json

    from agent.commands import exit_status, in_words
    from agent.control import ask

    answer = ask(socket, command, **arguments)
    click.echo(json.dumps(answer) if as_json else in_words(command, answer))
    sys.exit(exit_status(answer))


def main() -> None:
    """Entry point of the `hashcost` command."""
    output.prepare()
    try:
        status = _status()
    except output.ReaderLeft:
        status = 0
        output.give_up()
    except AgentError as error:
        for line in str(error).splitlines():
            click.echo(f"hashcost: {line}", err=True)
        status = error.exit_status
        if isinstance(error, output.OutputError):
            output.give_up()
    sys.exit(status)


def _status() -> Any:
    """Run the command to the last byte of its output, and give its exit status."""
    try:
        cli()
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code


def _load_site(path: Path | None) -> "Config":
    """The configuration of an agent that is to find machines."""
    from agent.config import ConfigError

    config = _load(path)
    if not config.scan.addresses:
        raise ConfigError(
            str(path or DEFAULT_CONFIG), ["scan.addresses: empty, nowhere to look for machines"]
        )
    if config.fleet.servers and config.fleet.site is None:
        raise ConfigError(
            str(path or DEFAULT_CONFIG), ["fleet.site: missing; a fleet knows each site by its name"]
        )
    return config


def _load(path: Path | None) -> "Config":
    """The configuration of a file, else of the default file if there is one, else the defaults."""
    from agent.config import Config, load

    try:
        if path is None and DEFAULT_CONFIG.is_file():
            path = DEFAULT_CONFIG
    except OSError:  # in a directory that we may not enter; reading it will say so
        path = DEFAULT_CONFIG
    return Config() if path is None else load(path)
