"""The terminal over SSH on loopback: by asyncssh's own client, and by OpenSSH's where there is one."""

import asyncio
import fcntl
import logging
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from agent.ssh import pseudo_terminal
from agent.ssh.host_key import HostKeyError, host_key
from agent.ssh.people import PeopleError, load_people
from agent.ssh.server import ListenError, SshOptions, TerminalServer, program_of
from tests.agent.builders import eventually, machine, reading, stored_site
from tests.agent.processes import CLI, child_environment, hashcost

DEADLINE_S = 60.0

STAND_IN = """
import os, signal, sys, time, tty
def told(*_):
    size = os.get_terminal_size(0)
    os.write(1, f"[{size.columns}x{size.lines}]".encode())
tty.setraw(0)
signal.signal(signal.SIGWINCH, told)
os.write(1, f"pid={os.getpid()} term={os.environ['TERM']} ".encode())
told()
while True:
    try:
        keys = os.read(0, 1)
    except OSError:
        keys = b""
    if keys == b"e":
        os.write(1, repr(sorted(os.environ)).encode())
    if keys in (b"", b"q"):
        os.write(1, b"bye")
        sys.exit(0 if keys else 129)
    os.write(1, b"<" + keys + b">")
"""
"""A program on a terminal that says what it is told; the real one takes seconds to start."""
STUBBORN = """
import os, signal, time, tty
tty.setraw(0)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.write(1, f"pid={os.getpid()} ".encode())
time.sleep(600)
"""
TALKATIVE = (
    "import os, tty; tty.setraw(0); [os.write(1, b'x' * 1000) for _ in range(1000)]; os.write(1, b'the end')"
)


def key(name):
    return asyncssh.generate_private_key("ssh-ed25519", comment=name)


def line(private, name):
    kind, data, *_ = private.export_public_key().decode().split()
    return f"{kind} {data} {name}\n"


@dataclass
class Place:
    """A served terminal: where, and for whom."""

    server: TerminalServer
    options: SshOptions
    anna: asyncssh.SSHKey

    @asynccontextmanager
    async def connection(self, private=None, **options):
        chosen = {"client_keys": [private or self.anna], "username": "whoever"} | options
        connection = await asyncssh.connect(
            "127.0.0.1", self.server.port, known_hosts=None, config=None, agent_path=None, **chosen
        )
        try:
            yield connection
        finally:
            connection.abort()
            await connection.wait_closed()

    @asynccontextmanager
    async def terminal(self, term="xterm-256color", size=(80, 24), **options):
        async with self.connection(**options) as connection:
            process = await connection.create_process(term_type=term, term_size=size, encoding=None)
            yield process


@pytest.fixture
def anna():
    return key("anna")


@pytest.fixture
def options(tmp_path, anna):
    keys = tmp_path / "people"
    keys.write_text("# the night shift\n\n" + line(anna, "anna"))
    return SshOptions(
        host="127.0.0.1",
        port=0,
        keys=keys,
        host_key=tmp_path / "host_key",
        sessions=2,
        program=[sys.executable, "-c", STAND_IN],
    )


