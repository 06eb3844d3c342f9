"""Sleep and wake of the firmwares that are not simulated, against small servers that speak their documented shapes."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from drivers.connect import connect
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Credentials,
    Driver,
    DriverError,
    Incomplete,
    Malformed,
    RestorePoint,
    Said,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity, PowerMode, RunState

MAC = "02:13:A7:00:7C:01"
POINT = RestorePoint(power_mode=None, settings={})
COMMANDS: dict[str, Callable[[Driver], Any]] = {
    "sleep": lambda driver: driver.sleep(),
    "wake": lambda driver: driver.wake(POINT),
}


def driver_of(driver_class: str, host: str, options: Any, **identity: Any) -> Driver:
    """The driver of a machine that pyasic reads with this class."""
    known = Identity(
        family=Family.GENERIC,
        make="x",
        model="Antminer S19j Pro",
        firmware=None,
        mac=identity.get("mac", MAC),
        serial=None,
        driver_class=driver_class,
    )
    credentials = {Family.GENERIC: Credentials(username="us", password="opensesame")}
    options = replace(options, write_s=0.5, credentials=credentials)
    return connect(known, Address(host=host), options=options)


# -- LuxOS -----------------------------------------------------------------------------------------------


@dataclass
class Lux:
    """The sessions of a LuxOS machine, in front of a recorded one."""

    recorded: Any
    session: str | None = None
    mode: str = "None"
    log: list[str] = field(default_factory=list)
    mute: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)

    def behave(self, received: bytes, transport: asyncio.Transport) -> None:
        request = json.loads(received)
        name, parameter = request["command"], request.get("parameter", "")
        if name not in {"logon", "logoff", "curtail"}:
            self.recorded.rpc_behave = None
            self.recorded._rpc(received, transport)
            self.recorded.rpc_behave = self.behave
            return
        self.log.append(f"{name} {parameter.partition(',')[2]}".strip())
        body = self.answer(name, parameter)
        if name in self.fails:
            self.fails.discard(name)
            transport.abort()
        elif name not in self.mute:
            transport.write(json.dumps(body).encode() + b"\x00")
            transport.close()

    def answer(self, name: str, parameter: str) -> dict[str, Any]:
        session, _, what = parameter.partition(",")
        if name == "logon":
            if self.session:
                return status("E", 402, "Another session is active")
            self.session = "S3ss10n"
            return status("S", 316, "Session created") | {"SESSION": [{"SessionID": self.session}]}
        if session != self.session:
            return status("E", 401, "Session not valid")
        if name == "logoff":
            self.session = None
            return status("S", 317, "Session ended")
        self.mode = "Sleep" if what == "sleep" else "None"
        return status("S", 335, "Curtail mode sent")


def status(verdict: str, code: int, text: str) -> dict[str, Any]:
    return {"STATUS": [{"STATUS": verdict, "Code": code, "Msg": text, "Description": "LUXminer"}], "id": 1}


@pytest.fixture
async def lux(servers, network, quick) -> tuple[Lux, Driver]:
    """A LuxOS machine and its driver."""
    recorded = await servers.machine("generic/luxos-s19j-pro", f"{network}.1")
    machine = Lux(recorded)
    recorded.rpc_behave = machine.behave
    return machine, driver_of("LUXMinerS19jPro", recorded.host, quick)


async def test_luxos_sleeps_wakes_and_is_always_logged_off(lux, leftovers) -> None:
    machine, driver = lux
    assert driver.capabilities.can_sleep
    assert (driver.timings.sleep_within_s, driver.timings.wake_within_s) == (30.0, 300.0)
    point = await driver.restore_point()
    assert point == POINT
    with leftovers(within_s=1.0):
        receipt = await driver.sleep()
    assert (receipt.said, receipt.detail, machine.mode) == (Said.OK, "code 335: Curtail mode sent", "Sleep")
    assert (await driver.wake(point)).said is Said.OK
    assert machine.mode == "None"
    assert machine.log == ["logon", "curtail sleep", "logoff", "logon", "curtail wakeup", "logoff"]


@pytest.mark.parametrize("how", ["mute", "fails"])
async def test_luxos_is_logged_off_after_a_command_that_was_not_answered(lux, leftovers, how) -> None:
    machine, driver = lux
    getattr(machine, how).add("curtail")
    with leftovers(within_s=1.5):
        assert (await driver.sleep()).said is Said.SILENT
    assert (machine.mode, machine.session, machine.log[-1]) == ("Sleep", None, "logoff")


async def test_luxos_is_logged_off_when_the_command_is_cancelled(lux, leftovers) -> None:
    machine, driver = lux
    machine.mute.add("curtail")
    with leftovers(within_s=1.0), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await driver.sleep()
    assert (machine.session, machine.log[-1]) == (None, "logoff")


async def test_luxos_logs_off_again_if_that_failed(lux) -> None:
    machine, driver = lux
    machine.fails.add("logoff")
    machine.answer, answer = (
        (lambda name, what: {} if name in machine.fails else answer(name, what)),
        machine.answer,
    )
    assert (await driver.sleep()).said is Said.OK
    assert (machine.session, machine.log) == (None, ["logon", "curtail sleep", "logoff", "logoff"])


async def test_luxos_with_somebody_else_s_session_is_refused_and_the_session_left_alone(lux) -> None:
    machine, driver = lux
    machine.session = "somebody"
    for command in COMMANDS.values():
        with pytest.raises(CommandRefused, match="another session is open"):
            await command(driver)
    assert (machine.session, machine.log, machine.mode) == ("somebody", ["logon", "logon"], "None")


async def test_luxos_that_does_not_log_on_was_sent_nothing(lux) -> None:
    machine, driver = lux
    machine.mute.add("logon")
    with pytest.raises(DriverError) as raised:
        await driver.sleep()
    assert (raised.value.kind, machine.log) == ("no_answer", ["logon"])


async def test_a_stranger_is_sent_nothing(lux) -> None:
    machine, driver = lux
    machine.recorded.said["config"]["CONFIG"][0]["MACAddr"] = "02:13:a7:00:7c:ff"
    with pytest.raises(WrongMachine):
        await driver.sleep()
    machine.recorded.said["config"]["CONFIG"][0]["MACAddr"] = ""
    with pytest.raises(Incomplete, match="who it is"):
        await driver.sleep()
    assert machine.log == []


async def test_no_modes_are_set(lux) -> None:
    machine, driver = lux
    with pytest.raises(Unsupported):
        await driver.set_power_mode(PowerMode.LOW)
    assert machine.log == []


async def test_old_braiins_pauses_and_resumes(servers, peers, network, quick) -> None:
    """Its MAC is behind a web interface that this machine has not; it was identified without one."""
    asked: list[str] = []

    def behave(received: bytes, transport: asyncio.Transport) -> None:
        name = json.loads(received)["command"]
        asked.append(name)
        body = status("S", 0, "ok") | ({name.upper(): [True]} if name in {"pause", "resume"} else {})
        transport.write(json.dumps(body).encode() + b"\x00")
        transport.close()

    host = f"{network}.1"
    await servers.listen(host, 4028, behave)
    await servers.listen(host, 80, lambda _, transport: peers.http(transport, 404, b"{}"))
    driver = driver_of("BOSMinerS17", host, quick, mac=None)
    for command in COMMANDS.values():
        with pytest.raises(DriverError):  # the web interface says nothing: not sure who this is
            await command(driver)
    assert "pause" not in asked


# -- over HTTP -------------------------------------------------------------------------------------------


@dataclass
class Web:
    """A small HTTP machine: pages by method and path; each gets the request's headers and body."""

    pages: dict[str, Callable[[str, Any], tuple[int, Any]]]
    asked: list[tuple[str, Any]] = field(default_factory=list)
    mute: set[str] = field(default_factory=set)

    def behave(self, received: bytes, transport: asyncio.Transport) -> None:
        head, separator, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        method, path, _ = head.decode().split(" ", 2)
        told = json.loads(body) if body else None
        if method == "POST":
            self.asked.append((path, told))
        if path in self.mute:
            return
        page = self.pages.get(f"{method} {path}")
        code, answer = page(head.decode(), told) if page else (404, {})
        said = json.dumps(answer).encode() if answer is not None else b""
        reply = f"HTTP/1.1 {code} X\r\nContent-Length: {len(said)}\r\nConnection: close\r\n"
        if code == 401:
            reply += 'WWW-Authenticate: Digest realm="x", nonce="5d1e", qop="auth"\r\n'
        transport.write(reply.encode() + b"\r\n" + said)
        transport.close()


