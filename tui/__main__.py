"""`python -m tui DATABASE SOCKET [--operate]`: what `hashcost tui` turns into; the agent imports no screen."""

import sys
from pathlib import Path

from agent.errors import AgentError
from tui.app import run


def main() -> None:
    """Open the terminal, or say why not."""
    database, socket, *options = sys.argv[1:]
    try:
        run(Path(database), Path(socket), operate="--operate" in options)
    except AgentError as error:
        sys.stderr.write(f"hashcost: {error}\n")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