@asynccontextmanager
async def served(options, anna):
    server = TerminalServer(options)
    task = asyncio.ensure_future(server.run())
    ready = asyncio.ensure_future(server.ready.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        task.result()
    try:
        yield Place(server, options, anna)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def place(options, anna):
    async with served(options, anna) as found:
        yield found


async def until(process, *words):
    """What it shows until all the words are there."""
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        while not all(word.encode() in seen for word in words):
            more = await process.stdout.read(65536)
            assert more, seen
            seen += more
    return seen.decode()


async def pid_of(process):
    return int(re.search(r"pid=(\d+) ", await until(process, "pid=", " "))[1])


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- who comes in ---------------------------------------------------------------------------------------


async def test_a_person_types_and_sees(place):
    async with place.terminal(size=(101, 31)) as process:
        shown = await until(process, "[101x31]")
        assert "term=xterm-256color" in shown
        process.stdin.write(b"k")
        await until(process, "<k>")


async def test_the_size_follows_the_window(place):
    async with place.terminal() as process:
        await until(process, "[80x24]")
        process.change_terminal_size(132, 43)
        await until(process, "[132x43]")


async def test_quitting_ends_the_session_with_its_status_and_its_last_words(place):
    async with place.terminal() as process:
        await until(process, "[80x24]")
        process.stdin.write(b"q")
        assert "bye" in await until(process, "bye")
        assert (await process.wait()).exit_status == 0


async def test_all_of_a_long_drawing_arrives(place, options, anna):
    talkative = SshOptions(**{**_as_dict(options), "program": [sys.executable, "-c", TALKATIVE]})
    async with served(talkative, anna) as other, other.terminal() as process:
        seen = await process.stdout.read()
        assert (len(seen), seen[-7:]) == (1_000_007, b"the end")


def _as_dict(options):
    return {name: getattr(options, name) for name in SshOptions.__slots__}


async def test_a_password_is_no_way_in(place):
    for secret in ({"password": "hashcost"}, {"password": ""}):
        with pytest.raises(asyncssh.PermissionDenied):
            async with place.connection(client_keys=None, **secret):
                pass
    methods = await asyncssh.get_server_auth_methods("127.0.0.1", place.server.port, "anna", config=None)
    assert methods == ["publickey"]


async def test_an_unknown_key_is_no_way_in_and_is_told(place, told):
    eve = key("anna")
    with pytest.raises(asyncssh.PermissionDenied):
        async with place.connection(eve):
            pass
    await eventually(lambda: any("event=ssh_refused" in each for each in told()))
    (refused,) = [each for each in told() if "event=ssh_refused" in each]
    assert eve.get_fingerprint() in refused
    assert "user='whoever'" in refused


async def test_a_known_key_without_its_secret_half_is_no_way_in(place, anna, told, monkeypatch):
    (shown,), (signing,) = asyncssh.load_keypairs([anna]), asyncssh.load_keypairs([key("eve")])
    monkeypatch.setattr(shown, "sign", signing.sign)
    with pytest.raises(asyncssh.PermissionDenied):
        async with place.connection(shown):
            pass
    await eventually(lambda: any("event=ssh_refused" in each for each in told()))
    assert not any("session" in each for each in told())


async def test_who_came_and_left_is_told_by_name_and_key(place, anna, told):
    async with place.terminal() as process:
        await until(process, "[80x24]")
    await eventually(lambda: any("ssh_session_closed" in each for each in told()))
    opened, closed = [each for each in told() if "session" in each]
    for each in (opened, closed):
        assert f"person='anna' key={anna.get_fingerprint()} address=127.0.0.1" in each
    assert "seconds=" in closed


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hashcost"), "propagate", True)
    caplog.set_level("INFO", logger="hashcost")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "hashcost"]


async def test_a_key_that_is_taken_out_of_the_file_is_out_at_once_and_one_that_is_added_in(place, options):
    ben = key("ben")
    options.keys.write_text(line(ben, "ben"))
    with pytest.raises(asyncssh.PermissionDenied):
        async with place.connection():
            pass
    async with place.terminal(private=ben) as process:
        await until(process, "[80x24]")


async def test_a_file_of_keys_that_is_broken_lets_nobody_in_and_says_so(place, options, told):
    options.keys.write_text(options.keys.read_text() + "nonsense\n")
    with pytest.raises(asyncssh.PermissionDenied):
        async with place.connection():
            pass
    assert any("event=ssh_keys_refused" in each and "line 4" in each for each in told())


# -- what they may do -----------------------------------------------------------------------------------


async def test_commands_are_refused_in_words(place):
    async with place.connection() as connection:
        ran = await connection.run("cat /etc/passwd", encoding="utf-8")
        assert (ran.exit_status, ran.stdout) == (2, "")
        assert "no commands here, only the terminal" in ran.stderr
        ran = await connection.run("hashcost restore all --yes", term_type="xterm", encoding="utf-8")
        assert (ran.exit_status, "only the terminal" in ran.stderr + ran.stdout) == (2, True)


async def test_a_session_without_a_terminal_is_refused_in_words(place):
    async with place.connection() as connection:
        process = await connection.create_process(encoding="utf-8")
        done = await process.wait()
        assert (done.exit_status, done.stdout) == (2, "")
        assert "needs a terminal" in done.stderr


async def test_files_and_forwarding_are_refused(place):
    async with place.connection() as connection:
        with pytest.raises((asyncssh.Error, asyncssh.ChannelListenError)):
            await connection.start_sftp_client()
        with pytest.raises((asyncssh.Error, asyncssh.ChannelListenError)):
            await connection.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", place.server.port)
        with pytest.raises((asyncssh.Error, asyncssh.ChannelListenError)):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)
        with pytest.raises((asyncssh.Error, asyncssh.ChannelListenError)):
            await connection.open_unix_connection("/run/hashcost/agent.sock")


