"""TLS to the servers of a fleet: their certificates are checked, against an authority of one's own or the system's."""

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.config import parse
from agent.federation.connection import Servers, connected
from agent.simulated.nats import Cluster, server_program
from tests.agent.builders import eventually

pytestmark = [
    pytest.mark.usefixtures("slow"),
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
]


@pytest.fixture
def slow(monkeypatch):
    """A host may take a minute to connect."""
    monkeypatch.setattr("agent.federation.connection.CONNECT_WITHIN_S", 60)


def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def authority(directory, name):
    """A certificate authority: its key, its certificate, and a file with that."""
    private = ec.generate_private_key(ec.SECP256R1())
    certificate = signed(named(name), private.public_key(), named(name), private, is_authority=True)
    file = directory / f"{name}.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return private, certificate, file


def signed(subject, public, issuer, by, *, is_authority=False, host=None):
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if host is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(by, hashes.SHA256())


def tls_of(directory, host):
    """The servers' configuration with a certificate for `host`, and the file of the authority that signed it."""
    private, certificate, file = authority(directory, f"authority-{host}")
    key = ec.generate_private_key(ec.SECP256R1())
    own = signed(named("server"), key.public_key(), certificate.subject, private, host=host)
    (directory / "server.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return f'tls {{ cert_file: "{directory}/server.pem", key_file: "{directory}/server.key" }}', file


@pytest.fixture
def outcome(lines):
    """What comes of connecting, as long as it may take: nothing, or why it was refused."""

    async def of(cluster, ca_file, scheme="tls"):
        addresses = tuple(url.replace("nats://", f"{scheme}://") for url in cluster.urls)
        config = parse(
            f'[fleet]\nservers = ["{addresses[0]}"]\norg = "acme"\n'
            + (f'ca_file = "{ca_file}"\n' if ca_file else ""),
            source="test",
        )
        servers = config.fleet.connection("denver")
        assert isinstance(servers, Servers)
        refused_before = len(lines("event=nats_error"))

        async def connect():
            async with connected(servers) as client:
                await client.flush(timeout=60)

        connecting = asyncio.create_task(connect())
        try:
            await eventually(lambda: connecting.done() or len(lines("event=nats_error")) > refused_before)
            refused = lines("event=nats_error")[refused_before:]
            if not refused:
                await connecting
            return "".join(refused)
        finally:
            connecting.cancel()
            await asyncio.wait([connecting])

    return of


async def test_a_server_is_believed_by_its_certificate_and_no_other(tmp_path, outcome):
    extra, right = tls_of(tmp_path, "127.0.0.1")
    _, _, wrong = authority(tmp_path, "stranger")
    with Cluster(tmp_path, nodes=1, extra=extra) as cluster:
        assert await outcome(cluster, right) == ""
        assert (
            await outcome(cluster, right, scheme="nats") == ""
        )  # it insists on TLS, and is checked all the same
        assert "certificate verify failed" in await outcome(cluster, wrong)
        assert "certificate verify failed" in await outcome(cluster, None)  # the system does not know it


async def test_a_certificate_of_another_host_is_not_believed(tmp_path, outcome):
    extra, right = tls_of(tmp_path, "127.0.0.9")
    with Cluster(tmp_path, nodes=1, extra=extra) as cluster:
        assert "not valid for '127.0.0.1'" in await outcome(cluster, right)


async def test_a_server_without_tls_is_not_talked_to_where_tls_is_wanted(tmp_path, outcome):
    _, _, file = authority(tmp_path, "ours")
    with Cluster(tmp_path, nodes=1) as cluster:
        assert "does not talk TLS" in await outcome(cluster, file)
        assert await outcome(cluster, None, scheme="nats") == ""
