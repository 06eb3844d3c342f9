"""Sleep, wake and power mode on simulated machines: what is sent, what is left as it was, and what is refused."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from drivers import commands
from drivers.connect import connect
from drivers.connection import Endpoint
from drivers.discovery import scan
from drivers.driver import (
    AuthenticationFailed,
    BadAnswer,
    CommandRefused,
    Credentials,
    Driver,
    DriverError,
    Receipt,
    RestorePoint,
    Said,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity, PowerMode, RunState
from drivers.simulator import antminer_web, whatsminer_v3
from drivers.simulator.faults import Fault
from drivers.simulator.machine import PoolSetting, SimulatedMachine
from drivers.simulator.site import Site, SiteSpec
from drivers.transport import ask_cgminer
from drivers.web import fetch

V2, V3 = Family.WHATSMINER_V2, Family.WHATSMINER_V3
FAMILIES = [Family.ANTMINER, V2, V3]
MODES = [
    *((Family.ANTMINER, mode) for mode in (PowerMode.NORMAL, PowerMode.LOW, PowerMode.HIGH_EFFICIENCY)),
    *((V2, mode) for mode in (PowerMode.NORMAL, PowerMode.LOW, PowerMode.HIGH)),
    *((V3, mode) for mode in (PowerMode.NORMAL, PowerMode.LOW, PowerMode.HIGH)),
]
ONE_POOL = (PoolSetting(url="ssl://pool.example:443", user="a.b", password='p&"ä'),)


class Clock:
    """The site's clock, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_hours(self, hours: float) -> None:
        self.now_s += 3600.0 * hours


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def site(network: str, clock: Clock) -> AsyncIterator[Site]:
    """A small site with machines of every family, whose time stands still."""
    spec = SiteSpec(machines=20, seed=1, speed=1.0, network=f"{network}.0/24")
    async with Site(spec, monotonic=clock) as running:
        yield running


@pytest.fixture
def options(quick):
    """Deadlines that do not make the tests slow."""
    return replace(quick, write_s=0.4)


@pytest.fixture
def driver_of(site: Site, options) -> Callable[..., Any]:
    """The machine and the driver of the first machine of a family that has a mode."""

    async def find(family: Family, mode: PowerMode = PowerMode.LOW) -> tuple[SimulatedMachine, Driver]:
        machine = next(m for m in site.machines if m.family is family and mode in m.exemplar.modes)
        ((address, identity),) = (await scan([Address(host=machine.address)], options=options)).found
        return machine, connect(identity, address, options=options)

    return find


@pytest.fixture
async def antminer(driver_of):
    """A stock Antminer and its driver."""
    return await driver_of(Family.ANTMINER)


def sent(machine: SimulatedMachine) -> list[str]:
    """What was sent to change something, by kind."""
    return [c.kind for c in machine.truth().commands if c.writes and not c.kind.startswith("operator:")]


def asked(machine: SimulatedMachine) -> list[str]:
    return [c.kind for c in machine.truth().commands if not c.writes]


def kept(machine: SimulatedMachine) -> tuple[Any, ...]:
    """What no command may change."""
    return machine.pools, machine.fan_control, machine.fan_pwm, machine.freq_level, machine.plant.mode


