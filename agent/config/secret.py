"""Secrets by reference: the file names where one is, and never holds one."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from agent.config.section import Section

SERVICE_CREDENTIALS = "secrets"
"""Name under which the unit hands over the directory of secrets; its files come as `secrets_NAME`."""


def resolve(
    *,
    env: str | None = None,
    file: str | None = None,
    credential: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """The secret in an environment variable, a file, or a credential of the systemd service, whichever is named.

    Raises `ValueError` that names what is not there; never shows what is.
    """
    if env is not None:
        if not (value := environment.get(env)):
            raise ValueError(f"environment variable {env} is not set")
        return value
    if credential is not None:
        return _credential(credential, environment.get("CREDENTIALS_DIRECTORY"))
    return _content(Path(file or ""), "password file")


def _credential(name: str, directory: str | None) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a credential: letters, digits, dot, dash and underscore")
    if not directory:
        raise ValueError(
            f"credential {name}: there are none, CREDENTIALS_DIRECTORY is not set; systemd sets it for the service"
        )
    for candidate in (name, f"{SERVICE_CREDENTIALS}_{name}"):
        if (path := Path(directory) / candidate).is_file():
            return _content(path, "credential")
    raise ValueError(
        f"credential {name}: not handed over by systemd; put it into /etc/hashcost/secrets and restart"
    )


def _content(path: Path, what: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:  # its message would show what is in the file
        raise ValueError(f"{what} {path} cannot be read (not UTF-8)") from error
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read ({error.strerror})") from error
    if not text:
        raise ValueError(f"{what} {path} is empty")
    return text


class SecretSection(Section):
    """A password or key by reference."""

    password_env: str | None = Field(
        default=None, description="Environment variable with the password or key."
    )
    password_file: str | None = Field(default=None, description="File with the password or key.")
    password_credential: str | None = Field(
        default=None, description="Credential of the systemd service with the password or key."
    )

    @property
    def has_secret(self) -> bool:
        """Whether one is named."""
        return self._count() > 0

    def _count(self) -> int:
        named = (self.password_env, self.password_file, self.password_credential)
        return sum(name is not None for name in named)

    def secret(self) -> str:
        """The password or key. Raises `ValueError` naming what is not there."""
        return resolve(env=self.password_env, file=self.password_file, credential=self.password_credential)

    def check_secret(self, *, needed: bool = False) -> None:
        """Raise `ValueError` unless at most one reference is given (exactly one where it is `needed`), and it leads to
        something."""
        count, names = self._count(), "password_env, password_file and password_credential"
        if needed and count != 1:
            raise ValueError(f"give exactly one of {names}")
        if count > 1:
            raise ValueError(f"give at most one of {names}")
        if self.has_secret:
            self.secret()
