"""Machines that are stopped over SSH, against a real SSH server on loopback that plays one."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms
from agent.config import parse
from agent.fleet import Machine
from agent.host_keys import HostKeyFile
from agent.orders import OrderAction, OrderState
from agent.rehearsal import MovablePrice
from agent.service import Agent
from agent.store import Reader, Store
from drivers import antminer, generic_control, ssh
from drivers.connect import connect
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Credentials,
    HostKeyChanged,
    Incomplete,
    Malformed,
    NoAnswer,
    Oversized,
    ReadOptions,
    Refused,
    Said,
    Unreachable,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity, PowerMode, RunState
from drivers.ssh import process

MAC = "02:13:AB:00:00:09"
IDENTITY = Identity(
    family=Family.ANTMINER,
    make="Antminer",
    model="Antminer S9",
    firmware=None,
    mac=MAC,
    serial=None,
    driver_class="BMMinerS9",
)
PASSWORD = "canary-shell-4d4"
NOW = datetime(2026, 2, 1, tzinfo=UTC)


@dataclass
class Shell:
    """A machine as its shell shows it. `commands` is what changed something, `logins` who tried to log in."""

    mac: str = MAC
    scripts: tuple[str, ...] = ("bmminer.sh", "network", "rcS")
    runs: bool = True
    obeys: bool = True
    hangs: bool = False
    floods: bool = False
    garbage: bool = False
    cuts: bool = False
    status: int = 0
    commands: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    server_options: dict = field(default_factory=dict)

    async def run(self, session: asyncssh.SSHServerProcess) -> None:
        command = session.command or ""
        if self.floods:
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                for _ in range(1000):
                    session.stdout.write("x" * 65536)
                    await session.stdout.drain()
        elif self.hangs and command.startswith("/etc"):
            self.commands.append(command)
            await asyncio.sleep(60)
        elif command.startswith("/etc/init.d/"):
            self.commands.append(command)
            if self.obeys:
                self.runs = command.endswith("start")
            session.stdout.write("Stopping bmminer\n")
        elif self.garbage:
            session.stdout.write("BusyBox v1.22.1\nsh: syntax error\n")
        else:
            session.stdout.write(self.answer())
        session.exit(self.status if command.startswith("/etc") else 0)

    def answer(self) -> str:
        mark = f"{ssh._MARK}\n"
        pids = "412\n" if self.runs else ""
        return f"{self.mac.lower()}\n{mark}" + "\n".join(self.scripts) + f"\n{mark}{pids}{mark}"


class CutSession(asyncssh.SSHServerSession):
    """Does what it is told, and hangs up before it says that it will."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def connection_made(self, chan: asyncssh.SSHServerChannel) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        if command.startswith("/etc"):
            self._shell.commands.append(command)
            self._shell.runs = command.endswith("start")
            self._channel.get_connection().abort()
        return True

    def session_started(self) -> None:
        if not self._shell.commands:
            self._channel.write(self._shell.answer())
            self._channel.exit(0)


class Login(asyncssh.SSHServer):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self._shell.logins.append(password)
        return (username, password) == ("root", PASSWORD)

    def session_requested(self) -> CutSession:
        return CutSession(self._shell)


@contextlib.asynccontextmanager
async def serving(shell: Shell, host: str, key: asyncssh.SSHKey):
    server = await asyncssh.create_server(
        lambda: Login(shell),
        host,
        ssh.PORT,
        server_host_keys=[key],
        process_factory=None if shell.cuts else shell.run,
        **shell.server_options,
    )
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-rsa", key_size=2048)


@pytest.fixture
def host(network, monkeypatch) -> str:
    monkeypatch.setattr(ssh, "PORT", 22_022)  # 22 is root's alone
    return f"{network}.9"


@pytest.fixture
def keys(tmp_path) -> HostKeyFile:
    return HostKeyFile(tmp_path / "host_keys")


@pytest.fixture
def options(keys) -> ReadOptions:
    login = Credentials(username="root", password=PASSWORD)
    return ReadOptions(
        deadline_s=3.0, connect_s=2.0, call_s=3.0, write_s=3.0, credentials={"ssh": login}, host_keys=keys
    )


def driver(host, options, identity=IDENTITY):
    return connect(identity, Address(host=host), options=options)


# -- sleep and wake ---------------------------------------------------------------------------------------