# -- asleep and awake again ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "mode"), MODES, ids=str)
async def test_a_machine_wakes_exactly_as_it_was(site, clock, driver_of, leftovers, family, mode) -> None:
    machine, driver = await driver_of(family, mode)
    machine.fan_control, machine.fan_pwm, machine.freq_level, machine.pools = True, "70", "90", ONE_POOL
    site.set_mode(machine.address, mode)
    clock.pass_hours(1)
    machine.truth()
    before = kept(machine)
    with leftovers(within_s=1.0):
        point = await driver.restore_point()
        assert (await driver.sleep()).said is Said.OK
    clock.now_s += driver.timings.sleep_within_s
    assert machine.truth().run_state is RunState.ASLEEP
    assert (await driver.read()).run_state is RunState.ASLEEP
    assert kept(machine) == before
    stored = RestorePoint(power_mode=point.power_mode, settings=json.loads(json.dumps(dict(point.settings))))
    with leftovers(within_s=1.0):
        assert (await driver.wake(stored)).said is Said.OK
    clock.now_s += driver.timings.wake_within_s
    truth = machine.truth()
    assert (truth.run_state, truth.power_mode) == (RunState.MINING, mode)
    assert kept(machine) == before
    assert len(sent(machine)) == 2
    reading = await driver.read()
    assert (reading.run_state, reading.power_mode) == (RunState.MINING, mode)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_mode_of_before_comes_back_even_if_somebody_changed_it(
    site, clock, driver_of, family
) -> None:
    machine, driver = await driver_of(family)
    machine.freq_level = "90"
    site.set_mode(machine.address, PowerMode.LOW)
    clock.pass_hours(1)
    point = await driver.restore_point()
    await driver.sleep()
    clock.pass_hours(1)
    machine.truth()
    machine.plant.mode, machine.freq_level = PowerMode.NORMAL, "100"
    assert (await driver.wake(point)).said is Said.OK
    clock.pass_hours(1)
    truth = machine.truth()
    assert (truth.run_state, truth.power_mode) == (RunState.MINING, PowerMode.LOW)
    assert machine.freq_level == ("90" if family is Family.ANTMINER else "100")


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_late_answer_within_the_deadline_is_an_answer(site, driver_of, family) -> None:
    machine, driver = await driver_of(family)
    site.set_fault(machine.address, Fault.SLOW_WRITE, seconds=0.2)
    assert (await driver.sleep()).said is Said.OK


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", [Fault.SLOW_WRITE, Fault.APPLIES_SILENTLY])
async def test_no_answer_is_a_receipt_in_time_and_leaves_nothing(
    site, driver_of, leftovers, family, fault
) -> None:
    machine, driver = await driver_of(family)
    site.set_fault(machine.address, fault)
    with leftovers(within_s=0.8):
        receipt = await driver.sleep()
    assert receipt.said is Said.SILENT
    assert "no_answer" in receipt.detail
    assert machine.plant.asleep


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_cancelled_command_leaves_nothing_and_the_next_one_goes(
    site, driver_of, leftovers, family
) -> None:
    machine, driver = await driver_of(family)
    site.set_fault(machine.address, Fault.APPLIES_SILENTLY)
    with leftovers(within_s=0.5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await driver.sleep()
        await asyncio.sleep(0)
    site.clear_faults()
    assert (await driver.sleep()).said is Said.OK


# -- asked once for the restore point and the command ------------------------------------------------------

ASKED = {
    Family.ANTMINER: ["web:get_system_info", "web:get_miner_conf"],
    V2: ["v2:get_miner_info", "v2:summary"],
    V3: ["v3:get.device.info", "v3:get.miner.setting"],
}
"""What tells who a machine is and how it is set."""


def questions(machine: SimulatedMachine, since: int) -> list[str]:
    """What a machine was asked from the given question on, but for tokens, which live longer than a command."""
    return [kind for kind in asked(machine)[since:] if kind != "v2:get_token"]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_command_right_after_its_restore_point_asks_nothing_again(driver_of, family) -> None:
    machine, driver = await driver_of(family)
    since = len(asked(machine))
    await driver.restore_point()
    assert questions(machine, since) == ASKED[family]
    assert (await driver.sleep()).said is Said.OK
    assert questions(machine, since) == ASKED[family]
    assert len(sent(machine)) == 1


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_was_found_serves_one_command_only(driver_of, family) -> None:
    machine, driver = await driver_of(family)
    await driver.restore_point()
    await driver.sleep()
    since = len(asked(machine))
    await driver.sleep()
    assert questions(machine, since)[0] == ASKED[family][0]


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_was_found_long_before_a_command_is_found_out_again(
    driver_of, monkeypatch, family
) -> None:
    machine, driver = await driver_of(family)
    monkeypatch.setattr(commands, "PREPARED_FOR_S", 0.0)
    await driver.restore_point()
    machine.mac = "02:00:00:00:00:99"
    with pytest.raises(WrongMachine):
        await driver.sleep()
    assert sent(machine) == []


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_restore_point_that_cannot_be_read_takes_back_the_one_before(site, driver_of, family) -> None:
    machine, driver = await driver_of(family)
    await driver.restore_point()
    site.set_fault(machine.address, Fault.GARBAGE)
    with pytest.raises(BadAnswer):
        await driver.restore_point()
    with pytest.raises(BadAnswer):
        await driver.sleep()
    assert sent(machine) == []


async def test_what_is_posted_was_read_last_and_not_while_another_command_was_under_way(
    site, antminer, posted
) -> None:
    machine, driver = antminer
    site.set_fault(machine.address, Fault.SLOW_WRITE, seconds=0.2)
    setting = asyncio.create_task(driver.set_power_mode(PowerMode.LOW))
    await asyncio.sleep(0)
    point = await driver.restore_point()
    assert setting.done()
    await setting
    assert len(posted) == 1
    assert point.power_mode is PowerMode.LOW


# -- power modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "mode"), MODES, ids=str)
async def test_every_mode_of_its_capabilities_can_be_set(site, clock, driver_of, family, mode) -> None:
    machine, driver = await driver_of(family, mode)
    assert mode in driver.capabilities.power_modes
    before = kept(machine)[:-1]
    assert (await driver.read()).power_mode is PowerMode.NORMAL
    assert (await driver.set_power_mode(mode)).said is Said.OK
    clock.pass_hours(1)
    truth = machine.truth()
    assert (truth.run_state, truth.power_mode) == (RunState.MINING, mode)
    assert (await driver.read()).power_mode is mode
    assert kept(machine)[:-1] == before


async def test_what_is_no_mode_of_the_machine_is_said_before_anything_is_sent(antminer) -> None:
    machine, driver = antminer
    before = asked(machine)
    with pytest.raises(Unsupported, match="high"):
        await driver.set_power_mode(PowerMode.HIGH)
    assert (asked(machine), sent(machine)) == (before, [])


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_mode_is_not_set_on_a_machine_that_sleeps(clock, driver_of, family) -> None:
    machine, driver = await driver_of(family)
    await driver.sleep()
    clock.pass_hours(1)
    with pytest.raises(CommandRefused, match="sleeps"):
        await driver.set_power_mode(PowerMode.LOW)
    assert len(sent(machine)) == 1
    assert machine.truth().run_state is RunState.ASLEEP


async def test_the_mode_of_a_sleeping_antminer_is_gone_a_whatsminer_s_is_not(clock, driver_of) -> None:
    for family in FAMILIES:
        machine, driver = await driver_of(family)
        machine.plant.mode = PowerMode.LOW
        await driver.sleep()
        clock.pass_hours(1)
        if family is Family.ANTMINER:
            with pytest.raises(CommandRefused, match="sleeps already"):
                await driver.restore_point()
        else:
            assert (await driver.restore_point()).power_mode is PowerMode.LOW


# -- stock Antminer: the configuration ---------------------------------------------------------------------


@pytest.fixture
def posted(monkeypatch) -> list[dict[str, Any]]:
    """What is posted as configuration."""
    bodies: list[dict[str, Any]] = []
    accept = antminer_web._WRITES["set_miner_conf"]

    def spy(machine, request):
        bodies.append(json.loads(request.body))
        return accept(machine, request)

    monkeypatch.setitem(antminer_web._WRITES, "set_miner_conf", spy)
    return bodies


@pytest.fixture
def configured(monkeypatch) -> Callable[..., None]:
    """Changes what `get_miner_conf` answers; None takes a key out."""
    tell = antminer_web._READS["get_miner_conf"]

    def change(**changes: Any) -> None:
        def told(machine):
            answer = {
                **tell(machine),
                **{key.replace("_", "-"): value for key, value in changes.items()},
            }
            return {key: value for key, value in answer.items() if value is not None}

        monkeypatch.setitem(antminer_web._READS, "get_miner_conf", told)

    return change


async def test_everything_goes_back_as_it_was_but_the_mode(antminer, configured, posted) -> None:
    machine, driver = antminer
    configured(
        bitmain_fan_pwm=None, bitmain_fan_pwn="55", bitmain_freq_level="80", vendor_key={"a": [1, None]}
    )
    configuration = antminer_web._READS["get_miner_conf"](machine)
    await driver.sleep()
    modes = {"bitmain-work-mode": 1, "miner-mode": 1}
    assert posted == [{**configuration, **modes, "freq-level": "80"}]


async def test_modes_are_posted_as_texts_where_numbers_are_a_bad_request(site, antminer, posted) -> None:
    machine, driver = antminer
    site.set_fault(machine.address, Fault.WANTS_STRINGS)
    assert (await driver.sleep()).said is Said.OK
    assert [body["miner-mode"] for body in posted] == [1, "1"]
    assert posted[1] == {**posted[0], "miner-mode": "1", "bitmain-work-mode": "1"}


async def test_a_bad_request_in_both_spellings_is_a_refusal(antminer, monkeypatch) -> None:
    _, driver = antminer
    reply = antminer_web.WebReply(status=400, body=b"Bad Request", content_type="text/html", writes=True)
    monkeypatch.setitem(antminer_web._WRITES, "set_miner_conf", lambda *_: reply)
    with pytest.raises(CommandRefused, match="400"):
        await driver.sleep()


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"oops"), (200, b"<html>"), (200, b'{"stats":'), (302, b"")]
)
async def test_an_answer_that_says_nothing_is_no_refusal(antminer, monkeypatch, status, body) -> None:
    _, driver = antminer
    reply = antminer_web.WebReply(status=status, body=body, writes=True)
    monkeypatch.setitem(antminer_web._WRITES, "set_miner_conf", lambda *_: reply)
    assert (await driver.sleep()).said is Said.SILENT


