"""Digest login: what is sent for each kind of challenge, as a machine would check it."""

import hashlib
import re

import pytest

from drivers.digest import Digest
from drivers.driver import Credentials
from drivers.http import Response

LOGIN = Credentials(username="Mufasa", password="CircleOfLife")
REALM = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
PATH = "/dir/index.html"


def told(challenge: str, status: int = 401) -> Response:
    headers = [(b"www-authenticate", b"Basic realm=x"), (b"www-authenticate", challenge.encode())]
    return Response(status=status, headers=headers, body=b"")


def header(login: Digest) -> dict[str, str]:
    """The fields of the header, without their quotes."""
    value = login.authorization("GET", PATH)["Authorization"]
    assert value.startswith("Digest ")
    return dict(re.findall(r'(\w+)="?([^",]*)', value.removeprefix("Digest ")))


def test_before_a_challenge_no_login_leaves() -> None:
    assert Digest(LOGIN).authorization("GET", PATH) == {}


def test_a_challenge_without_qop_is_met_as_before_1999() -> None:
    login = Digest(LOGIN)
    assert login.challenged(told(REALM))
    fields = header(login)
    assert fields["response"] == "1949323746fe6a43ef61f9606e7febea"  # errata 749 of RFC 2617
    assert "nc" not in fields


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [("MD5", "md5"), ("md5", "md5"), ("MD5-sess", "md5"), ("SHA-256", "sha256"), ("SHA-256-sess", "sha256")],
)
def test_a_challenge_is_met_with_its_algorithm_and_counted(algorithm, name) -> None:
    login = Digest(LOGIN)
    login.challenged(told(f'{REALM}, qop="auth-int, auth", algorithm={algorithm}, opaque="5ccc"'))

    def digest(*parts: str) -> str:
        return hashlib.new(name, ":".join(parts).encode()).hexdigest()

    for number in ("00000001", "00000002"):
        fields = header(login)
        who = digest("Mufasa", "testrealm@host.com", "CircleOfLife")
        if algorithm.endswith("-sess"):
            who = digest(who, fields["nonce"], fields["cnonce"])
        what = digest("GET", PATH)
        proof = digest(who, fields["nonce"], number, fields["cnonce"], "auth", what)
        assert (fields["nc"], fields["response"]) == (number, proof)
        assert (fields["uri"], fields["opaque"], fields["algorithm"]) == (PATH, "5ccc", algorithm)


def test_a_new_challenge_is_counted_from_one() -> None:
    login = Digest(LOGIN)
    login.challenged(told(f'{REALM}, qop="auth"'))
    header(login)
    assert login.challenged(told('Digest realm="x, y", nonce="new", qop="auth"'))
    fields = login.authorization("GET", PATH)["Authorization"]
    assert 'realm="x, y"' in fields
    assert "nc=00000001" in fields


def test_a_login_that_is_forgotten_waits_for_a_challenge() -> None:
    login = Digest(LOGIN)
    login.challenged(told(REALM))
    login.forget()
    assert login.authorization("GET", PATH) == {}


@pytest.mark.parametrize("challenge", ["Basic realm=x", "Bearer", ""])
def test_what_is_no_digest_challenge_is_not_met(challenge) -> None:
    assert not Digest(LOGIN).challenged(told(challenge))


def test_a_page_that_is_not_denied_challenges_nobody() -> None:
    assert not Digest(LOGIN).challenged(told(REALM, status=403))


@pytest.mark.parametrize("challenge", ["Digest nonce=x", 'Digest realm="x"', "Digest ="])
def test_a_challenge_that_is_none_is_an_error(challenge) -> None:
    with pytest.raises(ValueError, match="digest challenge"):
        Digest(LOGIN).challenged(told(challenge))


@pytest.mark.parametrize("more", ["algorithm=MD4", "qop=auth-int"])
def test_a_challenge_that_cannot_be_met_is_an_error(more) -> None:
    with pytest.raises(ValueError, match="digest challenge"):
        Digest(LOGIN).challenged(told(f"{REALM}, {more}"))