async def test_a_machine_whose_api_cannot_sleep_is_stopped_read_as_asleep_and_started(host, key, options):
    shell = Shell()
    machine = driver(host, options)
    assert machine.capabilities.can_sleep
    assert machine.capabilities.power_modes == frozenset()
    async with serving(shell, host, key):
        with pytest.raises(Refused):  # it mines, by its shell, and its API is not there: no reading, no sleep
            await machine.read()
        point = await machine.restore_point()
        receipt = await machine.sleep()
        assert receipt.said is Said.OK
        assert shell.commands == ["/etc/init.d/bmminer.sh stop"]
        reading = await machine.read()
        assert (reading.run_state, reading.hashrate_ths, reading.power_w) == (RunState.ASLEEP, 0.0, None)
        with pytest.raises(CommandRefused):
            await machine.restore_point()
        assert (await machine.wake(point)).said is Said.OK
        assert shell.commands[1:] == ["/etc/init.d/bmminer.sh start"]
        with pytest.raises(Refused):
            await machine.read()
        with pytest.raises(Unsupported):
            await machine.set_power_mode(PowerMode.LOW)


async def test_a_machine_that_says_ok_and_goes_on_is_not_read_as_asleep(host, key, options):
    shell = Shell(obeys=False)
    async with serving(shell, host, key):
        machine = driver(host, options)
        assert (await machine.sleep()).said is Said.OK
        with pytest.raises(Refused):
            await machine.read()


async def test_a_machine_that_mines_is_read_as_ever(host, key, options, servers):
    """Its API answers, and its shell is not asked."""
    shell = Shell()
    recorded = await servers.machine("antminer/s19j-pro", host, closed=(80,))
    identity = replace(IDENTITY, mac=None, model="Antminer S17 Pro")
    async with serving(shell, host, key):
        reading = await driver(host, options, identity).read()
    assert reading.run_state is RunState.MINING
    assert shell.logins == []
    assert "stats" in recorded.asked


@pytest.mark.parametrize("script", ["cgminer.sh", "cgminer", "bmminer"])
async def test_the_script_is_the_one_that_the_machine_has(host, key, options, script):
    shell = Shell(scripts=("urandom", script))
    async with serving(shell, host, key):
        await driver(host, options).sleep()
    assert shell.commands == [f"/etc/init.d/{script} stop"]


async def test_a_machine_without_a_script_is_told_nothing(host, key, options):
    shell = Shell(scripts=("network",))
    async with serving(shell, host, key):
        with pytest.raises(Unsupported, match="bmminer"):
            await driver(host, options).sleep()
    assert shell.commands == []


@pytest.mark.parametrize("trouble", [{"hangs": True}, {"status": 1}, {"cuts": True}])
async def test_no_clear_answer_to_the_command_is_silent(host, key, options, trouble):
    shell = Shell(**trouble)
    async with serving(shell, host, key):
        receipt = await driver(host, options).sleep()
    assert receipt.said is Said.SILENT
    assert len(shell.commands) == 1


# -- who answers ------------------------------------------------------------------------------------------


async def test_the_host_key_is_pinned_at_first_and_another_one_is_refused_before_the_password(
    host, key, options, keys
):
    shell = Shell()
    async with serving(shell, host, key):
        await driver(host, options).restore_point()
    assert keys.known(MAC).startswith("ssh-rsa ")
    asked = len(shell.logins)
    async with serving(shell, host, key):
        await driver(host, options).restore_point()
    assert len(shell.logins) == asked + 1
    other = asyncssh.generate_private_key("ssh-ed25519")
    for action in ("restore_point", "sleep"):
        async with serving(shell, host, other):
            with pytest.raises(HostKeyChanged, match="was not given the password") as caught:
                await getattr(driver(host, options), action)()
        assert not caught.value.sent
    assert len(shell.logins) == asked + 1
    assert shell.commands == []


async def test_a_stranger_is_sent_no_command_and_its_key_is_not_pinned(host, key, options, keys):
    shell = Shell(mac="02:13:AB:FF:FF:FF")
    async with serving(shell, host, key):
        with pytest.raises(WrongMachine):
            await driver(host, options).sleep()
        with pytest.raises(WrongMachine):
            await driver(host, options).read()
    assert shell.commands == []
    assert keys.known(MAC) is None


async def test_a_machine_of_which_no_mac_is_known_is_sent_nothing(host, key, options):
    shell = Shell()
    async with serving(shell, host, key):
        with pytest.raises(Incomplete):
            await driver(host, options, replace(IDENTITY, mac=None)).sleep()
    assert shell.commands == []


