"""`python -m tui.demo OPTIONS`: what `hashcost demo` turns into on a terminal: the simulated site, the real agent,
and the operators' terminal on top of them. It may operate: there is nothing real at stake."""

import json
import logging
import sys
from pathlib import Path

from agent.clock import Clock
from agent.demo import DemoOptions
from agent.demo import run as run_demo
from agent.errors import AgentError
from tui.app import HashcostApp
from tui.source import Source
from tui.vanished import end_with_terminal

CLEAN_UP_S = 15.0
"""After the end of its terminal, for the simulated site and the directory."""


async def watch(database: Path, socket: Path, clock: Clock) -> None:
    """Show the terminal until it is left."""
    await HashcostApp(Source(database, socket, clock=clock.now), operate=True).run_async()


def main() -> None:
    """Run the demo, or say why not."""
    options = json.loads(sys.argv[1])
    csv = options.pop("csv")
    log = logging.getLogger(
        "hashcost"
    )  # lines of a log would lie across the screen; the events are in the terminal
    log.addHandler(logging.NullHandler())
    log.propagate = False
    end_with_terminal(grace_s=CLEAN_UP_S)
    try:
        run_demo(DemoOptions(**options, csv=None if csv is None else Path(csv)), watch)
    except AgentError as error:
        sys.stderr.write(f"hashcost: {error}\n")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