POOL = {"url": "stratum+tcp://pool.example:3333", "user": "a", "pass": "x"}
UNFIT = {
    "no pools": {"pools": None},
    "an empty list": {"pools": []},
    "pools without address": {"pools": [{**POOL, "url": ""}, {**POOL, "url": " "}]},
    "pools are an object": {"pools": {"0": POOL}},
    "a pool that is no object": {"pools": [POOL, "x"]},
    "a pool without password": {"pools": [POOL, {"url": "", "user": ""}]},
    "a pool without user": {"pools": [{"url": "stratum+tcp://x", "user": None, "pass": ""}]},
    "no mode": {"bitmain_work_mode": None},
    "a mode that is none": {"bitmain_work_mode": "normal"},
    "one mode of two": {"miner_mode": ""},
    "a number that is none": {"bitmain_voltage": float("nan")},
}
ACTIONS: dict[str, Callable[[Driver], Any]] = {
    "sleep": lambda driver: driver.sleep(),
    "wake": lambda driver: driver.wake(RestorePoint(power_mode=PowerMode.LOW, settings={})),
    "mode": lambda driver: driver.set_power_mode(PowerMode.LOW),
    "restore point": lambda driver: driver.restore_point(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("flaw", UNFIT)
async def test_no_configuration_that_is_not_whole_is_ever_posted(antminer, configured, flaw, action) -> None:
    machine, driver = antminer
    configured(**UNFIT[flaw])
    before = kept(machine)
    with pytest.raises(BadAnswer):
        await ACTIONS[action](driver)
    assert (sent(machine), kept(machine)) == ([], before)


SPOILED = [
    Fault.CONFIG_READ_FAILS,
    Fault.HTML,
    Fault.GARBAGE,
    Fault.CUT_JSON,
    Fault.MISSING_COMMAS,
    Fault.NUL_BYTES,
    Fault.OVERSIZED,
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("fault", SPOILED)
async def test_no_configuration_that_came_spoiled_is_ever_posted(
    site, antminer, monkeypatch, fault, action
) -> None:
    """Only this page is spoiled: the machine still says who it is."""
    machine, driver = antminer
    site.set_fault(machine.address, fault)
    spoil = antminer_web.spoil
    monkeypatch.setattr(antminer_web, "spoil", lambda m, body: spoil(m, body) if b'"pools"' in body else body)
    before = kept(machine)
    with pytest.raises(BadAnswer):
        await ACTIONS[action](driver)
    assert asked(machine)[-1] == "web:get_miner_conf"
    assert (sent(machine), kept(machine)) == ([], before)


async def test_after_a_refused_login_the_web_interface_is_left_alone(site, antminer) -> None:
    """By commands and readings alike: the machine locks everybody out."""
    machine, driver = antminer
    site.set_fault(machine.address, Fault.WRONG_PASSWORD)
    with pytest.raises(AuthenticationFailed, match="check the credentials"):
        await driver.sleep()
    knocked = [c for c in machine.truth().commands if c.kind.startswith("web:")]
    for action in ACTIONS.values():
        with pytest.raises(AuthenticationFailed, match="not tried again"):
            await action(driver)
    assert (await driver.read()).power_mode is None
    assert [c for c in machine.truth().commands if c.kind.startswith("web:")] == knocked
    assert sent(machine) == []


async def test_a_password_that_changes_is_a_refused_login_too(site, antminer) -> None:
    """The login that worked is sent at once; the machine denies it, then locks the retry out."""
    machine, driver = antminer
    await driver.sleep()
    site.set_fault(machine.address, Fault.WRONG_PASSWORD)
    with pytest.raises(AuthenticationFailed):
        await driver.sleep()


async def test_a_login_that_is_denied_to_the_post_itself_proves_nothing(site, antminer) -> None:
    """401 and then nothing: the nonce may have been old, and the second post may have been taken."""
    machine, driver = antminer
    await driver.restore_point()
    site.set_fault(machine.address, Fault.WRONG_PASSWORD)
    assert (await driver.sleep()).said is Said.SILENT
    assert sent(machine) == []


async def test_a_restore_point_that_would_sleep_wakes_nothing(antminer) -> None:
    machine, driver = antminer
    for point in (
        RestorePoint(power_mode=None, settings={}),
        RestorePoint(power_mode=None, settings={"miner-mode": "1"}),
    ):
        with pytest.raises(CommandRefused, match="restore point"):
            await driver.wake(point)
    assert sent(machine) == []


@pytest.mark.parametrize("both", [("0", 0), ("3", 3), ("2", "2"), ("0", 3)])
async def test_each_mode_key_gets_its_own_number_back(driver_of, configured, posted, both) -> None:
    _, driver = await driver_of(Family.ANTMINER, PowerMode.HIGH_EFFICIENCY)
    configured(bitmain_work_mode=both[0], miner_mode=both[1])
    point = await driver.restore_point()
    await driver.wake(point)
    assert [posted[0]["bitmain-work-mode"], posted[0]["miner-mode"]] == [int(each) for each in both]


# -- Whatsminers: tokens, salts, passwords -----------------------------------------------------------------


async def test_a_token_is_used_again_and_replaced_once_it_is_refused(driver_of) -> None:
    machine, driver = await driver_of(V2)
    await driver.sleep()
    await driver.sleep()
    assert asked(machine).count("v2:get_token") == 1
    machine.tokens.clear()
    assert (await driver.sleep()).said is Said.OK
    assert asked(machine).count("v2:get_token") == 2
    assert [c.outcome for c in machine.truth().commands if c.writes] == ["done", "done", "code 135", "done"]


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (Fault.TOKEN_LIMIT, "no token is free"),
        (Fault.TOKEN_REJECTED, "takes no token"),
        (Fault.WRITES_CLOSED, "change the factory password once with the vendor's tool"),
    ],
)
async def test_a_refusal_says_what_to_do(site, driver_of, fault, remedy) -> None:
    machine, driver = await driver_of(V2)
    site.set_fault(machine.address, fault)
    with pytest.raises(CommandRefused, match=remedy):
        await driver.sleep()


@pytest.mark.parametrize("family", [V2, V3])
async def test_the_configured_password_opens_it_and_is_never_shown(
    site, driver_of, options, caplog, family
) -> None:
    """Nor the token or salt made from it, at any level of logging, nor in any message."""
    machine, driver = await driver_of(family)
    site.set_fault(machine.address, Fault.WRONG_PASSWORD, password="opensesame")
    with pytest.raises(AuthenticationFailed) as denied:
        await driver.sleep()
    account = "super" if family is V3 else "admin"
    known = replace(options, credentials={family: Credentials(username=account, password="opensesame")})
    driver = connect(driver.identity, driver.address, options=known)
    with caplog.at_level(logging.DEBUG):
        receipt = await driver.sleep()
        assert receipt.said is Said.OK
    secrets = ["opensesame", *machine.tokens, *([whatsminer_v3.salt(machine)] if family is V3 else [])]
    shown = " ".join([caplog.text, receipt.detail, str(denied.value)])
    assert [secret for secret in secrets if secret in shown] == []
    assert len(secrets) >= 2


async def test_a_command_signed_with_an_old_salt_is_signed_anew(driver_of, monkeypatch) -> None:
    machine, driver = await driver_of(V3)
    real = whatsminer_v3.salt
    told = iter(["outdated"])

    def device_info(asked_machine, param):
        answer = tell(asked_machine, param)
        return {**answer, "salt": next(told, real(asked_machine))}

    tell = whatsminer_v3._READS["get.device.info"]
    monkeypatch.setitem(whatsminer_v3._READS, "get.device.info", device_info)
    assert (await driver.sleep()).said is Said.OK
    assert [c.outcome for c in machine.truth().commands if c.writes] == ["code -4", "done"]


async def test_a_mode_that_is_not_taken_does_not_keep_a_machine_asleep(
    site, clock, driver_of, monkeypatch
) -> None:
    machine, driver = await driver_of(V3)
    await driver.sleep()
    clock.pass_hours(1)
    refused = lambda *_: (_ for _ in ()).throw(ValueError("no"))  # noqa: E731
    monkeypatch.setitem(whatsminer_v3._WRITES, "set.miner.power_mode", refused)
    receipt = await driver.wake(RestorePoint(power_mode=PowerMode.LOW, settings={}))
    assert (receipt.said, machine.plant.asleep) == (Said.OK, False)
    assert "did not take the mode low" in receipt.detail


# -- which machine, and when -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("action", ACTIONS)
async def test_a_stranger_at_the_address_is_sent_nothing(site, driver_of, family, action) -> None:
    machine, driver = await driver_of(family)
    other = next(m for m in site.machines if m.family is family and m is not machine)
    site.swap(machine.address, other.address)
    with pytest.raises(WrongMachine):
        await ACTIONS[action](driver)
    assert sent(machine) + sent(other) == []


@pytest.mark.parametrize("family", FAMILIES)
async def test_one_command_at_a_time_and_readings_meanwhile(site, driver_of, family) -> None:
    machine, driver = await driver_of(family)
    site.set_fault(machine.address, Fault.SLOW_WRITE, seconds=0.15)
    ended: list[str] = []

    async def command(name: str) -> None:
        assert isinstance(await driver.sleep(), Receipt)
        ended.append(f"{name} after {len(sent(machine))}")

    async with asyncio.TaskGroup() as group:
        group.create_task(command("first"))
        group.create_task(command("second"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.3):
            await driver.read()
    assert ended == ["first after 1", "second after 2"]


async def test_machines_that_cannot_be_commanded_say_so(options, network) -> None:
    old = Identity(
        family=Family.ANTMINER,
        make="Antminer",
        model="Antminer S17 Pro",
        firmware=None,
        mac="02:13:00:00:00:01",
        serial=None,
        driver_class="BMMinerS17Pro",
    )
    here = Address(host=f"{network}.250")
    machines = [
        (old, here, "S17 Pro cannot sleep"),
        (replace(old, model="Antminer S19"), replace(here, port=14028), "forwarded port"),
        (replace(old, family=Family.GENERIC, driver_class="BitAxeSupra"), here, "no way"),
        (replace(old, family=Family.GENERIC, driver_class="HiveonS19jPro"), here, "no way"),
    ]
    for identity, address, why in machines:
        driver = connect(identity, address, options=options)
        assert (driver.capabilities.can_sleep, driver.capabilities.power_modes) == (False, frozenset())
        for name, action in ACTIONS.items():
            with pytest.raises(Unsupported, match="mode" if name == "mode" else why):
                await action(driver)


@pytest.mark.parametrize("protocol", ["tcp", "http"])
@pytest.mark.parametrize(("peer", "left"), [(None, False), ("hang", True), ("reset", True)])
async def test_an_error_knows_whether_anything_was_sent(
    servers, peers, network, protocol, peer, left
) -> None:
    """Nothing is if nobody listens; after that, nobody knows what the machine made of it."""
    if peer:
        await servers.listen(f"{network}.9", 80, getattr(peers, peer))
    port = Endpoint(name="x", host=f"{network}.9", port=80, connect_s=0.2, call_s=0.2, max_bytes=1000)
    with pytest.raises(DriverError) as raised:
        await (ask_cgminer(port, {"command": "x"}) if protocol == "tcp" else fetch(port, "/", post={"a": 1}))
    assert raised.value.sent is left