def fixed(answer: Any, code: int = 200) -> Callable[[str, Any], tuple[int, Any]]:
    return lambda head, told: (code, answer)


class VNish:
    """`/unlock` gives tokens; `mining/*` takes the latest."""

    port, driver_class = 80, "VNishS19jPro"
    stop, start = "/api/v1/mining/stop", "/api/v1/mining/resume"

    def __init__(self) -> None:
        self.expired = 0
        self.tokens = 0

    def pages(self) -> dict[str, Any]:
        return {
            "GET /api/v1/summary": fixed({"system": {"network_status": {"mac": MAC}}}),
            "GET /api/v1/info": fixed({"system": {"network_status": {"mac": MAC}}}),
            "POST /api/v1/unlock": self.unlock,
            f"POST {self.stop}": self.mining,
            f"POST {self.start}": self.mining,
        }

    def unlock(self, _: str, told: Any) -> tuple[int, Any]:
        if told["pw"] != "opensesame":
            return 401, {"err": "wrong password"}
        self.tokens += 1
        return 200, {"token": f"t{self.tokens}" + "x" * 400}

    def mining(self, head: str, told: Any) -> tuple[int, Any]:
        fresh = f"t{self.tokens}xx" in head
        if self.expired or not fresh:
            self.expired -= 1
            return 401, {"err": "unauthorized"}
        return 200, None


