"""Bytes: every way that a peer can misbehave has a name, a deadline, and leaves nothing behind."""

import asyncio
import contextlib
import json
import resource
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.connection import Endpoint
from drivers.driver import ConnectionLost, DriverError, Malformed, NoAnswer, OutOfSockets, Oversized, Refused
from drivers.transport import CgminerAnswer, ask_cgminer, ask_framed, decode_object
from drivers.web import browse, overheard

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=5)
GOOD = b'{"STATUS":[{"STATUS":"S"}],"SUMMARY":[{"GHS 5s":110.5}]}'


# -- decoding ----------------------------------------------------------------------------------------------


@given(OBJECTS)
def test_what_is_json_is_taken_as_it_is(answer: dict[str, Any]) -> None:
    assert decode_object(json.dumps(answer).encode() + b"\x00") == answer


@given(OBJECTS.filter(bool), st.data())
def test_a_cut_answer_is_never_completed(answer: dict[str, Any], data: st.DataObject) -> None:
    whole = json.dumps(answer).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match=r"not JSON|cut or broken"):
        decode_object(cut)


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_an_object(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(decode_object(data), dict)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (b'{"STATS":[{"a":1}{"b":2}]}', {"STATS": [{"a": 1}, {"b": 2}]}),
        (b'{"a":[1,2]"b":2}', {"a": [1, 2], "b": 2}),
        (b'{"a":{"x":1,},"b":[1,],}', {"a": {"x": 1}, "b": [1]}),
        (b'{"a":[,{"x":1}]}', {"a": [{"x": 1}]}),
        (b'{"chain_acs":" ooo""temp0":71}', {"chain_acs": " ooo", "temp0": 71}),
        (b'{"MHS av":67753251.19"MHS 5s":70668114.52}', {"MHS av": 67753251.19, "MHS 5s": 70668114.52}),
        (b'{"a":1,\x00"b":2}\x00', {"a": 1, "b": 2}),
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'{"a":nan,"b":[-inf,inf]}', {"a": None, "b": [None, None]}),
        (b'{"Power":"nan"}', {"Power": "nan"}),
        (b'{"a":"line\nbreak"}', {"a": "line\nbreak"}),
        (b'{"Msg":{"error_code":["110":"2025-12-01","111":"2025-12-02"]}}', None),
    ],
)
def test_repairs_put_punctuation_back(said: bytes, meant: dict[str, Any] | None) -> None:
    found = decode_object(said)
    assert found == (meant or {"Msg": {"error_code": {"110": "2025-12-01", "111": "2025-12-02"}}})


