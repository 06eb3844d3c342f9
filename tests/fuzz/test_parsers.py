"""Whatever bytes come from outside: an answer or a named error, no number that is none, no time that never ends.

`make test` tries some hundred inputs each, `make fuzz` as many as it is told.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from drivers.transport import decode_object
from drivers.values import number
from tests.fuzz.mutations import hostile, mutate
from tests.fuzz.parsers import PARSERS

INPUTS = int(os.environ.get("FUZZ_INPUTS", "150"))
LONGEST_CPU_S = 2.0
"""Of one input of at most 128 KiB, on a slow host; what is exponential takes hours."""


def numbers(value: Any) -> Iterator[float]:
    """Every float that was made of the bytes."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from numbers(each)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from numbers(getattr(value, each.name))


@pytest.mark.timeout(0 if INPUTS > 1000 else 120)
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_any_bytes_end_in_an_answer_or_a_named_error(parser):
    @settings(
        max_examples=INPUTS,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(hostile(parser.seeds))
    def holds(body: bytes) -> None:
        began_s = time.thread_time()
        try:
            answer = parser.call(body)
        except parser.errors:
            answer = None
        assert time.thread_time() - began_s < LONGEST_CPU_S
        if parser.name != "cgminer":  # which only decodes; what is made of it is the other parsers'
            assert all(math.isfinite(each) for each in numbers(answer))

    holds()


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_what_it_starts_from_is_an_answer(parser):
    answered = 0
    for seed in parser.seeds:
        try:
            parser.call(seed)
        except parser.errors:
            continue
        answered += 1
    assert answered


def test_mutants_are_the_same_again_and_mostly_different():
    seed = b'{"a": [1, 2, 3], "b": "c"}'
    assert mutate(seed, 7) == mutate(seed, 7)
    assert len({mutate(seed, number) for number in range(1000)}) > 700


@pytest.mark.parametrize(
    "body",
    [
        b'{"error_code":[' + (b'"a":"b"' + b" " * 10) * 2000,
        b'{"error_code":[' + b'"a":"b",' * 5000,
        b"{" + b"}" + b" " * 100_000 + b"x",
        b"{" + b"," + b" " * 100_000 + b"x",
        b"{" + (b":" + b" " * 100) * 1000 + b"nan",
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"9" * 100_000 + b"}",
        b'{"a":1"' + b"b" * 100_000,
    ],
)
def test_no_repair_of_broken_punctuation_has_many_ways_to_fit(body):
    began_s = time.thread_time()
    with pytest.raises(ValueError):
        decode_object(body)
    assert time.thread_time() - began_s < LONGEST_CPU_S


def test_a_number_with_a_million_blanks_is_none_at_once():
    began_s = time.thread_time()
    assert number("1" + " " * 1_000_000 + "!") is None
    assert number("1" * 1_000_000 + "!") is None
    assert time.thread_time() - began_s < LONGEST_CPU_S