class Epic:
    """One page that wants the password."""

    port, driver_class = 4028, "ePICS19jPro"
    stop = start = "/miner"

    def pages(self) -> dict[str, Any]:
        return {
            "GET /network": fixed({"dhcp": {"mac_address": MAC}}),
            "GET /summary": fixed({"Software": "x"}),
            "POST /miner": self.miner,
        }

    def miner(self, _: str, told: Any) -> tuple[int, Any]:
        right = told["password"] == "opensesame"
        return 200, {"result": right, "error": None if right else "Invalid password"}


class Auradine:
    """A token, then the mode."""

    port, driver_class = 8080, "AuradineFluxAT2880"
    stop = start = "/mode"

    def pages(self) -> dict[str, Any]:
        ok = {"STATUS": [{"STATUS": "S", "Msg": "ok"}]}
        token = {**ok, "Token": [{"Token": "t" * 400}]}
        mode = lambda head, told: (200, ok) if "t" * 400 in head else (401, {})  # noqa: E731
        return {
            "POST /token": lambda _, told: (200, token if told["password"] == "opensesame" else ok),
            "GET /ipreport": fixed({**ok, "IPReport": [{"mac": MAC, "version": "1"}]}),
            "POST /mode": mode,
        }


MARATHON = {
    "pools": [{"url": "stratum+tcp://x:1", "user": "a", "pass": "b"}],
    "mode": {"work-mode-selector": "Fixed"},
}


class Marathon:
    """The whole configuration, with digest login."""

    port, driver_class = 80, "MaraS19jPro"
    stop = start = "/kaonsu/v1/miner_config"

    def __init__(self) -> None:
        self.configuration: dict[str, Any] = {**MARATHON, "unknown": [1]}

    def pages(self) -> dict[str, Any]:
        def guarded(page: Any) -> Any:
            return lambda head, told: page(head, told) if "Digest username" in head else (401, {})

        return {
            "GET /kaonsu/v1/overview": guarded(fixed({"mac": MAC, "version_firmware": "1"})),
            f"GET {self.stop}": guarded(lambda *_: (200, self.configuration)),
            f"POST {self.stop}": guarded(self.take),
        }

    def take(self, _: str, told: Any) -> tuple[int, Any]:
        self.configuration = told
        return 200, {}


FIRMWARES = [VNish, Epic, Auradine]


@pytest.fixture
def serve(servers, network, quick):
    """Starts a firmware; its web server and driver."""

    async def start(firmware: Any) -> tuple[Web, Driver]:
        web = Web(firmware.pages())
        await servers.listen(f"{network}.1", firmware.port, web.behave)
        if firmware.port != 80:
            await servers.listen(f"{network}.1", 80, Web({}).behave)
        return web, driver_of(firmware.driver_class, f"{network}.1", quick)

    return start


def commands(web: Web, firmware: Any) -> list[Any]:
    return [told for path, told in web.asked if path in {firmware.stop, firmware.start}]


@pytest.mark.parametrize("kind", FIRMWARES)
async def test_it_sleeps_and_wakes(serve, leftovers, kind) -> None:
    firmware = kind()
    web, driver = await serve(firmware)
    assert driver.capabilities.can_sleep
    point = await driver.restore_point()
    with leftovers(within_s=1.5):
        assert (await driver.sleep()).said is Said.OK
        assert (await driver.wake(point)).said is Said.OK
    paths = [path for path, _ in web.asked if path in {firmware.stop, firmware.start}]
    assert paths == [firmware.stop, firmware.start]
    expected = {
        VNish: [{}, {}],
        Epic: [{"param": what, "password": "opensesame"} for what in ("Stop", "Autostart")],
        Auradine: [{"sleep": what, "command": "mode"} for what in ("on", "off")],
    }
    assert commands(web, firmware) == expected[kind]


@pytest.mark.parametrize("kind", FIRMWARES)
async def test_no_answer_to_the_command_is_silent(serve, leftovers, kind) -> None:
    firmware = kind()
    web, driver = await serve(firmware)
    web.mute.add(firmware.stop)
    with leftovers(within_s=1.5):
        assert (await driver.sleep()).said is Said.SILENT
    assert len(commands(web, firmware)) == 1


