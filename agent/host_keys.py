"""The SSH host keys of machines, in a file beside the database: a line each: MAC, type, key. A person may edit it."""

import os
from pathlib import Path


class HostKeyFile:
    """Keys as `drivers.ssh` wants them. Read anew each time, so that a line that was taken out counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, mac: str) -> str | None:
        """The last key of a machine; None if there is none. Raises `OSError` if the file cannot be read."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        keys = [line.partition(" ")[2].strip() for line in lines if line.partition(" ")[0] == mac]
        return keys[-1] if keys else None

    def pin(self, mac: str, key: str) -> None:
        """Add a line, whole and on the disk. Raises `OSError`."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(descriptor, f"{mac} {key}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
