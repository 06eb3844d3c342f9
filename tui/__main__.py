"""`python -m tui DATABASE`: what `hashcost tui` turns into, so that the agent never imports a screen."""

import sys
from pathlib import Path

from agent.errors import AgentError
from tui.app import run


def main() -> None:
    """Open the terminal, or say why not."""
    try:
        run(Path(sys.argv[1]))
    except AgentError as error:
        sys.stderr.write(f"hashcost: {error}\n")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
