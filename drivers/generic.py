"""Reads everything else that pyasic speaks, through `get_data`, without believing its defaults.

pyasic leaves out what it could not get and fills in what nobody said (`is_mining=True`). So only fields that
its backend really set are used, and a machine without a hashrate is a failure: the transport's own error if
there was one.
"""

from datetime import datetime
from typing import Any

import httpx

from drivers import _pyasic, generic_control
from drivers.catalogue import nameplate
from drivers.commands import Commanded
from drivers.driver import (
    Capabilities,
    Credentials,
    DriverError,
    Incomplete,
    Malformed,
    OutOfSockets,
    ReadOptions,
    Refused,
    Unsupported,
    WrongMachine,
)
from drivers.plausibility import judged
from drivers.power import power_truth
from drivers.reading import Address, Board, Family, Identity, Pool, Reading
from drivers.reads import Due, WindDown, check_identity, deadline, endpoint, run_state
from drivers.ssh import SshControl, stopped_reading
from drivers.transport import CGMINER_PORT
from drivers.values import mac, number, positive, text, whole
from drivers.web import http_failure, overheard

RAMP_S = 900.0
_TRANSPORT = (DriverError, httpx.HTTPError)
_FAST = ["hashrate", "expected_hashrate", "hashboards", "env_temp", "wattage", "fans", "is_mining", "uptime"]
_WHO = ["mac", "serial_number", "fw_ver"]
_ALGORITHMS = {"SHA256", "Generic (Unknown)"}
"""Of a model that pyasic does not know it does not know the algorithm either."""


