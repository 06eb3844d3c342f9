"""`python -m drivers.simulator`, its control socket, and the namespace for users who may not bind port 80."""

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drivers.reading import PowerMode, RunState
from drivers.simulator import namespace
from drivers.simulator.control import ControlError, SiteControl, serve
from drivers.simulator.faults import Fault
from drivers.simulator.site import Site, SiteSpec

NETWORK = "127.80.9.0/24"
ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "drivers.simulator"]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*COMMAND, "--network", NETWORK, *arguments],
            stdin=stdin,
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()


def complaints(process: subprocess.Popen[str]) -> str:
    """What it wrote to stderr, but for what development mode has to say of a host that is slow."""
    return "".join(
        line for line in process.stderr if not re.match(r"Executing <.* took [\d.]+ seconds$", line)
    )


def test_it_says_when_it_is_ready_and_ends_with_its_stdin(start: Callable) -> None:
    process = start("--machines", "5", "--speed", "10")
    ready = json.loads(process.stdout.readline())
    assert ready["ready"] is True
    assert (ready["machines"], ready["speed"]) == (5, 10.0)
    assert ready["scan_targets"] == ["127.80.9.1-9"]
    assert abs(datetime.fromisoformat(ready["sim_utc"]) - datetime.now(UTC)).total_seconds() < 60
    assert ready["left_out"] == []
    process.stdin.close()
    assert process.wait(60) == 0
    assert complaints(process) == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_also_when_detached(start: Callable, number: int) -> None:
    process = start("--machines", "3", "--detached", stdin=subprocess.DEVNULL)
    assert json.loads(process.stdout.readline())["ready"]
    process.send_signal(number)
    assert process.wait(60) == 0
    assert complaints(process) == ""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--machines", "many"], 2, "invalid int value"),
        (["--machines", "0"], 2, "at least one"),
        (["--network", "10.0.0.0/8"], 2, "must lie within 127.0.0.0/8"),
        (["--network", "x"], 2, "does not appear to be"),
    ],
)
def test_wrong_arguments(start: Callable, arguments: list[str], status: int, message: str) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert message in errors
    assert "Traceback" not in errors


async def test_an_address_in_use_is_one_line(start: Callable) -> None:
    async with Site(SiteSpec(machines=3, network=NETWORK)):
        process = start("--machines", "3")
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "127.80.9.1:" in errors
    assert "Address already in use" in errors


async def test_control_does_what_the_site_does(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with (
        Site(SiteSpec(machines=6, network=NETWORK, speed=3_000)) as site,
        serve(site, path),
        SiteControl(path) as control,
    ):
        assert path.stat().st_mode & 0o777 == 0o600
        one, two = (machine.address for machine in site.machines[:2])
        truth = await control.truth(one)
        assert (truth.mac, truth.family, truth.since) == (
            site.machines[0].mac,
            site.machines[0].family,
            site.clock.epoch,
        )
        assert [t.address for t in await control.all_truth()] == [m.address for m in site.machines]
        await control.sleep(one)
        async with asyncio.timeout(60):
            while (truth := await control.truth(one)).run_state is not RunState.ASLEEP:
                await asyncio.sleep(0.01)
        assert truth.commands[-1].kind == "operator:sleep"
        assert truth.commands[-1].at.tzinfo is not None
        await control.wake(one)
        await control.set_mode(one, PowerMode.NORMAL)
        await control.set_fault(one, Fault.HOT_CHIPS, celsius=140)
        assert site.machines[0].number(Fault.HOT_CHIPS, "celsius") == 140
        await control.clear_faults(one)
        assert site.machines[0].faults == ()
        await control.set_fault(two, Fault.POOL_DEAD)
        await control.clear_faults()
        assert site.machines[1].faults == ()
        await control.swap(one, two)
        await control.move(one, "127.80.9.99")
        assert (await control.truth("127.80.9.99")).mac == site.machines[1].mac
        assert abs(await control.now() - site.now()).total_seconds() < 3_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello", "Expecting value"),
        (b"[]", "a request is a JSON object"),
        (b"{}", "op: must be given"),
        (b'{"op":"explode"}', "op: one of truth"),
        (b'{"op":"truth","address":"127.9.9.9"}', "no machine at 127.9.9.9"),
        (b'{"op":"sleep"}', "address: must be given"),
        (b'{"op":"fault","address":"127.80.9.1","fault":"x"}', "'x' is not a valid Fault"),
        (b'{"op":"fault","address":"127.80.9.1","fault":"hangs","parameters":[]}', "parameters: must be"),
        (b'{"op":"set_mode","address":"127.80.9.1","mode":"fast"}', "'fast' is not a valid PowerMode"),
        (b'{"op":"move","old":"127.80.9.1","new":"x"}', "does not appear to be"),
        (b'{"op":' + b"[" * 20_000, "recursion"),
    ],
)
async def test_bad_requests_are_told_why(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "control"
    async with Site(SiteSpec(machines=3, network=NETWORK)) as site, serve(site, path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line + b"\n" + b'{"op":"clock"}\n')
        assert message in json.loads(await reader.readline())["error"]
        assert json.loads(await reader.readline())["ok"]["speed"] == 60
        writer.close()


async def test_the_control_socket_goes_with_the_site(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with Site(SiteSpec(machines=3, network=NETWORK)) as site, serve(site, path):
        control = await SiteControl(path).__aenter__()
    assert not path.exists()
    with pytest.raises(ControlError, match="the site is gone"):
        await control.now()
    await control.__aexit__(None, None, None)


# -- without privilege


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # else /proc/self still belongs to root


async def _left_out() -> tuple[str, ...]:
    async with Site(SiteSpec(machines=40, network="127.80.10.0/24")) as site:
        _, writer = await asyncio.open_connection(site.machines[0].address, 4028)
        writer.close()
        return site.left_out


def _left_out_in_a_loop() -> tuple[str, ...]:
    return asyncio.run(_left_out())


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root")
port_80_for_all = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80


@needs_root
@pytest.mark.skipif(port_80_for_all, reason="everybody may bind port 80 here")
def test_what_cannot_be_bound_is_left_out_and_named(in_a_child: Callable) -> None:
    def work() -> tuple[str, ...]:
        become_nobody()
        return _left_out_in_a_loop()

    (said,) = in_a_child(work)
    assert said.startswith("port 80: not permitted")


@needs_root
def test_a_namespace_gives_port_80_to_anybody(in_a_child: Callable) -> None:
    def work() -> tuple[str | None, tuple[str, ...]]:
        become_nobody()
        return namespace.enter(), _left_out_in_a_loop()

    reason, left_out = in_a_child(work)
    if reason is not None:
        pytest.skip(reason)
    assert left_out == ()


@needs_root
def test_nothing_is_entered_when_nothing_is_needed() -> None:
    before = Path("/proc/self/ns/net").readlink()
    assert namespace.enter() is None
    assert Path("/proc/self/ns/net").readlink() == before


def test_why_there_is_no_namespace_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(namespace, "isolate", refuse)
    monkeypatch.setattr(namespace, "_may_bind_port_80", lambda: False)
    monkeypatch.setattr(namespace.threading, "active_count", lambda: 1)  # whatever other tests left running
    assert namespace.enter() == (
        "no network namespace of our own: the kernel does not let this user have one"
        " (user namespaces are restricted)"
    )
