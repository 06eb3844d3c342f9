"""What could come in place of an honest answer: bytes of one, cut, flipped, repeated, nested and spiced."""

import random

from hypothesis import strategies as st

MOST_BYTES = 1 << 17
SPICE = (
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 400, b"1" * 5000,
    b"null", b"true", b"{}", b"[]", b'""', b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000", b"\\ud800",
    b"\n", b"\r\n", b" ", b"\t", b"=cmd|x", b"\x1b[2J", b"../", b"%s%n", b"'", b"--", b"2026-13-45T99:99",
    b"9999-12-31T23:59:59Z", b"0001-01-01T00:00:00+14:00", b"\xe2\x80\xae", "\U0001f4a3".encode(),
)  # fmt: skip


def mutate(seed: bytes, number: int) -> bytes:
    """One of endlessly many mutants, always the same for the same number."""
    chance = random.Random(number)
    body = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        _ONE[chance.randrange(len(_ONE))](body, chance)
        del body[MOST_BYTES:]
    return bytes(body)


def hostile(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Mutants of honest answers, and bytes that never were one."""
    mutants = st.builds(mutate, st.sampled_from(seeds), st.integers(0, 1 << 60))
    return st.one_of(mutants, mutants, mutants, st.binary(max_size=200))


def _span(body: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(body) + 1)
    return start, min(len(body), start + chance.choice((1, 2, 5, 20, 200)))


def _cut(body: bytearray, chance: random.Random) -> None:
    del body[chance.randrange(len(body) + 1) :]


def _drop(body: bytearray, chance: random.Random) -> None:
    start, end = _span(body, chance)
    del body[start:end]


def _flip(body: bytearray, chance: random.Random) -> None:
    if body:
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)


def _insert(body: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(body) + 1)
    body[at:at] = chance.choice(SPICE)


def _replace(body: bytearray, chance: random.Random) -> None:
    start, end = _span(body, chance)
    body[start:end] = chance.choice(SPICE)


def _pump(body: bytearray, chance: random.Random) -> None:
    """Repeat a part very often: what makes a pattern try every way to share it out."""
    start, end = _span(body, chance)
    body[start:end] = bytes(body[start:end]) * chance.choice((2, 10, 100, 3000))


def _pump_spice(body: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(body) + 1)
    body[at:at] = chance.choice(SPICE) * chance.choice((10, 100, 3000))


def _move(body: bytearray, chance: random.Random) -> None:
    start, end = _span(body, chance)
    part = body[start:end]
    del body[start:end]
    at = chance.randrange(len(body) + 1)
    body[at:at] = part


_ONE = (_cut, _drop, _flip, _insert, _replace, _pump, _pump_spice, _move)
