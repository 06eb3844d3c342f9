"""Commands a stock Antminer: read its configuration, change the mode in it, write it back.

Nothing is ever posted unless the configuration was read whole just before, strictly and with a pool in it, from
the machine whose MAC is known: by the command itself, or by `restore_point` seconds before it.
"""

from drivers import antminer_answers as answers
from drivers import antminer_configuration as configurations
from drivers import commands
from drivers._pyasic import AntminerRpc
from drivers.antminer_slow import SlowFacts, open_web
from drivers.commands import WITHIN_MINUTES, Prepared, receipt
from drivers.driver import (
    AuthenticationFailed,
    CommandRefused,
    Incomplete,
    Malformed,
    ReadOptions,
    Receipt,
    RestorePoint,
)
from drivers.reading import Address, Identity, PowerMode
from drivers.reads import check_identity, deadline
from drivers.transport import Answer
from drivers.values import mac, text

_MODES = frozenset({PowerMode.NORMAL, PowerMode.LOW})
_WITH_EFFICIENCY = ("S19K PRO",)


class AntminerControl:
    """The commands of one machine. `slow` knows whether the web interface refused our login."""

    timings = WITHIN_MINUTES

    def __init__(
        self, identity: Identity, address: Address, options: ReadOptions, rpc: AntminerRpc, slow: SlowFacts
    ) -> None:
        self._identity = identity
        self._address = address
        self._options = options
        self._rpc = rpc
        self._slow = slow
        self._web = open_web(address, options, slow.login)
        self._prepared = Prepared[Answer]()
        efficient = any(name in identity.model.upper() for name in _WITH_EFFICIENCY)
        self.power_modes = _MODES | {PowerMode.HIGH_EFFICIENCY} if efficient else _MODES

    async def restore_point(self) -> RestorePoint:
        """The mode keys and the frequency level. Raises `CommandRefused` if it sleeps: its mode is gone."""
        self._prepared.take()
        async with self._web.one_connection(left_open_s=commands.PREPARED_FOR_S):
            configuration = await self._configuration()
            if configurations.sleeps(configuration):
                raise CommandRefused(self._address, "sleeps already: the mode that it mined in is not known")
        self._prepared.keep(configuration)
        return configurations.restore_point(configuration)

    async def sleep(self) -> Receipt:
        """Post mode 1."""
        async with self._web.one_connection():
            return await receipt(self._post(configurations.sleeping(await self._configuration())))

    async def wake(self, point: RestorePoint) -> Receipt:
        """Post the mode and frequency level of `point`."""
        async with self._web.one_connection():
            configuration = await self._configuration()
            try:
                posted = configurations.waking(configuration, point)
            except ValueError as error:
                raise CommandRefused(self._address, str(error)) from error
            return await receipt(self._post(posted))

    async def set_power_mode(self, mode: PowerMode) -> Receipt:
        """Post the mode."""
        async with self._web.one_connection():
            configuration = await self._configuration()
            if configurations.sleeps(configuration):
                raise CommandRefused(self._address, "sleeps: a mode would wake it")
            return await receipt(self._post(configurations.in_mode(configuration, mode)))

    async def _configuration(self) -> Answer:
        """The configuration, fit to be written back, of the right machine. Raises `DriverError`."""
        if self._slow.denied:
            raise AuthenticationFailed(
                self._address, "the web interface refused our login; not tried again yet"
            )
        prepared = self._prepared.take()
        if prepared is not None:
            return prepared
        try:
            async with deadline(self._address, self._options.deadline_s):
                await self._check_identity()
                configuration: Answer = await self._web.exact_miner_conf()
        except AuthenticationFailed:
            self._slow.deny()
            raise
        flaw = configurations.flaw(configuration)
        if flaw:
            raise Incomplete(self._address, f"get_miner_conf: {flaw}, so nothing was posted")
        return configuration

    async def _check_identity(self) -> None:
        """By MAC; by the controller's id where the web interface told none when it was identified."""
        if self._identity.mac is None:
            live = answers.live(await self._rpc.stats(), {}, None)
            check_identity(self._address, self._identity, mac=None, serial=live.miner_id)
            return
        info = await self._web.get_system_info()
        found = mac(info.get("macaddr"))
        if found is None:
            raise Incomplete(self._address, "get_system_info has no MAC, so nothing was posted")
        check_identity(self._address, self._identity, mac=found, serial=text(info.get("serinum")))

    async def _post(self, posted: Answer) -> str:
        """Post with numbers as modes; if that is a bad request, once more with texts. The machine's words."""
        for spelled in (posted, configurations.with_texts(posted)):
            try:
                answer: Answer | None = await self._web.set_miner_conf(spelled)
            except AuthenticationFailed:
                self._slow.deny()
                raise
            if answer is not None:
                return self._judged(answer)
        raise CommandRefused(self._address, "set_miner_conf: HTTP 400, with the mode as number and as text")

    def _judged(self, answer: Answer) -> str:
        """The machine's words. An error comes with HTTP 200 too."""
        verdict, code = answer.get("stats"), answer.get("code")
        words = f"{text(code) or 'no code'}: {text(answer.get('msg')) or 'no reason given'}"
        if verdict == "error" or code == "M001":
            raise CommandRefused(self._address, f"set_miner_conf: {words}", sent=True)
        if verdict == "success" or code == "M000":
            return words
        raise Malformed(self._address, "set_miner_conf answered something else", sent=True)