async def test_the_program_is_told_nothing_of_this_process_and_little_of_the_client(place, monkeypatch):
    monkeypatch.setenv("HASHCOST_DATABASE", "/elsewhere")
    monkeypatch.setenv("LUXOR_KEY", "canary")
    async with place.connection() as connection:
        process = await connection.create_process(
            term_type="x\x1b]0;evil\x07",
            term_size=(80, 24),
            encoding=None,
            env={"NO_COLOR": "1", "PYTHONSTARTUP": "/tmp/evil.py", "COLORTERM": "\x1b[31m"},
        )
        assert "term=xterm " in await until(process, "[80x24]")
        process.stdin.write(b"e")
        names = set(re.findall(r"'(\w+)'", await until(process, "]")))
    assert {"TERM", "LANG", "NO_COLOR", "PATH"} <= names
    assert not names & {"HASHCOST_DATABASE", "LUXOR_KEY", "PYTHONSTARTUP", "COLORTERM"}


@pytest.mark.parametrize(("size", "shown"), [((0, 0), "[80x24]"), ((10**6, 10**6), "[1000x500]")])
async def test_a_size_that_no_screen_has_is_not_taken(place, size, shown):
    async with place.terminal(size=size) as process:
        await until(process, shown)


async def test_no_more_terminals_than_allowed(place, told):
    async with place.terminal() as first, place.terminal() as second:
        await until(first, "[80x24]")
        await until(second, "[80x24]")
        with pytest.raises(asyncssh.ChannelOpenError):
            async with place.terminal():
                pass
        first.stdin.write(b"q")
        await first.wait()
        first.close()
        await first.wait_closed()
        async with place.terminal() as third:
            await until(third, "[80x24]")
    assert any("event=ssh_too_many_sessions person='anna'" in each for each in told())


async def test_strangers_who_only_connect_do_not_fill_the_house(place, told):
    strangers = []
    try:
        for _ in range(place.options.sessions + 30):
            strangers.append(await asyncio.open_connection("127.0.0.1", place.server.port))  # noqa: PERF401
        await eventually(lambda: any("ssh_too_many_connections" in each for each in told()))
    finally:
        for _, writer in strangers:
            writer.close()
    await eventually(lambda: sum("ssh_refused" in each for each in told()) >= place.options.sessions + 30)
    async with place.terminal() as process:
        await until(process, "[80x24]")


