"""The same parsers under atheris, which follows coverage: it keeps what led to a new branch and mutates that further.

`python -m tests.fuzz.coverage [--inputs N] [PARSER...]` gives each parser, in a process of its own, so many inputs,
half of them by our mutations and half by libFuzzer's; the last twentieth may be as long as what a machine is let send,
the others twice an honest answer. An error that is not its own, a number that is none, an input
that takes longer than it may, and memory beyond MEMORY_MB end that process with the input, and this one with exit 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutations import MOST_BYTES
from tests.fuzz.parsers import PARSERS, Parser

ROOT = Path(__file__).parents[2]
MEMORY_MB = 1024
"""Of a process that holds Python, pyasic and one input of at most 128 KiB."""
LONGEST_S = 60
"""By the host's clock, which runs on while others have its cores."""
LONG_SHARE = 20
"""One in so many inputs may be as long as any; a parser takes a hundred times as long for those as for the others."""
LEAST_BYTES = 4096
"""Up to which an input is short, whatever the length of an honest one."""


def main() -> int:
    """Fuzz the parsers that are named, or all; 1 if one of them failed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--inputs", type=int, default=1_000_000)
    options.add_argument("parser", nargs="*")
    given = options.parse_args()
    failed = []
    for parser in PARSERS:
        if given.parser and parser.name not in given.parser:
            continue
        if not fuzzed(parser, given.inputs):
            failed.append(parser.name)
    return 1 if failed else 0


def fuzzed(parser: Parser, inputs: int) -> bool:
    """Whether one parser had all its inputs and held; what atheris said is printed."""
    few = max(1, inputs // LONG_SHARE)
    short = max(LEAST_BYTES, 2 * max(map(len, parser.seeds)))
    with tempfile.TemporaryDirectory(prefix="hashcost-fuzz-") as corpus:
        for number, seed in enumerate(parser.seeds):
            (Path(corpus) / str(number)).write_bytes(seed[:MOST_BYTES])
        for runs, most_bytes in ((inputs - few, short), (few, MOST_BYTES)):
            done = under_atheris(parser.name, Path(corpus), runs, most_bytes)
            told = next((line for line in reversed(done.splitlines()) if line.startswith("Done")), None)
            print(f"{parser.name}, up to {most_bytes} bytes: {told or 'FAILED'}", flush=True)  # noqa: T201 - its output
            if told is None:
                print("\n".join(line[:2000] for line in done.splitlines()[-40:]), flush=True)  # noqa: T201
                return False
    return True


def under_atheris(name: str, corpus: Path, runs: int, most_bytes: int) -> str:
    """What atheris said."""
    bounds = (
        f"-runs={runs}",
        f"-max_len={most_bytes}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={LONGEST_S}",
        f"-artifact_prefix={corpus}/",
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.under_atheris", name, *bounds, str(corpus)],
        cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
