"""The grammar of addresses."""

import contextlib
import ipaddress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drivers.addresses import AddressError, is_ipv4, parse_targets
from drivers.reading import Address

OCTET = st.integers(0, 255)


@st.composite
def spans(draw: st.DrawFn) -> tuple[str, int]:
    first = draw(OCTET)
    last = draw(st.integers(first, min(255, first + 9)))
    written = str(first) if first == last and draw(st.booleans()) else f"{first}-{last}"
    return written, last - first + 1


@given(st.tuples(spans(), spans(), spans(), spans()), st.none() | st.integers(1, 65535))
def test_ranges_name_as_many_addresses_as_their_product(
    parts: tuple[tuple[str, int], ...], port: int | None
) -> None:
    expression = ".".join(written for written, _ in parts) + (f":{port}" if port else "")
    count = 1
    for _, choices in parts:
        count *= choices
    found = parse_targets([expression])
    assert len(found) == len(set(found)) == count
    assert all(is_ipv4(address.host) and address.port == port for address in found)


@given(OCTET, OCTET, OCTET, OCTET, st.integers(22, 32))
@example(10, 20, 130, 7, 18)  # large ones take long, and differ in nothing else
def test_networks_name_their_hosts(a: int, b: int, c: int, d: int, prefix: int) -> None:
    expression = f"{a}.{b}.{c}.{d}/{prefix}"
    hosts = [str(host) for host in ipaddress.ip_network(expression, strict=False).hosts()]
    assert [address.host for address in parse_targets([expression])] == hosts


@given(st.lists(st.tuples(OCTET, OCTET, OCTET, OCTET, st.none() | st.integers(1, 65535)), max_size=20))
def test_what_an_address_prints_is_read_back(parts: list[tuple[int, int, int, int, int | None]]) -> None:
    addresses = [Address(host=f"{a}.{b}.{c}.{d}", port=port) for a, b, c, d, port in parts]
    unique = list(dict.fromkeys(addresses))
    assert parse_targets([str(address) for address in addresses]) == unique
    assert parse_targets([", ".join(map(str, addresses))] if addresses else []) == unique


@given(
    st.lists(st.text(max_size=30).filter(lambda text: not text.strip().startswith("@") and ",@" not in text))
)
def test_nonsense_is_an_address_error_or_addresses(expressions: list[str]) -> None:
    with contextlib.suppress(AddressError):
        assert all(isinstance(address, Address) for address in parse_targets(expressions))


@given(st.text(alphabet="0123456789.-/:,@ax ", max_size=24).filter(lambda text: "@" not in text))
def test_near_misses_never_crash(expression: str) -> None:
    with contextlib.suppress(AddressError):
        assert parse_targets([expression])


@pytest.mark.parametrize(
    ("expression", "hosts"),
    [
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.7/32", ["10.0.0.7"]),
        ("10.0.1-2.9-10", ["10.0.1.9", "10.0.1.10", "10.0.2.9", "10.0.2.10"]),
        ("10.0.0.1,10.0.0.2 , 10.0.0.1", ["10.0.0.1", "10.0.0.2"]),
        ("Miner7.Site.LAN", ["miner7.site.lan"]),
        ("localhost", ["localhost"]),
        ("rig:4028", ["rig"]),
    ],
)
def test_examples(expression: str, hosts: list[str]) -> None:
    assert [address.host for address in parse_targets([expression])] == hosts


def test_a_scan_of_the_design_s_example() -> None:
    assert len(parse_targets(["10.0.0.0/22", "10.0.1-4.1-200"])) == 1022 + 200


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "empty"),
        ("10.0.0.1,,10.0.0.2", "empty"),
        ("nonsense", "neither"),
        ("10.0.0", "3 octets instead of 4"),
        ("10.0.0.256", "256 is not between 0 and 255"),
        ("10.0.0.9-3", "the range 9-3 runs backwards"),
        ("10.0.0.1-2-3", "not a number or a range"),
        ("10.0.0.x", "neither"),
        ("10.0.0.0/33", "not an IPv4 network"),
        ("10.0.0.0/8", "more than"),
        ("0-255.0-255.0-255.0-255", "more than"),
        ("10.0.0.1:0", "port 0"),
        ("10.0.0.1:70000", "port 70000"),
        ("10.0.0.1:abc", "not host:port"),
        ("::1", "not"),
        ("fe80::/64", "not an IPv4 network"),
        ("http://10.0.0.1/", "not an IPv4 network"),
        ("10.0.0.1 10.0.0.2", "neither"),
        ("٣.0.0.1", "not"),
        ("-rf", "neither"),
        ("@~nobody-of-that-name/machines", "a home directory that there is not"),
    ],
)
def test_errors_name_the_expression_and_what_is_accepted(expression: str, reason: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_targets(["10.0.0.1", expression])
    assert reason in str(caught.value)
    assert "accepted:" in str(caught.value)
    if expression and "," not in expression:
        assert expression[:40] in str(caught.value)


def test_the_total_is_limited_too() -> None:
    with pytest.raises(AddressError, match="more than 100 addresses in all"):
        parse_targets(["10.0.0.1-60", "10.0.1.1-60"], limit=100)


@pytest.mark.parametrize("end", ["", ",nonsense"])
def test_expressions_that_overlap_without_end_are_not_followed_to_it(end: str) -> None:
    named = parse_targets(["10.0.0.1-60"] * 6, limit=100)
    assert len(named) == 60
    with pytest.raises(AddressError, match="before it"):
        parse_targets([f"10.0.0.1-60{end}"] * 7, limit=100)


def test_files(tmp_path: Path) -> None:
    inner = tmp_path / "inner.txt"
    inner.write_text("10.0.9.1\n")
    listed = tmp_path / "machines.txt"
    listed.write_text(f"# the north hall\n\n10.0.0.1-2   # two of them\n10.0.0.2, 10.0.0.3:14028\n@{inner}\n")
    assert [str(address) for address in parse_targets([f"@{listed}"])] == [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3:14028",
        "10.0.9.1",
    ]


def test_errors_in_files_name_file_and_line(tmp_path: Path) -> None:
    listed = tmp_path / "machines.txt"
    listed.write_text("10.0.0.1\n# fine\n10.0.0.999\n")
    with pytest.raises(AddressError, match=rf"{listed}, line 3: '10\.0\.0\.999'"):
        parse_targets([f"@{listed}"])


def test_unreadable_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.write_text(f"@{loop}\n")
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    for expression in (f"@{tmp_path}/absent", f"@{tmp_path}", "@", f"@{loop}", f"@{binary}", "@\0", "@~\0"):
        with pytest.raises(AddressError):
            parse_targets([expression])
