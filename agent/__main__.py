"""`python -m agent`: the `hashcost` command."""

from agent.cli import main

if __name__ == "__main__":
    main()
