"""The agent as a service: a real process with a service manager's socket, signals and all."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import notify
from agent.config import parse
from agent.control import ask
from agent.daemon import _Daemon
from agent.store import Store
from tests.agent.builders import eventually
from tests.agent.processes import CLI, child_environment

CONFIG = """
[scan]
addresses = ["127.66.0.1"]
[poll]
interval_s = 1.0
deadline_s = 1.0
[curtailment]
mode = "{mode}"
"""


@dataclass
class Service:
    process: subprocess.Popen
    manager: socket.socket
    config: Path
    control: Path
    log: Path

    def until(self, message):
        """What the agent tells its manager until it tells this, that included."""
        heard = []
        while message not in heard:
            heard += self.manager.recv(4096).decode().splitlines()
        return heard

    def tell(self, number):
        self.process.send_signal(number)

    def status(self):
        """Once it answers: the socket is not there at once."""
        deadline = time.monotonic() + 60
        while not self.control.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return ask(self.control, "status")


@contextmanager
def service(tmp_path, mode="recommend", *, database="h.db", before=(), **environment):
    config, log = tmp_path / "config.toml", tmp_path / "log"
    config.write_text(CONFIG.format(mode=mode))
    arguments = ["run", "--config", config, "--database", tmp_path / database, "--socket", tmp_path / "s"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("w") as err:
        manager.bind(str(tmp_path / "manager"))
        manager.settimeout(60)
        process = subprocess.Popen(
            [*before, sys.executable, "-B", "-c", CLI, *map(str, arguments)],
            env={**child_environment(), "NOTIFY_SOCKET": str(tmp_path / "manager"), **environment},
            stderr=err,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield Service(process, manager, config, tmp_path / "s", log)
        finally:
            process.kill()
            process.wait()


def test_a_service_tells_its_manager_of_its_life_reloads_and_stops(tmp_path):
    with service(tmp_path, WATCHDOG_USEC="4000000", JOURNAL_STREAM="8:1") as running:
        running.until(notify.READY)
        running.until(notify.ALIVE)
        assert running.status()["mode"] == "recommend"

        running.config.write_text(CONFIG.format(mode="auto"))
        running.tell(signal.SIGHUP)
        told = running.until(notify.READY)
        assert "RELOADING=1" in told
        assert running.status()["mode"] == "auto"
        assert set(running.status()["loops"]) == {"scan", "poll", "control"}

        running.config.write_text(CONFIG.format(mode="automatic"))
        running.tell(signal.SIGHUP)
        running.until(notify.READY)
        assert running.status()["mode"] == "auto"
        refused = [line for line in running.log.read_text().splitlines() if "reload_refused" in line]
        assert len(refused) == 1
        assert refused[0].startswith("<3>event=reload_refused")
        assert "curtailment.mode" in refused[0]

        running.tell(signal.SIGTERM)
        running.until(notify.STOPPING)
        assert running.process.wait(60) == 0
        assert "event=stopped" in running.log.read_text()


def listening(pid):
    """The network sockets that a process waits at: TCP that listens, and every UDP."""
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    ours = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/{pid}/net/{protocol}")
        rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
        found += [row[1] for row in rows if row[9] in ours and (row[3] == "0A" or protocol.startswith("udp"))]
    return found


def test_a_running_agent_listens_on_no_network(tmp_path):
    with service(tmp_path) as running:
        running.until(notify.READY)
        running.status()
        assert listening(running.process.pid) == []
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening(os.getpid())) == 1  # it would be seen


def test_an_agent_with_a_damaged_database_observes_and_says_so(tmp_path):
    with Store(tmp_path / "h.db"):
        pass
    with (tmp_path / "h.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    before = (tmp_path / "h.db").read_bytes()
    with service(tmp_path, mode="auto") as running:
        running.until(notify.READY)
        status = running.status()
        assert status["mode"] == "observe"
        assert "is damaged (database disk image is malformed)" in status["storage_problem"]
        assert "; only observing" in status["storage_problem"]
        assert "event=storage_failed" in running.log.read_text()
        running.tell(signal.SIGTERM)
        assert running.process.wait(60) == 0
    assert (tmp_path / "h.db").read_bytes() == before


MOUNTS = {
    "read-only": ('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"', "unable to open database file"),
    "full": (
        'mount -t tmpfs -o size=64k none "$1" && ! head -c 1M /dev/zero >"$1/other" 2>/dev/null',
        "No space left on device",
    ),
}
"""How a directory becomes one on such a disk, and what is said of a database there."""
OWN_MOUNTS = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]


def may_mount():
    return (
        shutil.which("unshare")
        and not subprocess.run([*OWN_MOUNTS, "true"], check=False, capture_output=True).returncode
    )


@pytest.mark.skipif(not may_mount(), reason="no mounts of one's own on this host")
@pytest.mark.parametrize("disk", MOUNTS)
def test_an_agent_that_starts_on_a_disk_that_cannot_be_written_observes_and_says_so(tmp_path, disk):
    mounting, said = MOUNTS[disk]
    state = tmp_path / "state"
    with Store(state / "h.db"):
        pass
    mounted = [*OWN_MOUNTS, "sh", "-c", f'{mounting} && shift && exec "$@"', "sh", str(state)]
    with service(tmp_path, mode="auto", database="state/h.db", before=mounted) as running:
        running.until(notify.READY)
        status = running.status()
        assert status["mode"] == "observe"
        assert said in status["storage_problem"]
        assert "; only observing" in status["storage_problem"]
        assert "event=storage_failed" in running.log.read_text()
        running.tell(signal.SIGTERM)
        assert running.process.wait(60) == 0


def test_an_agent_whose_loop_hangs_tells_its_manager_no_more(tmp_path):
    hangs = (
        "import agent.service, agent.supervision, asyncio\n"
        "agent.supervision.FIRST_PROGRESS_S = 0.5\n"
        "async def hang(self): await asyncio.sleep(600)\n"
        "agent.service.Agent._scan_loop = hang\n"
    )
    site = tmp_path / "sitecustomize"
    site.mkdir()
    (site / "hanging.py").write_text(hangs + CLI)
    environment = {"PYTHONPATH": f"{site}:{child_environment()['PYTHONPATH']}", "WATCHDOG_USEC": "400000"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.agent.test_daemon.CLI", "import hanging")
        with service(tmp_path, **environment) as running:
            running.until(notify.READY)
            deadline = time.monotonic() + 60
            while "event=loop_late loop=scan" not in running.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            running.manager.setblocking(False)
            while heard(running.manager):
                pass
            time.sleep(1.0)
            assert notify.ALIVE not in heard(running.manager)


def heard(manager):
    try:
        return manager.recv(4096).decode().splitlines()
    except BlockingIOError:
        return []


async def test_the_configuration_is_loaded_when_somebody_says_so_and_only_then(tmp_path):
    loaded = []

    def load():
        loaded.append(1)
        return parse("", source="test")

    daemon = _Daemon(parse("", source="test"), tmp_path / "h.db", tmp_path / "s", load)
    daemon._on_tenure()
    daemon._tenure_changed = False  # as an agent does that starts, and knows whose the machines are
    waiting = asyncio.create_task(daemon._until_told())
    await eventually(lambda: not daemon._told.is_set())
    daemon._on_tenure()
    await waiting
    assert loaded == []
    daemon._on_tenure()
    daemon._on_reload()
    await daemon._until_told()
    assert loaded == [1]


def test_nobody_is_told_where_there_is_no_manager(tmp_path):
    assert not notify.tell(notify.READY, environment={})
    assert not notify.tell(notify.READY, environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not notify.tell(notify.READY, environment={"NOTIFY_SOCKET": "vsock:2:1"})


def test_an_abstract_socket_is_told_too():
    name = f"hashcost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        assert notify.tell(notify.READY, notify.status("a\nb"), environment={"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(100) == b"READY=1\nSTATUS=a b"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    ],
)
def test_the_watchdog_is_ours_if_it_names_us_or_nobody(environment, seconds):
    assert notify.watchdog_s(environment) == seconds
