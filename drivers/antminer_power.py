"""Which of the routes to its wattage a stock Antminer has: learned once, asked again only rarely.

Some firmware puts `chain_power` into `stats`, some only into `stats` with `new_api`, and the S19 XP Hyd, S21
and S21 Pro answer `GET :6060/miner_power`. Most have none of them.
"""

from enum import Enum, auto

from drivers._pyasic import AntminerRpc
from drivers.antminer_answers import chain_power_w, port_power_w
from drivers.driver import DriverError, OutOfSockets, ReadOptions
from drivers.reading import Address
from drivers.reads import Due, endpoint
from drivers.transport import Answer, exchange

POWER_PORT = 6060
_REQUEST = b"GET /miner_power HTTP/1.0\r\nConnection: close\r\n\r\n"
_PROBE_SHARE = 0.3


class PowerRoute(Enum):
    """How a machine tells its watts."""

    STATS = auto()
    NEW_API = auto()
    PORT = auto()


class ReportedPower:
    """One machine's reported watts, by the route that it has."""

    def __init__(self, address: Address, options: ReadOptions, rpc_port: int) -> None:
        self._options = options
        self._rpc = AntminerRpc(endpoint(address, rpc_port, options, share=_PROBE_SHARE))
        forwarded = address.port is not None
        self._port = None if forwarded else endpoint(address, POWER_PORT, options, share=_PROBE_SHARE)
        self._route: PowerRoute | None = None
        self._probe = Due()

    @property
    def has_route(self) -> bool:
        """Whether the machine has ever reported watts here."""
        return self._route is not None

    async def read_w(self, stats: Answer, *, hashing: bool) -> float | None:
        """Watts, or None: NaN, 0, an error text and silence are not watts.

        While the machine does not hash, a missing answer says nothing about which routes it has.
        """
        watts = chain_power_w(stats)
        if watts is not None:
            self._route = PowerRoute.STATS
            return watts
        if self._route in (PowerRoute.NEW_API, PowerRoute.PORT):
            return await self._ask(self._route)
        return await self._search(hashing=hashing) if self._probe.now() else None

    async def _search(self, *, hashing: bool) -> float | None:
        self._probe.again_within(
            self._options.power_probe_interval_s if hashing else self._options.slow_interval_s
        )
        for route in (PowerRoute.NEW_API, PowerRoute.PORT):
            watts = await self._ask(route)
            if watts is not None:
                self._route = route
                return watts
        return None

    async def _ask(self, route: PowerRoute) -> float | None:
        try:
            if route is PowerRoute.NEW_API:
                return chain_power_w(await self._rpc.stats(new_api=True))
            return await self._ask_port()
        except OutOfSockets:
            raise
        except DriverError:
            return None

    async def _ask_port(self) -> float | None:
        if self._port is None:
            return None
        page: bytes = await exchange(self._port, _REQUEST, _whole_page)
        return port_power_w(page)


def _whole_page(received: bytearray, ended: bool) -> bytes | None:
    return bytes(received) if ended else None
