"""What the agent tells the service manager: ready, reloading, stopping, alive (the protocol of sd_notify(3)).

Twenty lines of our own: the packages that do this are unmaintained or bind to a C library.
"""

import os
import socket
from collections.abc import Mapping
from time import monotonic_ns

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def reloading() -> str:
    """The message that a reload has begun; the manager wants the moment of it, in microseconds."""
    return f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}"


def more_time(seconds: float) -> str:
    """The message that a start goes on, and that it may take so much longer from now on."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def status(text: str) -> str:
    """A line for `systemctl status`."""
    return "STATUS=" + text.replace("\n", " ")


def tell(*messages: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send messages to the manager that started us. False where there is none, or it does not listen any more."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto("\n".join(messages).encode(), address)
    except OSError:
        return False
    return True


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Within how many seconds the manager wants to hear that we are alive; None if it does not."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6
