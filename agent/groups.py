"""To which group of the configuration an address belongs."""

from collections.abc import Mapping, Sequence

from drivers.addresses import parse_targets
from drivers.reading import Address

SITE_GROUP = "site"
"""What is in no group."""


class Groups:
    """Name of each group to its addresses; of several that fit, the first counts."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self._groups: dict[Address, tuple[int, str]] = {}
        for rank, (name, expressions) in enumerate(groups.items()):
            for address in parse_targets(expressions):
                self._groups.setdefault(address, (rank, name))

    def of(self, address: Address) -> str:
        """The first group with this address, or with its host and no port, which means all ports."""
        fitting = [self._groups.get(each) for each in (address, Address(host=address.host))]
        return min((group for group in fitting if group is not None), default=(0, SITE_GROUP))[1]
