"""The grammar of addresses to scan: CIDR, octet ranges, lists, files, names and ports; pure but for `@file`.

10.0.0.0/22            every host of a network
10.0.1-4.1-200         ranges in any octet
10.0.0.7:14028         one machine behind a forwarded port; ranges may have a port too
miner7.site.lan        a name, looked up when the scan runs
a, b, c                a list
@machines.txt          one of the above per line; `#` starts a comment
"""

import ipaddress
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from drivers.reading import Address

MAX_ADDRESSES = 4 * 65536
_MAX_TIMES_NAMED = 4
"""How often all of them may be named, where expressions overlap: seconds of work."""
ACCEPTED = "accepted: 10.0.0.0/22, 10.0.1-4.1-200, 10.0.0.7, 10.0.0.7:4028, name.example:4028, @file"
_OCTETS = 4
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z]([A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?")
_MAX_FILE_BYTES = 16 << 20
_MAX_FILE_DEPTH = 4


class AddressError(ValueError):
    """An expression that names no addresses. Its message has the expression, the reason and what is accepted."""

    def __init__(self, expression: str, reason: str, *, where: str | None = None) -> None:
        shown = expression if len(expression) <= 80 else expression[:77] + "..."
        place = f"{where}: " if where else ""
        super().__init__(f"{place}{shown!r}: {reason} ({ACCEPTED})")
        self.expression = expression
        self.reason = reason
        self.where = where


def parse_targets(expressions: Sequence[str], *, limit: int = MAX_ADDRESSES) -> list[Address]:
    """Every address that the expressions name, once, in the order they are first named.

    Raises `AddressError` for what is no address, for a range backwards, for an unreadable file (naming file
    and line), for more than `limit` addresses, and where so many overlap that it would take minutes; one error for
    all expressions that are wrong.
    """
    found: dict[Address, None] = {}
    errors: list[AddressError] = []
    named = 0
    for expression in expressions:
        some: list[Address] = []
        try:
            some.extend(itertools.islice(_expression(expression, limit, depth=0), limit + 1))
        except AddressError as error:
            errors.append(error)
        found.update(dict.fromkeys(some))
        named += len(some)
        if named > _MAX_TIMES_NAMED * limit:
            errors.append(AddressError(expression, "names once more what many others named before it"))
            break
        if len(found) > limit:
            errors.append(AddressError(expression, f"more than {limit} addresses in all"))
            break
    if errors:
        raise errors[0] if len(errors) == 1 else _several(errors)
    return list(found)


def _several(errors: list[AddressError]) -> AddressError:
    """One error that names every expression that is wrong."""
    first = errors[0]
    several = AddressError(first.expression, first.reason, where=first.where)
    several.args = (
        "; ".join(str(error).removesuffix(f" ({ACCEPTED})") for error in errors) + f" ({ACCEPTED})",
    )
    return several


def is_ipv4(host: str) -> bool:
    """Whether a host is an address and not a name."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _expression(expression: str, limit: int, *, depth: int) -> Iterator[Address]:
    stripped = expression.strip()
    if stripped.startswith("@"):
        yield from _file(stripped, limit, depth)
        return
    parts = [part.strip() for part in stripped.split(",")]
    if not all(parts):
        raise AddressError(expression, "empty")
    for part in parts:
        if part.startswith("@"):
            yield from _file(part, limit, depth)
        else:
            yield from _one(part, limit)


def _file(expression: str, limit: int, depth: int) -> Iterator[Address]:
    try:
        path = Path(expression[1:].strip()).expanduser()
    except (RuntimeError, ValueError) as error:  # the latter for a name with a null byte
        raise AddressError(expression, "a home directory that there is not") from error
    if depth >= _MAX_FILE_DEPTH:
        raise AddressError(expression, "files that name files that name files")
    for number, line in enumerate(_lines(expression, path), start=1):
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        try:
            yield from _expression(content, limit, depth=depth + 1)
        except AddressError as error:
            if error.where:
                raise
            raise AddressError(error.expression, error.reason, where=f"{path}, line {number}") from error


def _lines(expression: str, path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AddressError(expression, f"cannot read the file: {reason}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise AddressError(expression, f"larger than {_MAX_FILE_BYTES} bytes: not a list of addresses")
    return content.decode("utf-8-sig", errors="replace").splitlines()


def _one(part: str, limit: int) -> Iterator[Address]:
    if "/" in part:
        return _network(part, limit)
    host, port = _port(part)
    if re.fullmatch(r"[\d.\-]+", host):
        return _ranges(part, host, port, limit)
    if ":" in host or "[" in host:
        raise AddressError(part, "not an IPv4 address: machines are reached over IPv4")
    if not _NAME.fullmatch(host) or ("." not in host and host != "localhost" and port is None):
        raise AddressError(part, "neither an IPv4 address nor a name with a domain")
    return iter([Address(host=host.lower(), port=port)])


def _port(part: str) -> tuple[str, int | None]:
    host, colon, digits = part.rpartition(":")
    if not colon:
        return part, None
    if not host or ":" in host or not re.fullmatch(r"\d{1,5}", digits, re.ASCII):
        raise AddressError(part, "not host:port")
    port = int(digits)
    if not 1 <= port <= 65535:
        raise AddressError(part, f"port {port} is not between 1 and 65535")
    return host, port


def _network(part: str, limit: int) -> Iterator[Address]:
    try:
        network = ipaddress.IPv4Network(part, strict=False)
    except ValueError as error:
        raise AddressError(part, f"not an IPv4 network: {error}") from error
    if network.num_addresses > limit:
        raise AddressError(part, f"{network.num_addresses} addresses, more than {limit}")
    return (Address(host=str(host)) for host in network.hosts())


def _ranges(part: str, host: str, port: int | None, limit: int) -> Iterator[Address]:
    octets = host.split(".")
    if len(octets) != _OCTETS:
        raise AddressError(part, f"{len(octets)} octets instead of 4")
    choices = [_octet(part, octet) for octet in octets]
    count = math.prod(len(choice) for choice in choices)
    if count > limit:
        raise AddressError(part, f"{count} addresses, more than {limit}")
    return (Address(host=".".join(map(str, chosen)), port=port) for chosen in itertools.product(*choices))


def _octet(part: str, octet: str) -> range:
    match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", octet, re.ASCII)
    if match is None:
        raise AddressError(part, f"{octet!r} is not a number or a range such as 1-200")
    first, last = int(match[1]), int(match[2] or match[1])
    if max(first, last) > 255:
        raise AddressError(part, f"{max(first, last)} is not between 0 and 255")
    if first > last:
        raise AddressError(part, f"the range {octet} runs backwards")
    return range(first, last + 1)
