"""Scanning: finds every machine and nothing else, bounded in what is in flight, and names what it cannot tell."""

import asyncio
import json
import resource
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.connect import connect
from drivers.discovery import (
    FindingKind,
    KnownMachine,
    ScanProgress,
    parse_targets,
    reconcile,
    scan,
)
from drivers.driver import OutOfSockets
from drivers.reading import Address, Family
from drivers.simulator.faults import Fault
from drivers.simulator.site import Site, SiteSpec


@pytest.fixture
async def site(network):
    async with Site(
        SiteSpec(machines=40, seed=5, network=f"{network}.0/24"), monotonic=asyncio.get_running_loop().time
    ) as running:
        yield running


async def test_a_site_is_found_completely(site, quick, leftovers) -> None:
    steps: list[ScanProgress] = []
    targets = parse_targets(site.scan_targets)
    with leftovers(within_s=8.0):
        result = await scan(targets, options=replace(quick, deadline_s=10, call_s=5), progress=steps.append)
    assert [(address.host, identity.mac, identity.family) for address, identity in result.found] == [
        (machine.address, machine.mac, machine.family) for machine in site.machines
    ]
    assert result.failures == ()
    assert result.silent == len(targets) - len(site.machines)
    assert {identity.family for _, identity in result.found} == {
        Family.ANTMINER,
        Family.WHATSMINER_V2,
        Family.WHATSMINER_V3,
    }
    assert (steps[-1].probed, steps[-1].found) == (len(targets), len(site.machines))
    assert [step.probed for step in steps] == sorted(step.probed for step in steps)


async def test_a_second_scan_finds_moved_machines_by_identity(site, quick, network) -> None:
    targets = parse_targets(site.scan_targets)
    before = await scan(targets, options=quick)
    known = {i.machine_id: KnownMachine(identity=i, address=a) for a, i in before.found if i.machine_id}
    first, second, third = (machine.address for machine in site.machines[:3])
    free = targets[-1].host
    site.move(first, free)
    site.swap(second, third)
    findings = {f.address.host: f for f in reconcile(known, (await scan(targets, options=quick)).found)}
    assert (findings[free].kind, findings[free].previous) == (FindingKind.MOVED, Address(host=first))
    assert [findings[host].kind for host in (second, third)] == [FindingKind.MOVED] * 2
    assert [f.kind for f in findings.values()].count(FindingKind.SAME) == len(site.machines) - 3


async def test_a_duplicate_mac_is_reported_on_both(site, quick) -> None:
    one, two = site.machines[0].address, site.machines[7].address
    for host in (one, two):
        site.set_fault(host, Fault.DUPLICATE_MAC, mac="02:13:AA:00:00:01")
    result = await scan(parse_targets(site.scan_targets), options=quick)
    kinds = {finding.address.host: finding.kind for finding in reconcile({}, result.found)}
    assert kinds[one] is kinds[two] is FindingKind.DUPLICATE


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.HANGS, "no_answer"),
        (Fault.GARBAGE, "malformed"),
        (Fault.HTML, "malformed"),
        (Fault.OVERSIZED, "oversized"),
        (Fault.CUT_JSON, "malformed"),
    ],
)
async def test_a_machine_that_answers_nonsense_is_a_failure_and_not_missing(
    site, quick, leftovers, fault, kind
) -> None:
    broken = [
        next(m.address for m in site.machines if m.family is family)
        for family in Family
        if family != "generic"
    ]
    for host in broken:
        site.set_fault(host, fault)
    with leftovers(within_s=8.0):
        result = await scan([Address(host=host) for host in broken], options=quick)
    assert result.found == ()
    assert {(failure.address.host, failure.kind) for failure in result.failures} == {
        (host, kind) for host in broken
    }
    assert result.silent == 0


async def test_other_servers_are_no_machines(servers, peers, quick, network) -> None:
    await servers.listen(
        f"{network}.1", 80, lambda _, transport: peers.http(transport, 200, b"<html>printer</html>")
    )
    await servers.listen(f"{network}.2", 4028, peers.says(b"SSH-2.0-OpenSSH_9.6\r\n"))
    await servers.listen(f"{network}.3", 4028, peers.says(b'{"STATUS":[{"STATUS":"E","Msg":"?"}]}'))
    await servers.listen(f"{network}.4", 4433, peers.reset)
    addresses = parse_targets([f"{network}.1-6"])
    result = await scan(addresses, options=quick)
    assert [(f.address.host[-1], f.kind) for f in result.failures] == [
        ("1", "unsupported"),
        ("2", "malformed"),
        ("3", "unsupported"),
        ("4", "connection_lost"),
    ]
    assert result.silent == 2