async def test_who_types_faster_than_the_program_reads_has_to_wait(options, anna):
    stubborn = SshOptions(**{**_as_dict(options), "program": [sys.executable, "-c", STUBBORN]})
    async with served(stubborn, anna) as other, other.terminal() as process:
        await pid_of(process)
        process.stdin.write(b"k" * 8_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await process.stdin.drain()


# -- how it ends ----------------------------------------------------------------------------------------


async def test_a_dropped_connection_ends_the_program(place):
    async with place.terminal() as process:
        pid = await pid_of(process)
        assert lives(pid)
    await eventually(lambda: not lives(pid))


async def test_a_program_that_does_not_heed_the_hangup_is_killed(options, anna, monkeypatch):
    monkeypatch.setattr(pseudo_terminal, "LEAVES_WITHIN_S", 0.2)
    stubborn = SshOptions(**{**_as_dict(options), "program": [sys.executable, "-c", STUBBORN]})
    async with served(stubborn, anna) as other:
        async with other.terminal() as process:
            pid = await pid_of(process)
        await eventually(lambda: not lives(pid))


async def test_a_server_that_stops_takes_its_terminals_along(options, anna):
    async with served(options, anna) as other:
        connection = await asyncssh.connect(
            "127.0.0.1", other.server.port, known_hosts=None, config=None, client_keys=[anna], username="a"
        )
        process = await connection.create_process(term_type="xterm", encoding=None)
        pid = await pid_of(process)
    assert not lives(pid)
    await connection.wait_closed()


async def test_a_program_that_cannot_be_started_ends_that_session_only(options, anna, told):
    missing = SshOptions(**{**_as_dict(options), "program": ["/nowhere/python"]})
    async with served(missing, anna) as other:
        for _ in range(2):
            async with other.terminal() as process:
                assert (await process.wait()).exit_status == 1
    assert sum("event=ssh_session_failed" in each for each in told()) == 2


async def test_an_address_that_is_taken_is_told(place, options):
    taken = SshOptions(**{**_as_dict(options), "port": place.server.port})
    with pytest.raises(ListenError, match=rf"127.0.0.1:{place.server.port}: cannot listen there"):
        await TerminalServer(taken).run()


# -- the real terminal ----------------------------------------------------------------------------------


@pytest.fixture
def real(options, tmp_path):
    database = tmp_path / "hashcost.db"
    stored_site(database, machine(1, reading()))
    return SshOptions(
        **{**_as_dict(options), "program": program_of(database, database.with_name("agent.sock"))}
    )


async def test_the_fleet_is_shown_follows_the_window_and_q_quits(real, anna, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", child_environment()["PYTHONPATH"])
    async with served(real, anna) as other, other.terminal(size=(100, 30)) as process:
        await until(process, "10.0.0.1")
        process.change_terminal_size(60, 20)
        await until(process, "\x1b[20;")
        process.stdin.write(b"q")
        await process.stdout.read()
        assert (await process.wait()).exit_status == 0


def test_the_agent_knows_nothing_of_it():
    code = (
        "import sys, agent.service, agent.daemon; "
        "sys.exit([name for name in sys.modules if name.startswith('agent.ssh')] != [])"
    )
    subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True, timeout=60)


# -- keys -----------------------------------------------------------------------------------------------


def test_people_have_names_with_blanks_and_fingerprints(tmp_path, anna):
    path = tmp_path / "people"
    path.write_text(line(anna, "anna of the night shift"))
    (person,) = load_people(path).values()
    assert (person.name, person.fingerprint) == ("anna of the night shift", anna.get_fingerprint())


def test_every_line_that_is_wrong_is_told(tmp_path, anna):
    path = tmp_path / "people"
    kind, data, _ = line(anna, "anna").split()
    path.write_text(
        f"{kind} {data}\nssh-ed25519 AAAA ben\n{kind} {data} anna\n\n# {kind}\n"
        f'command="sh" {kind} {data} carl\n{kind} {data} dora\n{kind} {data} e\x1bve\n'
    )
    with pytest.raises(PeopleError) as raised:
        load_people(path)
    told = str(raised.value).splitlines()
    assert [re.search(r"line (\d+)", each)[1] for each in told] == ["1", "2", "6", "7", "8"]
    assert "the name of its owner" in told[0]
    assert "options" in told[2]
    assert "twice, it is anna's too" in told[3]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_of_keys_that_others_may_write_is_refused(options, mode):
    options.keys.chmod(mode)
    with pytest.raises(PeopleError, match="chmod go-w"):
        load_people(options.keys)


def test_a_file_without_keys_is_refused(tmp_path):
    with pytest.raises(PeopleError, match="cannot be read"):
        load_people(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody yet\n")
    with pytest.raises(PeopleError, match="nobody could come in"):
        load_people(tmp_path / "empty")
    (tmp_path / "big").write_text("#" * 2_000_000)
    with pytest.raises(PeopleError, match="longer than 1 MiB"):
        load_people(tmp_path / "big")


def test_the_host_key_is_made_once_and_its_owner_s_alone(tmp_path):
    path = tmp_path / "host_key"
    first = host_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert host_key(path).public_data == first.public_data
    assert [each.name for each in tmp_path.iterdir()] == ["host_key"]


def test_a_host_key_that_cannot_be_trusted_or_had_is_refused(tmp_path):
    path = tmp_path / "host_key"
    host_key(path)
    path.chmod(0o640)
    with pytest.raises(HostKeyError, match="chmod 600"):
        host_key(path)
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(HostKeyError, match="no private key"):
        host_key(path)
    with pytest.raises(HostKeyError, match="cannot be made or read"):
        host_key(tmp_path / "nowhere" / "host_key")


# -- as a command ---------------------------------------------------------------------------------------


def test_without_keys_it_does_not_start(tmp_path):
    ran = hashcost(
        "ssh", "--keys", tmp_path / "none", "--host-key", tmp_path / "host", "--database", tmp_path / "db"
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"hashcost: {tmp_path / 'none'}: cannot be read")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("address", ["2222", ":2222", "127.0.0.1:", "127.0.0.1:ssh", "127.0.0.1:70000"])
def test_an_address_without_a_port_is_refused(address):
    ran = hashcost("ssh", "--listen", address)
    assert ran.returncode == 2
    assert "is no address and port" in ran.stderr


# -- by the host's own sshd -----------------------------------------------------------------------------

SSHD_FILE = Path(__file__).parents[2] / "systemd" / "sshd-hashcost.conf"


def sshd_settings():
    lines = [each.split("#")[0].split() for each in SSHD_FILE.read_text().splitlines()]
    return [(each[0].lower(), " ".join(each[1:])) for each in lines if each]


def test_sshd_shows_one_group_the_terminal_read_only_and_changes_nothing_for_others():
    first, *settings = sshd_settings()
    assert first == ("match", "Group hashcost-terminal")
    assert all(name != "match" for name, _ in settings)
    assert (
        dict(settings).items()
        >= {
            "forcecommand": "/usr/bin/hashcost tui",
            "authenticationmethods": "publickey",
            "authorizedkeysfile": "/etc/hashcost/keys/%u",
            "passwordauthentication": "no",
            "kbdinteractiveauthentication": "no",
            "disableforwarding": "yes",
            "permituserrc": "no",
            "permittunnel": "no",
        }.items()
    )


def test_sshd_takes_the_file(tmp_path):
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if sshd is None:
        pytest.skip("no sshd on this host: the file was not tried here")
    host_key(tmp_path / "host_key")
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {tmp_path / 'host_key'}\nInclude {SSHD_FILE}\n")
    tried = subprocess.run([sshd, "-t", "-f", config], capture_output=True, text=True, check=False)
    assert (tried.returncode, tried.stderr) == (0, "")


# -- OpenSSH --------------------------------------------------------------------------------------------

openssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client on this host")


@contextmanager
def command(options, database, tmp_path):
    """`hashcost ssh` as a process of its own; gives its port and its log."""
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [
            sys.executable, "-c", CLI, "ssh", "--listen", "127.0.0.1:0", "--keys", str(options.keys),
            "--host-key", str(options.host_key), "--database", str(database),
        ],
        stderr=log,
        env=child_environment(),
    )  # fmt: skip
    try:
        until_s = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"ssh_listening .* port=(\d+)", (tmp_path / "log").read_text())):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until_s
            time.sleep(0.05)
        yield int(found[1]), tmp_path / "log"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert (tmp_path / "log").read_text().rstrip().endswith("event=ssh_stopped")
    finally:
        process.kill()
        process.wait()
        log.close()


