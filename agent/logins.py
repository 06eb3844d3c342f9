"""Who logs in to which machine: a login of its own, else its group's, else the site's for its family, else the
factory's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.config import Config
from agent.groups import Groups
from drivers.driver import FACTORY_CREDENTIALS, Credentials, ReadOptions
from drivers.reading import Address, MachineId


@dataclass(frozen=True, slots=True)
class Logins:
    """Every login of a site, secrets resolved. `own` is by machine id or group, and says only what is different."""

    site: Mapping[str, Credentials]
    groups: Groups
    own: Mapping[str, Mapping[str, Credentials]] = field(default_factory=dict)

    def of(self, machine_id: MachineId | None, group: str) -> Mapping[str, Credentials]:
        """The logins of a machine, by family; None is one of which nobody knows yet who it is."""
        own = {} if machine_id is None else self.own.get(machine_id, {})
        return {**self.site, **self.own.get(group, {}), **own}

    def at(
        self, options: ReadOptions, address: Address, known: Mapping[Address, MachineId] | None = None
    ) -> ReadOptions:
        """How to ask what is at an address; `known` says who was last there."""
        if not self.own:
            return options
        machine_id = None if known is None else known.get(address)
        return replace(options, credentials=self.of(machine_id, self.groups.of(address)))


def logins(config: Config) -> Logins:
    """The configured logins over the factory's; that each is there was found out when the file was validated."""
    own = {name: section.logins() for name, section in config.overrides.items() if section.credentials}
    return Logins({**FACTORY_CREDENTIALS, **config.logins()}, Groups(config.groups), own)
