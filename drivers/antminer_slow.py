"""What a stock Antminer is not asked in every poll: work mode, pools, complaints, firmware, and its MAC.

The MAC and the work mode are only behind the web interface's login. After a refused login the web is left
alone for long, because these machines lock out; after any other failure the next try comes sooner.
"""

from drivers import antminer_answers as answers
from drivers._pyasic import AntminerRpc, AntminerWeb
from drivers.digest import Digest
from drivers.driver import (
    AuthenticationFailed,
    DriverError,
    Malformed,
    OutOfSockets,
    ReadOptions,
    Unsupported,
    WrongMachine,
)
from drivers.reading import Address, Family, Identity, Pool
from drivers.reads import Due, check_identity, endpoint
from drivers.transport import Answer
from drivers.values import mac, text

WEB_PORT = 80
_WEB_SHARE = 0.5
_RETRY_SHARE = 0.1


def web_access(
    address: Address, options: ReadOptions, login: Digest | None, *, share: float = 1.0
) -> AntminerWeb | None:
    """The web interface; None behind a forwarded port, where port 80 may be anybody's."""
    return None if address.port is not None else open_web(address, options, login, share=share)


def open_web(
    address: Address, options: ReadOptions, login: Digest | None, *, share: float = 1.0
) -> AntminerWeb:
    """The web interface on port 80."""
    port = endpoint(address, WEB_PORT, options, share=share)
    return AntminerWeb(port, login, write_s=options.write_s)


class SlowFacts:
    """The latest known facts of one machine. What could not be read is unknown, and `notes` say why."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions, rpc: AntminerRpc) -> None:
        self.mode = answers.UNREAD_MODE
        self.pools: tuple[Pool, ...] = ()
        self.complaints: tuple[str, ...] = ()
        self.firmware = identity.firmware
        self._identity = identity
        self._address = address
        self._options = options
        self._rpc = rpc
        self.login = Digest.of(options.login(Family.ANTMINER))
        """For whatever else is asked of the web interface: each challenge is met once."""
        self._web = web_access(address, options, self.login, share=_WEB_SHARE)
        self._due = Due()
        self._web_due = Due()
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be read, and why."""
        contradiction = (self.mode.contradiction,) if self.mode.contradiction else ()
        return (*self._notes.values(), *contradiction)

    @property
    def denied(self) -> bool:
        """Whether the web interface refused our login, and is left alone for now."""
        return not self._web_due.now()

    def deny(self) -> None:
        """It refused our login: leave it alone."""
        self._web_due.again_in(self._options.denied_retry_s)

    def outdated(self) -> None:
        """A command was sent: ask anew at the next refresh."""
        self._due = Due()

    def suspect(self) -> None:
        """Ask for everything at the next refresh, the MAC above all, even after a refused login."""
        self._due, self._web_due = Due(), Due()

    def too_late(self) -> None:
        """The reading had no time left for this."""
        self.mode = answers.UNREAD_MODE
        self._notes["mode"] = "mode unknown: the machine was too slow to be asked"

    async def refresh(self, *, hashing: bool) -> None:
        """Ask what is due.

        The mode of a machine that does not hash is asked every time (only that tells asleep from broken), and
        once more when it hashes again. Raises `WrongMachine` and `OutOfSockets`; other failures become notes.
        """
        if not self._due.now():
            if not hashing or self.mode.told_to_sleep:
                await self._read_mode()
            return
        self._due.again_within(self._options.slow_interval_s)
        await self._read_pools()
        if self._web is None:
            await self._read_mode()
            return
        async with self._web.one_connection():
            if await self._read_mode():
                await self._read_who()

    async def _read_pools(self) -> None:
        self.pools = ()
        self._notes.pop("pools", None)
        try:
            self.pools = answers.pools(await self._rpc.pools())
        except OutOfSockets:
            raise
        except DriverError as error:
            self._notes["pools"] = f"pools unknown: {error.kind} ({error.detail})"

    async def _read_mode(self) -> bool:
        """Read the configuration's work mode; False if the web interface would not say."""
        self.mode = answers.UNREAD_MODE
        try:
            self.mode = answers.mode(await self._configuration())
        except OutOfSockets:
            raise
        except DriverError as error:
            self._failed("mode", error)
            return False
        self._notes.pop("mode", None)
        return True

    async def _configuration(self) -> Answer:
        if self._web is None:
            raise Unsupported(self._address, "no web interface behind a forwarded port")
        if self.denied:
            raise AuthenticationFailed(self._address, "the web interface refused our login")
        configuration: Answer = await self._web.get_miner_conf()
        if not answers.is_configuration(configuration):
            raise Malformed(self._address, "get_miner_conf answered something else")
        return configuration

    async def _read_who(self) -> None:
        """MAC (and with it the identity), firmware, and what the web interface complains about."""
        if self._web is None:
            return
        self._notes.pop("web", None)
        try:
            info = await self._web.get_system_info()
            self._check(info)
            self.firmware = answers.firmware(info) or self.firmware
            self.complaints = answers.errors(await self._web.summary())
        except (OutOfSockets, WrongMachine):
            raise
        except Unsupported:
            return
        except DriverError as error:
            self._failed("web", error)

    def _check(self, info: Answer) -> None:
        """The web's serial compares only with one from the web; such a machine has a MAC too."""
        serial = text(info.get("serinum")) if self._identity.mac else None
        check_identity(self._address, self._identity, mac=mac(info.get("macaddr")), serial=serial)

    def _failed(self, what: str, error: DriverError) -> None:
        self._notes[what] = f"{what} unknown: {error.kind} ({error.detail})"
        if isinstance(error, AuthenticationFailed) and not self.denied:
            self.deny()
        if not isinstance(error, AuthenticationFailed | Unsupported):
            self._due.again_in(self._options.slow_interval_s * _RETRY_SHARE)
