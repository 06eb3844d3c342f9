"""The key by which clients know this server again: made once, its owner's alone.

HostKeyError               exit 2: it cannot be made, read or trusted
"""

import os
import stat
from pathlib import Path
from tempfile import NamedTemporaryFile

import asyncssh

from agent.errors import UsageError

_ALGORITHM = "ssh-ed25519"


class HostKeyError(UsageError):
    """The server cannot prove who it is."""


def host_key(path: Path) -> asyncssh.SSHKey:
    """Read the key, or make it if there is none. Raises `HostKeyError`."""
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise HostKeyError(f"{path}: others than its owner may read it; `chmod 600 {path}`")
        return asyncssh.read_private_key(path)
    except OSError as error:
        raise HostKeyError(
            f"{path}: cannot be made or read ({error.strerror}); name another file with --host-key"
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise HostKeyError(f"{path}: no private key without a passphrase ({error}); name another") from error


def _make(path: Path) -> None:
    """Whole or not at all, and never over one that somebody else made meanwhile."""
    private = asyncssh.generate_private_key(_ALGORITHM, comment="hashcost").export_private_key()
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # of mode 0600
        file.write(private)
        file.flush()
        os.fsync(file.fileno())
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            return