class Client:
    """OpenSSH's client on a terminal of its own."""

    def __init__(self, port, identity, tmp_path, *extra):
        self.master, slave = pty.openpty()
        self.resize(100, 30, tell=False)
        self.process = subprocess.Popen(
            [
                "ssh", "-F", "none", "-p", str(port), "-i", str(identity), "-o", "IdentitiesOnly=yes",
                "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={tmp_path / 'known'}",
                "-o", "IdentityAgent=none", *extra, "operator@127.0.0.1",
            ],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**child_environment(), "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def resize(self, columns, rows, *, tell=True):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, keys):
        os.write(self.master, keys)

    def until(self, word):
        until_s = time.monotonic() + DEADLINE_S
        while word not in self.seen:
            assert time.monotonic() < until_s, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def ended(self):
        """Its exit status, what it still says being read."""
        until_s = time.monotonic() + DEADLINE_S
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < until_s, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return self.process.wait(DEADLINE_S)

    def close(self):
        self.process.kill()
        self.process.wait()
        with suppress(OSError):
            os.close(self.master)


@pytest.fixture
def house(options, tmp_path):
    database = tmp_path / "hashcost.db"
    stored_site(database, machine(1, reading()))
    with command(options, database, tmp_path) as (port, log):
        yield port, log


@pytest.fixture
def client(house, tmp_path):
    opened = []

    def connect(private, *extra):
        identity = tmp_path / f"identity{len(opened)}"
        identity.write_bytes(private.export_private_key())
        identity.chmod(0o600)
        opened.append(Client(house[0], identity, tmp_path, *extra))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@openssh
def test_openssh_shows_the_terminal_follows_the_window_and_quits(client, anna):
    session = client(anna)
    session.until("10.0.0.1")
    session.resize(60, 20)
    session.until("\x1b[20;")
    session.type(b"q")
    assert session.ended() == 0


@openssh
def test_openssh_that_is_killed_ends_the_session(house, client, anna):
    session = client(anna)
    session.until("10.0.0.1")
    session.process.kill()
    until_s = time.monotonic() + DEADLINE_S
    while "ssh_session_closed person='anna'" not in house[1].read_text():
        assert time.monotonic() < until_s
        time.sleep(0.05)


@openssh
def test_openssh_with_an_unknown_key_or_a_password_is_refused(house, client):
    eve = client(key("eve"))
    assert eve.ended() == 255
    assert "Permission denied (publickey)" in eve.seen
    asked = client(key("eve"), "-o", "PreferredAuthentications=password,keyboard-interactive")
    assert asked.ended() == 255
    assert "assword:" not in asked.seen
    until = time.monotonic() + DEADLINE_S  # the client is gone before the server has noticed
    while (refused := house[1].read_text().count("event=ssh_refused")) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert refused == 2