async def test_a_key_that_cannot_be_kept_stops_everything(host, key, options, tmp_path):
    (tmp_path / "host_keys").mkdir()
    shell = Shell()
    async with serving(shell, host, key):
        with pytest.raises(Unsupported, match="host keys"):
            await driver(host, options).sleep()
    assert shell.commands == []


async def test_a_wrong_password_is_told_and_not_shown(host, key, options):
    wrong = replace(options, credentials={"ssh": Credentials(username="root", password="canary-wrong")})
    async with serving(Shell(), host, key):
        with pytest.raises(AuthenticationFailed, match=r"credentials\.ssh") as caught:
            await driver(host, wrong).sleep()
    assert "canary" not in str(caught.value)


# -- what answers -----------------------------------------------------------------------------------------


async def test_nobody_there(host, options, leftovers):
    with leftovers(within_s=3.0), pytest.raises(Refused):
        await driver(host, options).sleep()


async def test_a_server_that_says_nothing_is_left_in_time(host, options, servers, peers, leftovers):
    await servers.listen(host, ssh.PORT, peers.hang)
    with leftovers(within_s=3.0), pytest.raises((NoAnswer, Malformed)):
        await driver(host, replace(options, connect_s=1.0, write_s=1.0)).sleep()


@pytest.mark.parametrize(
    "body", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 5000, b"SSH-2.0-x\r\n" + b"\xff" * 5000]
)
async def test_what_is_no_ssh_is_a_named_failure(host, options, servers, peers, body):
    await servers.listen(host, ssh.PORT, peers.says(body))
    with pytest.raises((Malformed, Unreachable)) as caught:
        await driver(host, replace(options, write_s=1.5)).sleep()
    assert not caught.value.sent


async def test_a_shell_that_never_ends_is_cut_off(host, key, options):
    async with serving(Shell(floods=True), host, key):
        with pytest.raises(Oversized):
            await driver(host, options).restore_point()


async def test_a_shell_that_is_no_miner_s_is_malformed(host, key, options):
    async with serving(Shell(garbage=True), host, key):
        with pytest.raises(Malformed):
            await driver(host, options).sleep()


@pytest.mark.filterwarnings(
    "ignore:Diffie-Hellman over finite fields"
)  # what these machines speak is going out
async def test_the_ciphers_of_old_machines_are_spoken(host, key, options):
    old = {
        "kex_algs": ["diffie-hellman-group1-sha1"],
        "encryption_algs": ["3des-cbc"],
        "mac_algs": ["hmac-sha1"],
    }
    shell = Shell(server_options=old)
    async with serving(shell, host, key):
        assert (await driver(host, options).sleep()).said is Said.OK


# -- as the agent does it ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def whole_machine(shell, recorded, host, key):
    """Its API is there for as long as its mining process runs."""
    api: list[asyncio.Server] = []

    async def follow() -> None:
        while True:
            if shell.runs and not api:
                api.append(await asyncio.start_server(answer, host, 4028))
            if not shell.runs and api:
                api.pop().close()
            await asyncio.sleep(0.01)

    async def answer(reader, writer) -> None:
        recorded.ports()[4028](await reader.read(65536), writer.transport)

    async with serving(shell, host, key):
        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            for server in api:
                server.close()


async def test_an_order_over_ssh_is_carried_out_and_verified_like_any_other(
    host, key, tmp_path, monkeypatch, servers
):
    monkeypatch.setattr(
        antminer, "_WITHOUT_SLEEP", ("S19J",)
    )  # the machine of the corpus, as if it were older
    monkeypatch.setenv("SHELL_PASSWORD", PASSWORD)
    recorded = await servers.machine("antminer/s19j-pro", host, closed=(80, 4028))
    identity = replace(IDENTITY, model="Antminer S19j Pro", driver_class="BMMinerS19jPro")
    database = tmp_path / "h.db"
    with Store(database) as store:
        store.save_machines(
            [Machine(machine_id=MAC, identity=identity, address=Address(host=host), first_seen_at=NOW)],
            Terms(),
        )
    config = parse(
        """
        poll.interval_s = 3.0
        poll.deadline_s = 3.0
        curtailment = {mode = "auto", switching_cost_usd = 0.0, min_on_s = 0.0, min_off_s = 0.0}
        credentials.ssh = {username = "root", password_env = "SHELL_PASSWORD"}
        """,
        source="test",
    )
    shell, price = Shell(), MovablePrice(0.5)
    async with whole_machine(shell, recorded, host, key), Agent(config, database, power=price) as agent:
        await polled(agent, agent.reconciler.standing)
        assert shell.commands == ["/etc/init.d/bmminer.sh stop"]
        assert agent.fleet[MAC].reading.run_state is RunState.ASLEEP
        price.price_usd_per_kwh = 0.01
        await polled(agent, lambda: shell.runs and not agent.reconciler.standing())
    assert shell.commands == ["/etc/init.d/bmminer.sh stop", "/etc/init.d/bmminer.sh start"]
    with Reader(database) as reader:
        orders = {order.action: order.state for order in reader.orders()}
    assert orders == {OrderAction.SLEEP: OrderState.RELEASED, OrderAction.WAKE: OrderState.CONFIRMED}
    assert HostKeyFile(tmp_path / "host_keys").known(MAC) is not None
    assert PASSWORD.encode() not in database.read_bytes()


