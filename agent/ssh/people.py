"""Who may look from elsewhere: public keys, each with the name of the person it belongs to.

PeopleError                exit 2: a file of keys that nobody could trust or read; says which line and what to do
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from agent.errors import UsageError

_LINE = "a line is a public key and the name of its owner: `ssh-ed25519 AAAAC3Nza... anna`"
_FILE_LIMIT_BYTES = 1024 * 1024


class PeopleError(UsageError):
    """The file of public keys cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One key and whose it is; `fingerprint` is `SHA256:...`, as ssh-keygen -l tells it."""

    name: str
    fingerprint: str


People = Mapping[bytes, Person]
"""Persons by the binary form of their public key."""


def load_people(path: Path) -> People:
    """Read a file of public keys. Raises `PeopleError` with every line that is wrong."""
    text = _text_of(path)
    people: dict[bytes, Person] = {}
    mistakes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            data, person = _person(line)
        except ValueError as error:
            mistakes.append(f"{path}, line {number}: {error}")
            continue
        if data in people:
            mistakes.append(f"{path}, line {number}: the key is there twice, it is {people[data].name}'s too")
        people[data] = person
    if mistakes:
        raise PeopleError("\n".join(mistakes))
    if not people:
        raise PeopleError(f"{path}: has no key, nobody could come in; {_LINE}")
    return people


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PeopleError(f"{path}: others than its owner may write it; `chmod go-w {path}`")
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise PeopleError(
            f"{path}: cannot be read ({error.strerror}); write one, or name another with --keys; {_LINE}"
        ) from error
    if len(content) > _FILE_LIMIT_BYTES:
        raise PeopleError(f"{path}: is longer than 1 MiB, no file of public keys; {_LINE}")
    return content.decode("utf-8", "replace")


def _person(line: str) -> tuple[bytes, Person]:
    """Raises `ValueError`: options, as OpenSSH knows them, are refused rather than passed over."""
    parts = line.split()
    if len(parts) < 3:
        raise ValueError(_LINE)
    name = " ".join(parts[2:])
    if not name.isprintable():
        raise ValueError("a name of characters that cannot be printed")
    try:
        key = asyncssh.import_public_key(" ".join(parts[:2]))
    except (asyncssh.KeyImportError, ValueError) as error:
        raise ValueError(f"no public key, or one with options, which are not known here; {_LINE}") from error
    return key.public_data, Person(name=name, fingerprint=key.get_fingerprint())
