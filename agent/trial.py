"""`hashcost alerts test`: a message to everybody who would be told, to find out before it matters."""

import asyncio

from rich.console import Console
from rich.text import Text

from agent.alerts import Severity
from agent.config import Config
from agent.errors import UsageError
from agent.messenger import Messenger, Target


def send_trial(config: Config) -> dict[str, bool]:
    """Send and print; whether each target took it. Raises `UsageError` where there is none."""
    targets = config.alerts.recipients()
    if not targets:
        raise UsageError("alerts.targets: there is none; name one in the configuration")
    taken = asyncio.run(_send(targets, config.alerts.site))
    console = Console(soft_wrap=True)
    for name, took in taken.items():
        mark = Text("sent  ", "green") if took else Text("FAILED", "bold red")
        more = "" if took else ": not taken; is its address right, and can this host reach it?"
        console.print(Text.assemble(mark, f" {name}{more}"))
    return taken


async def _send(targets: list[Target], site: str) -> dict[str, bool]:
    messenger = Messenger()
    try:
        return await messenger.send(
            targets, f"{site}: test", "This is a test: hashcost can reach you.", Severity.WARNING
        )
    finally:
        messenger.close()