async def polled(agent, until) -> None:
    for _ in range(60):
        await agent.poll_once()
        if until():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(agent.reconciler.all())


# -- Braiins OS before gRPC -------------------------------------------------------------------------------

BRAIINS = replace(
    IDENTITY, family=Family.GENERIC, make="AntMiner", model="Antminer S9", driver_class="BOSMinerS9"
)


async def test_old_braiins_is_stopped_read_as_asleep_and_started(host, key, options):
    shell = Shell(scripts=("bosminer", "cgminer", "network"))
    async with serving(shell, host, key):
        machine = driver(host, options, BRAIINS)
        assert machine.capabilities.can_sleep
        point = await machine.restore_point()
        assert (await machine.sleep()).said is Said.OK
        stopped = await machine.read()
        assert (stopped.run_state, stopped.hashrate_ths) == (RunState.ASLEEP, 0.0)
        assert (await machine.wake(point)).said is Said.OK
        with pytest.raises(Refused):  # its process runs, and its API does not answer yet
            await machine.read()
    assert shell.commands == ["/etc/init.d/bosminer stop", "/etc/init.d/bosminer start"]


async def test_old_braiins_that_goes_on_is_not_read_as_asleep(host, key, options):
    shell = Shell(scripts=("bosminer",), obeys=False)
    async with serving(shell, host, key):
        machine = driver(host, options, BRAIINS)
        assert (await machine.sleep()).said is Said.OK
        with pytest.raises(Refused):
            await machine.read()


def test_without_a_login_for_its_shell_old_braiins_is_commanded_over_its_api(host, options):
    machine = driver(host, replace(options, credentials={}), BRAIINS)
    assert isinstance(machine._control, generic_control.OldBraiins)
    newer = driver(host, options, replace(BRAIINS, driver_class="BOSMinerS19", model="Antminer S19"))
    assert newer._shell is None


# -- when it is not done ----------------------------------------------------------------------------------


def test_without_a_login_or_a_place_for_keys_such_a_machine_can_only_be_read(host, options):
    for changed in ({"credentials": {}}, {"host_keys": None}):
        assert not driver(host, replace(options, **changed)).capabilities.can_sleep
    forwarded = connect(IDENTITY, Address(host=host, port=4028), options=options)
    assert not forwarded.capabilities.can_sleep


def test_a_machine_that_sleeps_over_its_api_is_not_asked_for_its_shell(host, options):
    machine = driver(host, options, replace(IDENTITY, model="Antminer S19"))
    assert machine._shell is None


def test_host_keys_come_back_and_a_line_that_is_taken_out_is_forgotten(tmp_path):
    file = HostKeyFile(tmp_path / "host_keys")
    assert file.known(MAC) is None
    file.pin(MAC, "ssh-rsa AAAA")
    file.pin("02:13:AB:00:00:0A", "ssh-rsa BBBB")
    assert file.known(MAC) == "ssh-rsa AAAA"
    lines = (tmp_path / "host_keys").read_text().splitlines()
    (tmp_path / "host_keys").write_text(lines[1] + "\n")
    assert file.known(MAC) is None
    assert (tmp_path / "host_keys").stat().st_mode & 0o007 == 0


@given(st.text())
def test_whatever_a_shell_prints_is_a_process_or_none(output):
    found = process(output)
    assert found is None or found.script in {None, *ssh.SCRIPTS}
