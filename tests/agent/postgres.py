"""A PostgreSQL server of the tests' own, on a Unix socket in a directory of its own; with a password, as in earnest."""

import importlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

PASSWORD = "correct horse"
ABSENT = "no PostgreSQL on this host (apt-get install postgresql)"
_databases = count(1)


def programs():
    """Where PostgreSQL's programs are; None if there are none, or no user to run them as."""
    for home in (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *_on_path()):
        if (home / "initdb").exists() and (home / "pg_ctl").exists():
            return home
    return None


def _on_path():
    found = shutil.which("initdb")
    return [] if found is None else [Path(found).resolve().parent]


class Server:
    """A running server; databases are made as they are asked for."""

    def __init__(self, home: Path, fsync: str) -> None:
        self.fsync = fsync
        self.home = home
        self.password_file = home / "password"
        self.data = home / "data"
        self._user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}

    def run(self, program, *arguments):
        environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "HOME": str(self.home)}
        subprocess.run(
            [programs() / program, *arguments], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment, cwd=self.home, **self._user,
        )  # fmt: skip

    def make(self):
        self.password_file.write_text(PASSWORD + "\n")
        if self._user:
            for path in (self.home, self.password_file):
                shutil.chown(path, **self._user)
        self.run(
            "initdb",
            "-D",
            self.data,
            "-U",
            "fleet",
            "-A",
            "scram-sha-256",
            "--pwfile",
            self.password_file,
            "-N",
        )
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.home}'\nfsync = {self.fsync}\n"
            )
        self.start()

    def start(self):
        self.run("pg_ctl", "-D", self.data, "-l", self.home / "log", "-w", "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def url(self, database="postgres"):
        return f"postgresql://fleet@/{database}?host={self.home}"

    def connect(self, database="postgres"):
        psycopg = importlib.import_module("psycopg")  # of an extra
        return psycopg.connect(self.url(database), password=PASSWORD, autocommit=True)

    def database(self):
        """A new one, by its address."""
        name = f"fleet{next(_databases)}"
        with self.connect() as connection:
            connection.execute(f"create database {name}")
        return self.url(name)


@contextmanager
def server(fsync="off"):
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    made = Server(home, fsync)
    try:
        made.make()
        yield made
    finally:
        if (made.data / "postmaster.pid").exists():
            made.stop()
        shutil.rmtree(home)