async def test_stock_is_told_from_other_firmware_by_the_web_interface(servers, peers, quick, network) -> None:
    machine = await servers.machine("antminer/s19k-pro", f"{network}.1")
    page = b"<html><title>AnthillOS</title></html>"
    info = {
        "token": "t",
        "miner": "Antminer S19k Pro",
        "fw_version": "1.2.6",
        "system": {"network_status": {"mac": "02:13:a7:00:88:01"}},
    }

    def vnish(received: bytes, transport: asyncio.Transport) -> None:
        peers.http(transport, 200, page if received.startswith(b"GET / ") else json.dumps(info).encode())

    machine.web_behave = vnish
    ((_, identity),) = (await scan([machine.address], options=quick)).found
    assert (identity.family, identity.make, identity.mac) == (Family.GENERIC, "Vnish", "02:13:A7:00:88:01")
    assert identity.driver_class == "VNishS19kPro"


@pytest.mark.parametrize("recorded", ["antminer/s19k-pro", "whatsminer_v2/m30s-plus", "whatsminer_v3/m63s"])
async def test_a_forwarded_port_may_be_any_protocol(servers, quick, leftovers, network, recorded) -> None:
    machine = await servers.machine(recorded, f"{network}.1")
    await servers.listen(f"{network}.9", 14028, next(iter(machine.ports().values())))
    address = Address(host=f"{network}.9", port=14028)
    ((found, identity),) = (await scan([address], options=quick)).found
    assert found == address
    driver = connect(identity, found, options=quick)
    with leftovers(within_s=1.0):
        reading = await driver.read()
    assert reading.hashrate_ths
    if identity.family is Family.ANTMINER:
        assert identity.machine_id == "sn:9f02c41d77ab3e10"
        assert any("forwarded port" in error for error in reading.errors)


async def test_names_are_looked_up_and_found_as_addresses(servers, quick) -> None:
    machine = await servers.machine("whatsminer_v3/m63s", "127.0.0.1")
    result = await scan(parse_targets(["localhost"]), options=quick)
    assert [address for address, _ in result.found] == [machine.address]


async def test_no_more_than_the_limit_is_identified_at_once(servers, quick, network) -> None:
    now, most = 0, 0

    def behave(received: bytes, transport: asyncio.Transport) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)

        def answer() -> None:
            nonlocal now
            now -= 1
            transport.close()

        asyncio.get_running_loop().call_later(0.05, answer)

    for number in range(1, 21):
        await servers.listen(f"{network}.{number}", 4028, behave)
    result = await scan(parse_targets([f"{network}.1-20"]), options=quick, identify_limit=3)
    assert len(result.failures) == 20
    assert most == 3


async def test_silent_addresses_cost_one_probe(quick, network, leftovers) -> None:
    """A full backlog does not answer, as a dead address does not."""
    listeners = [socket.socket() for _ in range(3)]
    crowd: list[socket.socket] = []
    for listener, port in zip(listeners, (4028, 4433, 80), strict=True):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((f"{network}.1", port))
        listener.listen(0)
        for _ in range(3):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex((f"{network}.1", port))
            crowd.append(each)
    try:
        with leftovers(within_s=0.2):
            result = await scan([Address(host=f"{network}.1")], options=quick, probe_s=0.2)
        assert (result.silent, result.failures) == (1, ())
    finally:
        for each in [*listeners, *crowd]:
            each.close()


async def test_a_scan_that_cannot_open_sockets_has_not_found_nothing(quick, network) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, hard))
        with pytest.raises(OutOfSockets):
            await scan(parse_targets([f"{network}.0/24"]), options=quick)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_nothing_to_scan(quick) -> None:
    result = await scan([], options=quick)
    assert (result.found, result.failures, result.silent) == ((), (), 0)
