"""Whether somebody keeps this host's clock right, as the kernel knows it from its NTP client (adjtimex(2))."""

import ctypes
from dataclasses import dataclass

_UNSYNCHRONISED = 0x0040
"""STA_UNSYNC of <sys/timex.h>: set until an NTP client says otherwise, and 16 s of possible error later again."""


class _Timex(ctypes.Structure):
    """The head of struct timex; nothing behind it is looked at, but the kernel writes it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelClock:
    """`max_error_s` is how far the clock can be off by the NTP client's own reckoning."""

    synchronised: bool
    max_error_s: float


def kernel_clock() -> KernelClock | None:
    """What the kernel says; None where it does not tell. Changes nothing and needs no privilege."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):  # not Linux, or another C library
        return None
    found = _Timex(modes=0)
    if adjtimex(ctypes.byref(found)) < 0:  # a sandbox forbids even the question
        return None
    return KernelClock(
        synchronised=not found.status & _UNSYNCHRONISED, max_error_s=max(0, found.maxerror) / 1e6
    )
