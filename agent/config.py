"""The configuration file: TOML, validated as a whole, every mistake reported at once with its key and the remedy.

    ConfigError          .problems lists them all; the message is ready to print

Secrets are never in the file: it names an environment variable or a file that holds one.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.appraisal import Terms
from agent.curtailment import CurtailmentPolicy, Mode, Participation, Rule
from agent.errors import UsageError
from drivers.addresses import AddressError, is_ipv4, parse_targets
from drivers.driver import Credentials
from drivers.reading import Family


class ConfigError(UsageError):
    """The configuration cannot be used."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


def _addresses(expressions: list[str]) -> list[str]:
    try:
        parse_targets(expressions)
    except AddressError as error:
        raise ValueError(str(error)) from error
    return expressions


def _numeric(expressions: list[str]) -> list[str]:
    names = sorted({address.host for address in parse_targets(expressions) if not is_ipv4(address.host)})
    if names:
        raise ValueError(f"{', '.join(names)}: give the address; machines are known by it, not by a name")
    return expressions


Addresses = Annotated[list[str], AfterValidator(_addresses)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ScanSection(_Section):
    """Where the machines are."""

    addresses: Addresses = Field(
        default=[], description="Where to look: 10.0.0.0/22, 10.0.1-4.1-200, @file, host:port."
    )
    interval_s: Annotated[float, Field(ge=60, le=604_800)] = Field(
        default=3600.0, description="Seconds between scans for new and moved machines."
    )


class PollSection(_Section):
    """How machines are read."""

    interval_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=30.0, description="Seconds between the starts of poll rounds."
    )
    deadline_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default=10.0, description="Seconds that one read of one machine may take."
    )
    workers: Annotated[int, Field(ge=1, le=500)] = Field(
        default=64, description="Machines read at the same time."
    )
    slow_interval_s: Annotated[float, Field(ge=60, le=86_400)] = Field(
        default=600.0,
        description="Seconds between reads of what rarely changes: configuration, pools, errors.",
    )

    @model_validator(mode="after")
    def _deadline_fits(self) -> Self:
        if self.deadline_s > self.interval_s:
            raise ValueError(
                f"deadline_s ({self.deadline_s:g}) must not exceed interval_s ({self.interval_s:g})"
            )
        return self


class MarketSection(_Section):
    """The fixed quote that hashprice is computed from."""

    difficulty: Annotated[float, Field(ge=1e13, le=1e16)] = Field(
        default=149.30e12, description="Network difficulty."
    )
    height: Annotated[int, Field(ge=0, le=20_000_000)] = Field(
        default=927_000, description="Height of the chain's tip; the subsidy is the next block's."
    )
    fees_btc: Annotated[float, Field(ge=0, le=3)] = Field(
        default=0.0269, description="Mean fees of a block, BTC."
    )
    btc_usd: Annotated[float, Field(ge=1000, le=10_000_000)] = Field(
        default=92_870.0, description="Price of a bitcoin, USD."
    )


class PowerSection(_Section):
    """What energy costs."""

    price_usd_per_kwh: Annotated[float, Field(gt=-1, lt=1)] = Field(
        default=0.06, description="Marginal power price, USD/kWh: 6 cents is 0.06."
    )


class EconomicsSection(_Section):
    """What stands between hashprice and a machine's margin."""

    pool_fee: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Pool fee as a fraction: 2.5 % is 0.025."
    )
    dev_fee: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Fee of third-party firmware as a fraction."
    )
    reject: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Share of rejected and stale work as a fraction."
    )
    overhead: Annotated[float, Field(ge=0.5, le=3)] = Field(
        default=1.0, description="Avoidable overhead on energy: cooling and losses that fall with the load."
    )
    sleep_power_w: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=40.0, description="Watts reckoned for a machine that sleeps."
    )
    machine_price_usd_per_ths: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Price of a TH/s of machine, USD; only for payback days."
    )

    def terms(self) -> Terms:
        """The same as the appraisal wants it: pool and firmware fee combined, one after the other."""
        return Terms(
            fee=1 - (1 - self.pool_fee) * (1 - self.dev_fee),
            reject=self.reject,
            overhead=self.overhead,
            sleep_power_w=self.sleep_power_w,
            machine_price_usd_per_ths=self.machine_price_usd_per_ths,
        )


