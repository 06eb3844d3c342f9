"""A user and network namespace of its own for a process that may not bind port 80 on loopback.

Inside, the process is root over a loopback device that nobody else sees. Works without any external command where
the kernel lets users have namespaces; must be called before the process has threads or an event loop.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_TRIAL_ADDRESS = "127.77.255.254"


def enter() -> str | None:
    """Enter such a namespace if this process needs one; None if all is well now, else the reason in plain words."""
    if _may_bind_port_80():
        return None
    if threading.active_count() > 1:
        return "a namespace must be entered before the process has threads"
    number = _rehearse()
    if number:
        reason = _REASONS.get(number, os.strerror(number))
        return f"no network namespace of our own: {reason}"
    isolate()
    return None if _may_bind_port_80() else "port 80 cannot be bound even in a namespace of our own"


def _rehearse() -> int:
    """Isolate a child process; the error number of what stopped it, or 0.

    Some kernels give the namespace and refuse what comes after (Ubuntu 24.04 does), and there is no way back from
    a namespace whose loopback is down.
    """
    child = os.fork()
    if child == 0:
        number = errno.EIO
        try:
            isolate()
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_REASONS = {
    errno.EPERM: "the kernel does not let this user have one (user namespaces are restricted)",
    errno.ENOSPC: "the kernel's limit of user namespaces is reached or zero",
    errno.EINVAL: "the kernel has no user namespaces, or the process has threads",
}


def isolate() -> None:
    """Put this process into a new user and network namespace, root inside, with loopback up. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    Path("/proc/self/setgroups").write_bytes(b"deny")
    Path("/proc/self/uid_map").write_bytes(b"0 %d 1" % uid)
    Path("/proc/self/gid_map").write_bytes(b"0 %d 1" % gid)
    _bring_up_loopback()


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("16xh", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _may_bind_port_80() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((_TRIAL_ADDRESS, 80))
        except OSError as error:
            return error.errno != errno.EACCES
    return True
