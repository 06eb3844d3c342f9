"""One parser under atheris, until it fails or has had its inputs; `tests.fuzz.coverage` starts it for each of them."""

import math
import sys

import atheris

from tests.fuzz.mutations import mutate

with atheris.instrument_imports(include=["agent", "drivers"]):
    from tests.fuzz.parsers import PARSERS
    from tests.fuzz.test_parsers import numbers

parser = next(each for each in PARSERS if each.name == sys.argv[1])


def holds(body: bytes) -> None:
    """An answer without a number that is none, or an error of the parser's own."""
    try:
        answer = parser.call(body)
    except parser.errors:
        return
    if parser.name != "cgminer":  # which only decodes; what is made of it is the other parsers'
        assert all(math.isfinite(each) for each in numbers(answer)), answer


def mutant(body: bytes, most_bytes: int, seed: int) -> bytes:
    """By our mutations, or by those of libFuzzer."""
    made = mutate(body, seed) if seed % 2 else atheris.Mutate(body, most_bytes)
    return made[:most_bytes]


atheris.Setup(sys.argv[1:], holds, custom_mutator=mutant)
atheris.Fuzz()
