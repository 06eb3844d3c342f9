"""The fleet's side of commands: one command to several sites, what became of it at each, and a record of both."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client

from agent.errors import AgentError, UsageError
from agent.federation.connection import FAILURES, Servers, connected
from agent.federation.fleet_database import site_databases
from agent.federation.listener import command_subject
from agent.federation.overview import SiteView, site_views
from agent.federation.signing import LONGEST, VERSION, SignedCommand, private_key, sign, to_ms_of
from agent.policy import Action
from agent.rows import to_ms
from agent.view import MachineView
from drivers.reading import RunState

RECORD_FILE = "commands.jsonl"
CONNECTED_WITHIN_S = 10.0
ANSWER_WITHIN_S = 15.0
DONE, FAILED, PARTLY = 0, 1, 3


class UnreachableError(AgentError):
    """No server could be reached: nothing was told to anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who commands, and over what. `directory` is that of the fleet."""

    servers: Servers
    org: str
    person: str
    key: Ed25519PrivateKey
    directory: Path


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file that holds a seed. Raises `UsageError` that does not show it."""
    try:
        return private_key(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: cannot be used as a key ({why})") from error


def known_sites(directory: Path, wanted: Sequence[str]) -> list[str]:
    """The sites that are meant; all of the fleet where none is named. Raises `UsageError` for one that is not there."""
    names = [name for name, _ in site_databases(directory)]
    if unknown := sorted(set(wanted) - set(names)):
        raise UsageError(f"{unknown[0]}: no such site in {directory}; there are {', '.join(names) or 'none'}")
    return list(dict.fromkeys(wanted)) or names


def tell(sender: Sender, wanted: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Give each site its command, with arguments, and wait for all. Each site's `{"result"}` or `{"error"}`; one that
    does not answer is `unreachable`, which is not to say that it did not do it. Raises `UnreachableError`."""
    return asyncio.run(_tell(sender, wanted))


async def _tell(
    sender: Sender, wanted: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    try:
        async with (
            connected(sender.servers, within_s=CONNECTED_WITHIN_S) as client,
            asyncio.TaskGroup() as group,
        ):
            tasks = {
                site: group.create_task(_ask(client, sender, site, command, arguments))
                for site, (command, arguments) in wanted.items()
            }
    except FAILURES as error:
        raise UnreachableError(
            f"no server could be reached ({error}); nothing was told to anybody"
        ) from error
    return {site: task.result() for site, task in tasks.items()}


async def _ask(
    client: Client, sender: Sender, site: str, command: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    now_ms = to_ms(datetime.now(UTC))
    signed = SignedCommand(
        v=VERSION,
        command_id=secrets.token_hex(16),
        org=sender.org,
        site=site,
        person=sender.person,
        command=command,
        arguments=arguments,
        issued_ms=now_ms,
        expires_ms=now_ms + to_ms_of(LONGEST),
    )
    await asyncio.to_thread(_record, sender.directory, {"told": asdict(signed)})
    try:
        reply = await client.request(
            command_subject(sender.org, site), sign(signed, sender.key), timeout=ANSWER_WITHIN_S
        )
        answer: dict[str, Any] = json.loads(reply.data)
    except (*FAILURES, ValueError) as error:
        answer = {"error": {"code": "unreachable", "message": f"no answer ({type(error).__name__})"}}
    said = {"command_id": signed.command_id, "site": site, "answer": answer}
    await asyncio.to_thread(_record, sender.directory, said)
    return answer


def _record(directory: Path, what: Mapping[str, Any]) -> None:
    """Append to the record of commands, on the disk before anything is sent."""
    line = json.dumps({"at": datetime.now(UTC).isoformat(), **what}) + "\n"
    with (directory / RECORD_FILE).open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


# -- a call across sites -----------------------------------------------------------------------------


def plan_shedding(sites: Sequence[SiteView], by_kw: float) -> dict[str, float]:
    """How many kW each site is to shed, the machines that earn least per kW first, whatever site they are at. Only
    sites that are current count, and of them machines that mine, with known watts and margin."""
    machines = sorted(
        (margin / power_kw, site.site, power_kw)
        for site in sites
        if site.is_current and site.stored is not None
        for view in site.stored.picture.views
        if (worth := _worth(view)) is not None
        for margin, power_kw in [worth]
    )
    found: dict[str, float] = {}
    left_kw = by_kw
    for _, site_name, power_kw in machines:
        if left_kw <= 0:
            break
        found[site_name] = found.get(site_name, 0.0) + min(power_kw, left_kw)
        left_kw -= power_kw
    return found


def _worth(view: MachineView) -> tuple[float, float] | None:
    """Margin in USD/day and kW of a machine that can be shed."""
    margin, power_w = view.decision_margin_usd_per_day, view.power_w
    if view.run_state is not RunState.MINING or view.implausible is not None or view.action is Action.HOLD:
        return None
    return None if margin is None or not power_w else (margin, power_w / 1000)


def current_sites(directory: Path, names: Sequence[str]) -> list[SiteView]:
    """The sites that are meant, as they are known now."""
    return [site for site in site_views(directory, datetime.now(UTC)) if site.site in names]


# -- answers for a person ----------------------------------------------------------------------------


def print_answers(
    answers: Mapping[str, Mapping[str, Any]], *, as_json: bool, by_kw: float | None = None
) -> int:
    """Print what became of a command at each site; the exit status. Of a shedding, what was taken on counts against
    `by_kw`: a site that did not answer has shed nothing as far as anybody knows."""
    shed_kw = sum(float(answer.get("result", {}).get("kw") or 0.0) for answer in answers.values())
    if as_json:
        told: dict[str, Any] = {"sites": answers}
        if by_kw is not None:
            told |= {"wanted_kw": by_kw, "taken_on_kw": shed_kw}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for site, answer in answers.items():
            sys.stdout.write(f"{site}: {_in_words(answer)}\n")
        if by_kw is not None:
            short_kw = by_kw - shed_kw
            rest = f"; SHORT by {short_kw:.1f} kW" if short_kw > 0.05 else ""
            sys.stdout.write(f"{shed_kw:.1f} of {by_kw:.1f} kW taken on{rest}\n")
    failed = sum("error" in answer for answer in answers.values())
    short = by_kw is not None and shed_kw + 0.05 < by_kw
    if failed == len(answers):
        return FAILED
    return PARTLY if failed or short else DONE


def _in_words(answer: Mapping[str, Any]) -> str:
    if (error := answer.get("error")) is not None:
        return f"{error.get('code')}: {error.get('message')}"
    result = answer.get("result", {})
    shown = {name: value for name, value in result.items() if not isinstance(value, list | dict)}
    if (call := result.get("call")) is not None:
        shown = {"call": call["call_id"], **shown}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
