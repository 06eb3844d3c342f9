"""Sleep and wake of Braiins OS, against a gRPC server with the services that are called."""

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from drivers import _pyasic
from drivers.connect import connect
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Credentials,
    Driver,
    NoAnswer,
    RestorePoint,
    Said,
    Unreachable,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from grpclib import GRPCError, Status
    from grpclib.const import Cardinality, Handler
    from grpclib.server import Server

bos = _pyasic.boser
MAC = "02:13:A7:00:7C:01"
POINT = RestorePoint(power_mode=None, settings={})


@dataclass
class Braiins:
    """The services: a login that gives a token, the MAC, pause and resume."""

    mac: str = MAC
    password: str = "opensesame"
    called: list[str] = field(default_factory=list)
    fails: dict[str, Status] = field(default_factory=dict)
    mute: set[str] = field(default_factory=set)

    def __mapping__(self) -> dict[str, Any]:
        rows = [
            ("AuthenticationService/Login", self.login, bos.LoginRequest, bos.LoginResponse),
            (
                "MinerService/GetMinerDetails",
                self.details,
                bos.GetMinerDetailsRequest,
                bos.GetMinerDetailsResponse,
            ),
            ("ActionsService/PauseMining", self.pause, bos.PauseMiningRequest, bos.PauseMiningResponse),
            ("ActionsService/ResumeMining", self.resume, bos.ResumeMiningRequest, bos.ResumeMiningResponse),
        ]
        return {
            f"/braiins.bos.v1.{name}": Handler(call, Cardinality.UNARY_UNARY, request, response)
            for name, call, request, response in rows
        }

    async def login(self, stream: Any) -> None:
        request = await stream.recv_message()
        await self.happen("login")
        if request.password != self.password:
            raise GRPCError(Status.UNAUTHENTICATED, "wrong password")
        await stream.send_initial_metadata(metadata={"authorization": "t0ken"})
        await stream.send_message(bos.LoginResponse())

    async def details(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(bos.GetMinerDetailsResponse(mac_address=self.mac))

    async def pause(self, stream: Any) -> None:
        await self.act("pause", stream, bos.PauseMiningResponse(already_paused=False))

    async def resume(self, stream: Any) -> None:
        await self.act("resume", stream, bos.ResumeMiningResponse(already_mining=False))

    async def act(self, name: str, stream: Any, response: Any) -> None:
        await stream.recv_message()
        assert stream.metadata["authorization"] == "t0ken"
        self.called.append(name)
        await self.happen(name)
        await stream.send_message(response)

    async def happen(self, name: str) -> None:
        if name in self.mute:
            await asyncio.sleep(30)
        if name in self.fails:
            raise GRPCError(self.fails[name], "not now")


def driver_at(host: str, options: Any) -> Driver:
    identity = Identity(
        family=Family.GENERIC,
        make="Braiins Os",
        model="Antminer S19j Pro",
        firmware=None,
        mac=MAC,
        serial=None,
        driver_class="BOSMinerS19jPro",
    )
    login = {Family.GENERIC: Credentials(username="root", password="opensesame")}
    return connect(identity, Address(host=host), options=replace(options, credentials=login, write_s=0.4))


@pytest.fixture
async def braiins(network, quick) -> AsyncIterator[tuple[Braiins, Driver]]:
    """A machine with Braiins OS, and its driver."""
    machine = Braiins()
    server = Server([machine])
    await server.start(f"{network}.1", 50051)
    yield machine, driver_at(f"{network}.1", quick)
    server.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await server.wait_closed()


async def test_it_pauses_and_resumes(braiins) -> None:
    machine, driver = braiins
    assert driver.capabilities.can_sleep
    assert await driver.restore_point() == POINT
    assert (await driver.sleep()).said is Said.OK
    assert (await driver.wake(POINT)).said is Said.OK
    assert machine.called == ["pause", "resume"]


async def test_no_answer_in_time_is_silent(braiins) -> None:
    machine, driver = braiins
    machine.mute.add("pause")
    before = asyncio.all_tasks()
    assert (await driver.sleep()).said is Said.SILENT
    ours = [task for task in asyncio.all_tasks() - before if "grpclib/server.py" not in repr(task)]
    assert ours == []
    assert machine.called == ["pause"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.FAILED_PRECONDITION, CommandRefused),
        (Status.PERMISSION_DENIED, AuthenticationFailed),
        (Status.UNIMPLEMENTED, Unsupported),
    ],
)
async def test_a_no_is_an_error(braiins, status, error) -> None:
    machine, driver = braiins
    machine.fails["pause"] = status
    with pytest.raises(error, match="not now"):
        await driver.sleep()


@pytest.mark.parametrize("status", [Status.INTERNAL, Status.UNAVAILABLE, Status.UNKNOWN])
async def test_an_error_that_says_nothing_is_silent(braiins, status) -> None:
    machine, driver = braiins
    machine.fails["pause"] = status
    assert (await driver.sleep()).said is Said.SILENT


async def test_a_refused_or_silent_login_means_that_nothing_was_sent(braiins) -> None:
    machine, driver = braiins
    machine.mute.add("login")
    with pytest.raises(NoAnswer):
        await driver.sleep()
    machine.mute.clear()
    machine.password = "another"
    with pytest.raises(AuthenticationFailed):
        await driver.sleep()
    assert machine.called == []


async def test_another_machine_is_sent_nothing(braiins) -> None:
    machine, driver = braiins
    machine.mac = "02:13:A7:00:7C:FF"
    with pytest.raises(WrongMachine):
        await driver.sleep()
    assert machine.called == []


async def test_nobody_there(network, quick, leftovers) -> None:
    with leftovers(within_s=1.5), pytest.raises(Unreachable):
        await driver_at(f"{network}.250", quick).sleep()