@pytest.mark.parametrize(
    "said", [b"", b"[1]", b'"text"', b"<html></html>", b"{" * 200_000, b'{"a":' + b"9" * 9000 + b"}"]
)
def test_what_is_no_object_is_refused(said: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|nested|broken"):
        decode_object(said)


def test_a_hostile_drip_is_not_parsed_for_ever() -> None:
    take, received = CgminerAnswer(), bytearray()
    for _ in range(5_000):
        received += b"{}"
        assert take(received, False) is None or len(received) == 2


# -- exchanging --------------------------------------------------------------------------------------------


def endpoint(host: str, port: int = 4028, **bounds: Any) -> Endpoint:
    standard = {"connect_s": 0.3, "call_s": 0.5, "max_bytes": 1 << 20}
    return Endpoint(name=host, host=host, port=port, **(standard | bounds))


async def test_an_answer_that_ends_with_the_connection(servers, peers, leftovers, network) -> None:
    await servers.listen(f"{network}.1", 4028, peers.says(GOOD))
    with leftovers(within_s=0.5):
        assert (await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"}))["SUMMARY"]


@pytest.mark.parametrize("end", [b"", b"\x00", b"\n"])
async def test_a_complete_answer_needs_no_end(servers, peers, leftovers, network, end) -> None:
    await servers.listen(f"{network}.1", 4028, peers.says(GOOD + end, close=False))
    with leftovers(within_s=0.0):
        assert (await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"}))["SUMMARY"]


async def test_an_answer_in_pieces(servers, leftovers, network) -> None:
    def drip(_: bytes, transport: asyncio.Transport) -> None:
        def rest(index: int) -> None:
            transport.write(GOOD[index : index + 1])
            if index < len(GOOD):
                asyncio.get_running_loop().call_later(0.001, rest, index + 1)

        rest(0)

    await servers.listen(f"{network}.1", 4028, drip)
    with leftovers(within_s=0.5):
        assert (await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"}))["SUMMARY"]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


FAILURES = {
    "hangs": ("hang", None, NoAnswer),
    "resets": ("reset", None, ConnectionLost),
    "closes without a word": ("says", b"", ConnectionLost),
    "html": ("says", b"<!DOCTYPE html><html><body>It works!</body></html>", Malformed),
    "garbage": ("says", bytes(range(256)) * 4, Malformed),
    "cut": ("says", GOOD[:30], Malformed),
    "10 MB": ("says", b'{"a":"' + b"x" * 10_000_000, Oversized),
    "a list": ("says", b"[1,2]", Malformed),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_every_failure_of_a_cgminer_peer_has_a_name(servers, peers, leftovers, network, how) -> None:
    name, said, error = FAILURES[how]
    behave = getattr(peers, name) if said is None else getattr(peers, name)(said)
    await servers.listen(f"{network}.1", 4028, behave)
    with leftovers(within_s=0.5), pytest.raises(error) as caught:
        await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"})
    assert type(caught.value) is error
    assert f"{network}.1" in str(caught.value)


FRAMED_FAILURES = {
    "hangs": ("hang", None, NoAnswer),
    "resets": ("reset", None, ConnectionLost),
    "closes without a word": ("says", b"", ConnectionLost),
    "cut header": ("says", b"\x10\x00", Malformed),
    "cut body": ("says", framed(GOOD)[:-5], Malformed),
    "html": ("says", framed(b"<html></html>"), Malformed),
    "bare html": ("says", b"<!DOCTYPE html><html></html>", Oversized),
    "announces 10 MB": ("says", (10_000_000).to_bytes(4, "little") + b"{", Oversized),
}


@pytest.mark.parametrize("how", FRAMED_FAILURES)
async def test_every_failure_of_a_framed_peer_has_a_name(servers, peers, leftovers, network, how) -> None:
    name, said, error = FRAMED_FAILURES[how]
    behave = getattr(peers, name) if said is None else getattr(peers, name)(said)
    await servers.listen(f"{network}.1", 4433, behave)
    with leftovers(within_s=0.5), pytest.raises(error) as caught:
        await ask_framed(endpoint(f"{network}.1", 4433), {"cmd": "get.device.info"})
    assert type(caught.value) is error


@pytest.mark.parametrize("said", [GOOD[:30], framed(GOOD)[:30]])
async def test_half_closed_peers_that_never_end(servers, peers, leftovers, network, said) -> None:
    await servers.listen(f"{network}.1", 4028, peers.says(said, close=False))
    ask = ask_cgminer if said == GOOD[:30] else ask_framed
    with leftovers(within_s=0.5), pytest.raises(NoAnswer):
        await ask(endpoint(f"{network}.1"), {})


async def test_refused(leftovers, network) -> None:
    with leftovers(within_s=0.0), pytest.raises(Refused):
        await ask_cgminer(endpoint(f"{network}.250"), {"command": "summary"})


async def test_a_host_that_does_not_even_connect(leftovers, network) -> None:
    """A full backlog drops further SYNs, as a dead host or a filter does."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((f"{network}.1", 4028))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(3)]
        for each in crowd:
            each.setblocking(False)
            each.connect_ex((f"{network}.1", 4028))
        with leftovers(within_s=0.3), pytest.raises(NoAnswer):
            await ask_cgminer(endpoint(f"{network}.1", call_s=5.0), {"command": "summary"})
        for each in crowd:
            each.close()


async def test_no_file_descriptor_left_is_said(servers, peers, network) -> None:
    await servers.listen(f"{network}.1", 4028, peers.says(GOOD))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1
    hoard = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        while True:
            try:
                hoard.append(socket.socket())
            except OSError:
                break
        with pytest.raises(OutOfSockets, match="limit of open files"):
            await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in hoard:
            each.close()


async def test_cancelled_from_outside_leaves_nothing(servers, peers, leftovers, network) -> None:
    await servers.listen(f"{network}.1", 4028, peers.hang)
    with leftovers(within_s=0.2), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask_cgminer(endpoint(f"{network}.1"), {"command": "summary"})


async def test_httpx_on_a_connection_that_is_gone_at_once_is_a_lost_connection(network, monkeypatch) -> None:
    """On uvloop anyio finds no socket any more then, and httpx lets its AttributeError out: seen on a busy site."""

    async def gone(*_: Any) -> httpx.Response:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", gone)
    with overheard() as heard, pytest.raises(ConnectionLost):
        await browse(endpoint(f"{network}.1", 80), "/")
    assert [type(each) for each in heard] == [httpx.ReadError]


def test_every_error_has_a_kind_of_its_own() -> None:
    def below(error: type[DriverError]) -> list[type[DriverError]]:
        return [error, *(each for child in error.__subclasses__() for each in below(child))]

    kinds = [error.kind for error in below(DriverError)]
    assert len(set(kinds)) == len(kinds)
