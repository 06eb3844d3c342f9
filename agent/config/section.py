"""What all sections of the configuration share: strictness, and how addresses are written."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from drivers.addresses import AddressError, is_ipv4, parse_targets


class Section(BaseModel):
    """One table of the file. An unknown key, a value of another type or beyond its bounds is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _addresses(expressions: list[str]) -> list[str]:
    try:
        parse_targets(expressions)
    except AddressError as error:
        raise ValueError(str(error)) from error
    return expressions


def numeric(expressions: list[str]) -> list[str]:
    """Refuse names. Raises `ValueError` that lists them."""
    names = sorted({address.host for address in parse_targets(expressions) if not is_ipv4(address.host)})
    if names:
        raise ValueError(f"{', '.join(names)}: give the address; machines are known by it, not by a name")
    return expressions


Addresses = Annotated[list[str], AfterValidator(_addresses)]