class CurtailmentSection(_Section):
    """What the agent may do, when a machine is switched, and the site's limits."""

    mode: Annotated[Mode, Field(strict=False)] = Field(
        default=Mode.RECOMMEND,
        description="observe (appraise only), recommend (propose, a person approves) or auto.",
    )
    rule: Annotated[Rule, Field(strict=False)] = Field(
        default=Rule.CUMULATIVE,
        description="cumulative (switch once waiting has cost half a cycle) or dead_band.",
    )
    switching_cost_usd: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.02, description="What a sleep and a wake cost together, USD: ramp energy, lost hash, wear."
    )
    dead_band: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.12, description="For rule dead_band: share of the energy cost that a margin must exceed."
    )
    min_on_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0, description="Seconds that a woken machine runs before it may be put to sleep again."
    )
    min_off_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0, description="Seconds that a machine sleeps before it may be woken."
    )
    override_cycles: Annotated[float, Field(ge=1)] = Field(
        default=5.0,
        description="Waiting that has cost so many cycles overrides the minimum times and the cap.",
    )
    cycles_per_day: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="Sleeps of one machine within a day."
    )
    batch_machines: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=50, description="Machines moved within a minute, each way."
    )
    ramp_kw_per_min: Annotated[float, Field(ge=10)] = Field(
        default=500.0, description="Load moved within a minute, each way, kW; at least one big machine."
    )
    min_site_kw: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Load that economics may not go below, kW."
    )
    max_site_kw: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Load that no wake may exceed, kW."
    )


class CredentialSection(_Section):
    """Login of one family's machines; the password by reference."""

    username: str = Field(description="User name of the machines' interface.")
    password_env: str | None = Field(
        default=None, description="Environment variable that holds the password."
    )
    password_file: str | None = Field(default=None, description="File that holds the password.")

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        if (self.password_env is None) == (self.password_file is None):
            raise ValueError("give exactly one of password_env and password_file")
        self.resolve()
        return self

    def resolve(self) -> Credentials:
        """The login itself. Raises `ValueError` naming what is not there."""
        if self.password_env is not None:
            password = os.environ.get(self.password_env)
            if not password:
                raise ValueError(f"environment variable {self.password_env} is not set")
            return Credentials(username=self.username, password=password)
        path = Path(self.password_file or "")
        try:
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"password file {path} cannot be read ({error})") from error
        if not password:
            raise ValueError(f"password file {path} is empty")
        return Credentials(username=self.username, password=password)


CredentialFamily = Literal["antminer", "whatsminer_v2", "whatsminer_v3"]


class Config(_Section):
    """The whole file."""

    scan: ScanSection = ScanSection()
    poll: PollSection = PollSection()
    market: MarketSection = MarketSection()
    power: PowerSection = PowerSection()
    economics: EconomicsSection = EconomicsSection()
    curtailment: CurtailmentSection = CurtailmentSection()
    participation: dict[str, Annotated[Participation, Field(strict=False)]] = Field(
        default={}, description="auto, recommend or never, by machine id or group; the machine's own counts."
    )
    groups: dict[str, Annotated[Addresses, AfterValidator(_numeric)]] = Field(
        default={}, description="Name of a group of machines to its addresses; the first that fits counts."
    )
    credentials: dict[CredentialFamily, CredentialSection] = Field(
        default={}, description="Logins by family where they are not the factory's."
    )

    def policy(self) -> CurtailmentPolicy:
        """The rules and limits as the decision wants them."""
        return CurtailmentPolicy(**self.curtailment.model_dump(), participation=self.participation)

    def logins(self) -> dict[Family, Credentials]:
        """Every configured login, secrets resolved; they were there when the file was validated."""
        return {Family(family): section.resolve() for family, section in self.credentials.items()}


def load(path: Path) -> Config:
    """Read and validate the file. Raises `ConfigError` with every problem in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read ({error})"]) from error
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> Config:
    """Validate the text of a configuration; `source` names it in messages."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"not TOML: {error}"]) from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(source, [_problem(dict(item)) for item in error.errors()]) from error


def _problem(error: dict[str, Any]) -> str:
    """One line: the key, what is wrong, what was given."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    key = ".".join(location)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(location)}"
    if error["type"] == "value_error":
        return f"{key}: {message}"
    given = error["input"]
    shown = repr(given) if isinstance(given, str | int | float | bool) else type(given).__name__
    return f"{key}: {message[0].lower()}{message[1:]} (it is {shown}){_meaning(location, error['type'])}"


def _meaning(location: list[str], error_type: str) -> str:
    """What a key means, for a number outside its bounds: most often it is in another unit."""
    section = _section(location[:-1]) if error_type.startswith(("less_than", "greater_than")) else None
    field = section.model_fields.get(location[-1]) if section is not None else None
    return "" if field is None or field.description is None else f". {field.description}"


def _suggestion(location: list[str]) -> str:
    section = _section(location[:-1])
    if section is None:
        return ""
    close = difflib.get_close_matches(location[-1], section.model_fields, n=1)
    known = ", ".join(sorted(section.model_fields))
    return f"; did you mean {close[0]}?" if close else f"; known here: {known}"


def _section(path: list[str]) -> type[BaseModel] | None:
    """The section at a path of keys; None where there is none."""
    kind: Any = Config
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = None if field is None else field.annotation
        else:
            kind = next(reversed(get_args(kind)), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
