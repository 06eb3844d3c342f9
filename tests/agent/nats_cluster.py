"""Real NATS servers on loopback: a cluster whose nodes can be killed, paused and started again."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STARTED_WITHIN_S = 30.0


def server_program() -> str | None:
    """The server beside this Python (the wheel), else Debian's."""
    beside = Path(sys.prefix) / "bin" / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Cluster:
    """Servers that know each other. A context manager; `extra` is more of the servers' configuration."""

    def __init__(self, directory: Path, nodes: int = 3, extra: str = "") -> None:
        self._directory = directory
        self._ports = [(free_port(), free_port()) for _ in range(nodes)]
        self._extra = extra
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"nats://127.0.0.1:{client}" for client, _ in self._ports)

    @property
    def nodes(self) -> range:
        return range(len(self._ports))

    def __enter__(self):
        for node in self.nodes:
            self.start(node)
        for node in self.nodes:
            self.wait_for(node)
        return self

    def __exit__(self, *_):
        for node in list(self._processes):
            self.kill(node)

    def configure(self, node: int, extra: str) -> None:
        """Have a running server take in another configuration."""
        self._extra = extra
        self._write(node)
        self.send(node, signal.SIGHUP)

    def start(self, node: int) -> None:
        home = self._write(node)
        log = (home / "log").open("ab")
        self._processes[node] = subprocess.Popen(
            [server_program(), "-c", home / "server.conf"], stdout=log, stderr=log
        )
        log.close()

    def _write(self, node: int) -> Path:
        home = self._directory / f"node{node}"
        home.mkdir(exist_ok=True)
        client, peer = self._ports[node]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for _, port in self._ports)
        cluster = f'cluster {{ name: test, listen: "127.0.0.1:{peer}", routes: [{routes}] }}'
        (home / "server.conf").write_text(
            f'server_name: node{node}\nlisten: "127.0.0.1:{client}"\nmax_payload: 1MB\n'
            f'jetstream {{ store_dir: "{home}", max_file: 1GB, max_mem: 64MB }}\n'
            f"{cluster if len(self._ports) > 1 else ''}\n{self._extra}\n"
        )
        return home

    def wait_for(self, node: int) -> None:
        deadline = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[node][0]), 1.0):
                return
            time.sleep(0.05)
        raise AssertionError((self._directory / f"node{node}" / "log").read_text()[-2000:])

    def kill(self, node: int) -> None:
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def send(self, node: int, number: signal.Signals) -> None:
        self._processes[node].send_signal(number)

    def log(self, node: int) -> str:
        return (self._directory / f"node{node}" / "log").read_text()