class Generic(Commanded):
    """One machine of any other make or firmware."""

    def __init__(self, identity: Identity, address: Address, options: ReadOptions) -> None:
        self._identity = identity
        self._address = address
        self._options = options
        port = endpoint(address, address.port or CGMINER_PORT, options)
        self._miner = _pyasic.build(identity.driver_class, port, options.login(Family.GENERIC))
        if self._miner is None:
            raise Unsupported(address, f"pyasic has no class {identity.driver_class!r}")
        algorithm = getattr(self._miner.algo, "name", None)
        if algorithm not in _ALGORITHMS:
            raise Unsupported(address, f"{identity.model} mines {algorithm}, not SHA256")
        self._slow_due = Due()
        self._pools: tuple[Pool, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._previous_ths: float | None = None
        self._wind_down = WindDown()
        self._firmware = generic_control.control(self._reach())
        self._shell = _shell(identity, address, options)
        control = self._shell or self._firmware
        super().__init__(address, control, self._outdate, "no way to put it to sleep is known")

    def _reach(self) -> generic_control.Reach:
        web = self._miner.web
        login = Credentials(
            username=getattr(web, "username", "") or "", password=getattr(web, "pwd", "") or ""
        )
        return generic_control.Reach(
            identity=self._identity,
            address=self._address,
            options=self._options,
            login=login,
            meet=self._meet,
        )

    async def _meet(self) -> None:
        """Make sure that it is still the same machine. Raises `DriverError`."""
        found = await who(self._miner, self._identity, self._address)
        if self._identity.machine_id and not found.machine_id:
            raise Incomplete(self._address, "does not tell who it is, so nothing was sent")
        check_identity(self._address, self._identity, mac=found.mac, serial=found.serial)

    def _outdate(self) -> None:
        self._slow_due = Due()

    @property
    def address(self) -> Address:
        """Where the machine answers."""
        return self._address

    @property
    def identity(self) -> Identity:
        """Who it was when it was identified."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """Sleep where the firmware has a call for it, and no modes."""
        return Capabilities(can_sleep=self.can_sleep, power_modes=self.power_modes, reports_power=True)

    async def identify(self) -> Identity:
        """Ask the machine who it is now; its class stays what it was."""
        async with deadline(self._address, self._options.deadline_s):
            return await who(self._miner, self._identity, self._address)

    async def read(self) -> Reading:
        """Read the machine once. Raises `DriverError`."""
        began_at = self._options.clock()
        try:
            return await self._read(began_at)
        except Refused:
            if self._shell is None or await self._shell.mines():
                raise
            self._previous_ths = 0.0
            return stopped_reading(began_at, self._options.clock(), self._identity.firmware)

    async def _read(self, began_at: datetime) -> Reading:
        with overheard() as heard:
            async with deadline(self._address, self._options.deadline_s):
                said = await _get_data(self._miner, _FAST, heard)
                hashrate_ths = self._hashrate_ths(said, heard)
                if self._slow_due.now():
                    self._slow_due.again_within(self._options.slow_interval_s)
                    await self._read_slow()
                stopped = await self._told_to_sleep(said, hashrate_ths)
        return self._reading(said, hashrate_ths, stopped, began_at)

    async def _told_to_sleep(self, said: Any, hashrate_ths: float) -> bool | None:
        """By pyasic's `is_mining` if its backend set that; else a machine that does not hash is asked."""
        if "is_mining" in said.model_fields_set:
            return None if said.is_mining is None else not said.is_mining
        if hashrate_ths > 0 or self._firmware is None:
            return None
        try:
            return await self._firmware.told_to_sleep()
        except OutOfSockets:
            raise
        except DriverError:
            return None

    def _hashrate_ths(self, said: Any, heard: list[Exception]) -> float:
        """TH/s that a backend set. Nothing, or a zero next to a failed request, is a failure."""
        total = _ths(said.raw_hashrate)
        boards = [rate for board in said.hashboards if (rate := _ths(board.hashrate)) is not None]
        found = total if total is not None else (sum(boards) if boards else None)
        if found is None or (found <= 0 and heard):
            raise _worst(heard, self._address) or Incomplete(self._address, "no hashrate in its answers")
        return found

    async def _read_slow(self) -> None:
        """Who it is, and its pools; pyasic gives up on all data for one pool address that it does not know."""
        self._notes = ()
        try:
            found = await who(self._miner, self._identity, self._address)
            check_identity(self._address, self._identity, mac=found.mac, serial=found.serial)
        except (OutOfSockets, WrongMachine):
            raise
        except DriverError as error:
            self._notes = (f"identity not confirmed: {error.kind} ({error.detail})",)
        with overheard() as heard:
            said = await _get_data(self._miner, ["pools"], heard)
        self._pools = tuple(_pool(pool) for pool in said.pools if pool.url is not None)
        self._notes += tuple(f"pools unknown: {error}" for error in heard[:1])

    def _reading(
        self, said: Any, hashrate_ths: float, told_to_sleep: bool | None, began_at: datetime
    ) -> Reading:
        expected_ths = _ths(said.expected_hashrate)
        plate = nameplate(self._identity.model, expected_ths)
        power = power_truth(positive(said.wattage), hashrate_ths, plate)
        uptime_s = whole(said.uptime)
        state = run_state(
            hashrate_ths=hashrate_ths,
            expected_ths=expected_ths or (plate.hashrate_ths if plate else None),
            told_to_sleep=told_to_sleep,
            told_for_s=self._wind_down.seconds(told_to_sleep, began_at),
            uptime_s=uptime_s,
            ramp_s=RAMP_S,
            previous_ths=self._previous_ths,
        )
        self._previous_ths = hashrate_ths
        reading = Reading(
            began_at=began_at,
            ended_at=self._options.clock(),
            run_state=state,
            hashrate_ths=hashrate_ths,
            expected_hashrate_ths=expected_ths,
            power_w=power.power_w,
            power_source=power.source,
            power_error=power.error,
            power_mode=None,
            boards=tuple(_board(board) for board in said.hashboards),
            fans_rpm=tuple(rpm for fan in said.fans if (rpm := whole(fan.speed)) is not None),
            inlet_temp_c=number(said.env_temp),
            pools=self._pools,
            uptime_s=uptime_s,
            errors=self._notes,
            firmware=self._identity.firmware,
        )
        return judged(reading, plate)


def _shell(identity: Identity, address: Address, options: ReadOptions) -> SshControl | None:
    """The shell of Braiins OS before gRPC, whose API stops mining in its last versions only."""
    if _pyasic.firmware_of(identity.driver_class) is not _pyasic.Firmware.OLD_BRAIINS:
        return None
    return SshControl.where_allowed(identity, address, options)


async def who(miner: Any, known: Identity, address: Address) -> Identity:
    """`known` with the MAC, serial and firmware that the machine says now. Raises `DriverError`."""
    with overheard() as heard:
        said = await _get_data(miner, _WHO, heard)
    found = mac(said.mac), text(said.serial_number)
    if found == (None, None) and heard:
        raise _worst(heard, address) or Incomplete(address, "neither MAC nor serial in its answers")
    return Identity(
        family=known.family,
        make=known.make,
        model=known.model,
        firmware=text(said.fw_ver) or known.firmware,
        mac=found[0],
        serial=found[1],
        driver_class=known.driver_class,
    )


async def _get_data(miner: Any, fields: list[str], heard: list[Exception]) -> Any:
    """pyasic's `MinerData` with what it could get; field by field where one of them stops it."""
    try:
        return await miner.get_data(include=fields)
    except Exception as error:  # noqa: BLE001 - pyasic lets everything through that its backends meet
        if len(fields) == 1:
            heard.append(error)
            return await miner.get_data(include=[])
    merged = await miner.get_data(include=[])
    for field in fields:
        said = await _get_data(miner, [field], heard)
        name = "raw_hashrate" if field == "hashrate" else field
        if name in said.model_fields_set or field == "hashboards":
            setattr(merged, name, getattr(said, name))
    return merged


def _worst(heard: list[Exception], address: Address) -> DriverError | None:
    """The error to report: this host's own limits, else the last of the transport, else pyasic's last."""
    errors = [_as_driver_error(error, address) for error in heard]
    exhausted = [error for error in errors if isinstance(error, OutOfSockets)]
    transport = [error for error, origin in zip(errors, heard, strict=True) if isinstance(origin, _TRANSPORT)]
    return next(iter(exhausted or transport[::-1] or errors[::-1]), None)


def _as_driver_error(error: Exception, address: Address) -> DriverError:
    if isinstance(error, DriverError):
        return error
    if isinstance(error, httpx.HTTPError):
        return http_failure(str(address), 80, error)
    spoken = _pyasic.grpc_failure(str(address), error)
    if spoken is not None:
        return spoken
    kind = Incomplete if isinstance(error, _pyasic.RefusedByMachine) else Malformed
    return kind(address, f"{error.__class__.__name__}: {error}")


def _ths(rate: Any) -> float | None:
    """A pyasic hashrate in TH/s, whatever its unit."""
    unit = getattr(getattr(rate, "unit", None), "TH", None)
    if unit is None:
        return None
    return number(rate.into(unit).rate)


def _board(board: Any) -> Board:
    """A board as pyasic has it; one that it did not find keeps no numbers (they would be pyasic's)."""
    if board.missing:
        return Board(slot=board.slot, alive=False)
    return Board(
        slot=board.slot,
        alive=True,
        hashrate_ths=_ths(board.hashrate),
        chip_temp_c=number(board.chip_temp) or None,
        board_temp_c=number(board.temp) or None,
        chips=whole(board.chips),
    )


def _pool(pool: Any) -> Pool:
    return Pool(url=str(pool.url), user=text(pool.user), alive=pool.alive, active=pool.active)