@pytest.mark.parametrize("kind", FIRMWARES)
@pytest.mark.parametrize(
    ("code", "answer", "error"),
    [
        (400, {}, CommandRefused),
        (403, {}, AuthenticationFailed),
        (404, {}, Unsupported),
        (200, {"success": False, "error": "busy"}, CommandRefused),
        (200, {"STATUS": [{"STATUS": "E", "Code": 5, "Msg": "no"}]}, CommandRefused),
    ],
)
async def test_a_no_is_an_error(serve, kind, code, answer, error) -> None:
    firmware = kind()
    web, driver = await serve(firmware)
    web.pages[f"POST {firmware.stop}"] = fixed(answer, code)
    with pytest.raises(error):
        await driver.sleep()


@pytest.mark.parametrize("kind", FIRMWARES)
async def test_a_server_error_is_no_clear_answer(serve, kind) -> None:
    firmware = kind()
    web, driver = await serve(firmware)
    web.pages[f"POST {firmware.stop}"] = fixed({}, 500)
    assert (await driver.sleep()).said is Said.SILENT


@pytest.mark.parametrize(("kind", "login"), [(VNish, "/api/v1/unlock"), (Auradine, "/token")])
async def test_a_login_that_fails_means_that_nothing_was_sent(serve, kind, login) -> None:
    firmware = kind()
    web, driver = await serve(firmware)
    await driver.restore_point()
    for broken, error in ((fixed({}, 401), AuthenticationFailed), (fixed({}, 500), Malformed)):
        web.pages[f"POST {login}"] = broken
        with pytest.raises(error):
            await driver.sleep()
    assert commands(web, firmware) == []


async def test_an_old_token_of_vnish_is_replaced_once(serve) -> None:
    firmware = VNish()
    _, driver = await serve(firmware)
    firmware.expired = 1
    assert (await driver.sleep()).said is Said.OK
    firmware.expired = 2
    with pytest.raises(AuthenticationFailed):
        await driver.sleep()


async def test_a_marathon_gets_its_configuration_back_with_the_selector_changed(serve) -> None:
    firmware = Marathon()
    _, driver = await serve(firmware)
    before = firmware.configuration
    point = await driver.restore_point()
    assert point.settings == {"work-mode-selector": "Fixed"}
    assert (await driver.sleep()).said is Said.OK
    assert firmware.configuration == {**before, "mode": {"work-mode-selector": "Sleep"}}
    with pytest.raises(CommandRefused, match="sleeps already"):
        await driver.restore_point()
    assert (await driver.wake(point)).said is Said.OK
    assert firmware.configuration == before


@pytest.mark.parametrize(
    "configuration",
    [{}, {**MARATHON, "pools": []}, {**MARATHON, "mode": {}}, {**MARATHON, "pools": [{"url": ""}]}],
)
async def test_a_marathon_s_configuration_that_is_not_whole_is_not_posted(serve, configuration) -> None:
    firmware = Marathon()
    web, driver = await serve(firmware)
    firmware.configuration = configuration
    for command in COMMANDS.values():
        with pytest.raises((Incomplete, CommandRefused)):
            await command(driver)
    assert web.asked == []


async def test_what_is_forwarded_is_commanded_only_over_that_port(quick, network) -> None:
    for name, can in (("LUXMinerS19jPro", True), ("VNishS19jPro", False), ("BOSMinerS19jPro", False)):
        driver = driver_of(name, f"{network}.250", quick)
        forwarded = connect(driver.identity, Address(host=f"{network}.250", port=14028), options=quick)
        assert forwarded.capabilities.can_sleep is can
        assert driver.capabilities.can_sleep


@pytest.mark.parametrize("name", ["BOSMinerS19jPro", "LUXMinerS19jPro", "VNishS19jPro", "ePICS19jPro"])
async def test_nobody_there(quick, network, leftovers, name) -> None:
    driver = driver_of(name, f"{network}.250", quick)
    with leftovers(within_s=1.5), pytest.raises(DriverError):
        await driver.sleep()


async def test_luxos_asleep_is_read_as_asleep(lux) -> None:
    machine, driver = lux
    said = machine.recorded.said
    said["summary"]["SUMMARY"][0]["GHS 5s"] = 0.0
    said["config"]["CONFIG"][0]["CurtailMode"] = "Sleep"
    for chain in (1, 2, 3):
        said["stats"]["STATS"][1][f"chain_rate{chain}"] = "0.00"
    assert (await driver.read()).run_state is RunState.ASLEEP
