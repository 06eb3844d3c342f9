"""`hashcost install-service`: the files by which systemd runs the agent, put in place and taken away again.

InstallationError          exit 2: not root, or a program where the service cannot reach it
"""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import UsageError

UNIT_DIRECTORY = Path("etc/systemd/system")
CONFIG_FILE = Path("etc/hashcost/config.toml")
_PLACES = {
    "*.service": UNIT_DIRECTORY,
    "*.timer": UNIT_DIRECTORY,
    "sysusers.d/*.conf": Path("etc/sysusers.d"),
    "tmpfiles.d/*.conf": Path("etc/tmpfiles.d"),
}
_PACKAGED_PROGRAM = "/usr/bin/hashcost"
_HIDDEN_BY_PROTECT_HOME = ("/home", "/root", "/run/user")


class InstallationError(UsageError):
    """The service cannot be installed like this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFile:
    """One file of the service; `target` is relative to the root of the host. What is to `keep` stays as it is."""

    target: Path
    text: str
    mode: int = 0o644
    keep: bool = False


def files(program: Path) -> list[InstalledFile]:
    """Every file of a service that runs this program."""
    source = _source()
    found = [
        InstalledFile(
            target=place / path.name,
            text=path.read_text(encoding="utf-8").replace(_PACKAGED_PROGRAM, str(program)),
        )
        for pattern, place in _PLACES.items()
        for path in sorted(source.glob(pattern))
    ]
    example = (source / "config.toml").read_text(encoding="utf-8")
    return [*found, InstalledFile(target=CONFIG_FILE, text=example, mode=0o640, keep=True)]


def _source() -> Path:
    """Where the files are: in the checkout or the package, or beside an installed distribution."""
    candidates = (Path(__file__).parents[1] / "systemd", Path(sys.prefix) / "share/hashcost/systemd")
    for candidate in candidates:
        if (candidate / "hashcost.service").is_file():
            return candidate
    raise InstallationError(f"{candidates[0]}: the unit files are not there; install hashcost again")


def program_for_service() -> Path:
    """The `hashcost` that is running. Raises `InstallationError` if a service could not run it."""
    program = Path(sys.argv[0]).resolve()
    if program.name != "hashcost" or not program.is_file():
        program = Path(sys.executable).parent / "hashcost"
    # the interpreter of a `uv tool` and the sources of an editable install are often in a home, wherever the program is
    for needed in (program, Path(sys.executable).resolve(), Path(__file__).resolve()):
        refuse_unreachable(needed)
    return program


def refuse_unreachable(program: Path) -> None:
    """Raise `InstallationError` if another user, whose view of homes is empty, could not reach this file."""
    remedy = "install it for the whole host, as with `pipx install --global` or a virtual environment in /opt/hashcost"
    if not program.is_file():
        raise InstallationError(f"{program}: there is no such file; {remedy}")
    if str(program).startswith(tuple(f"{home}/" for home in _HIDDEN_BY_PROTECT_HOME)):
        raise InstallationError(f"{program}: a service sees no home directories; {remedy}")
    for folder in program.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise InstallationError(f"{folder}: only its owner may enter; {remedy}")


def as_text(program: Path) -> str:
    """What would be installed, to read before it is."""
    return "\n".join(f"# /{file.target}\n{file.text}" for file in files(program))


def apply(program: Path, root: Path) -> list[str]:
    """Write the files that differ, and have systemd take them in. Returns a line for each thing done."""
    _refuse_without_privilege(root)
    return [*(_put(file, root) for file in files(program)), *_take_in(root)]


def _put(file: InstalledFile, root: Path) -> str:
    path = root / file.target
    if path.exists() and (file.keep or path.read_text(encoding="utf-8") == file.text):
        return f"{path}: {'kept as it is' if file.keep else 'up to date'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(file.text, encoding="utf-8")
    new.chmod(file.mode)
    new.replace(path)
    return f"{path}: written"


def _take_in(root: Path) -> Iterator[str]:
    if root != Path("/"):
        yield "nothing was started: that is another root"
        return
    yield _run("systemd-sysusers", "hashcost.conf")
    yield _run("systemd-tmpfiles", "--create", "hashcost.conf")
    yield _run("chgrp", "hashcost", f"/{CONFIG_FILE}")
    yield _run("systemctl", "daemon-reload")
    yield "now edit /etc/hashcost/config.toml, run `hashcost check`, then"
    yield "  systemctl enable --now hashcost hashcost-backup.timer"


def remove(program: Path, root: Path) -> list[str]:
    """Stop the service and remove its files; configuration, secrets and database stay."""
    _refuse_without_privilege(root)
    done = []
    if root == Path("/"):
        units = [file.target.name for file in files(program) if file.target.parent == UNIT_DIRECTORY]
        done.append(_run("systemctl", "disable", "--now", *units))
    for file in files(program):
        path = root / file.target
        if file.keep:
            continue
        done.append(f"{path}: {'removed' if path.exists() else 'was not there'}")
        path.unlink(missing_ok=True)
    if root == Path("/"):
        done.append(_run("systemctl", "daemon-reload"))
    return [*done, f"{root / 'etc/hashcost'} and {root / 'var/lib/hashcost'}: kept"]


def _run(*command: str) -> str:
    """Run one command of systemd's; what it says where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: FAILED, {error}"
    if done.returncode == 0:
        return f"{' '.join(command)}: done"
    return f"{' '.join(command)}: FAILED, {done.stderr.strip() or f'exit {done.returncode}'}"


def _refuse_without_privilege(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise InstallationError(
            "install-service: only root may do that; run it with sudo, or look with --print"
        )
