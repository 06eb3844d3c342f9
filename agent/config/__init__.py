"""The configuration file: TOML, validated as a whole, every mistake reported at once with its key and the remedy.

    ConfigError          .problems lists them all; the message is ready to print

Secrets are never in the file: it names an environment variable or a file that holds one.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from agent.config.alerts import AlertsSection
from agent.config.control import ControlSection
from agent.config.curtailment import CurtailmentSection
from agent.config.economics import EconomicsSection
from agent.config.fleet import FleetSection
from agent.config.history import HistorySection
from agent.config.home_assistant import HomeAssistantSection
from agent.config.machines import CredentialSection, CredentialSections, PollSection, ScanSection, resolved
from agent.config.market import MarketSection
from agent.config.metrics import MetricsSection
from agent.config.mqtt import MqttSection
from agent.config.obligations import ObligationsSection
from agent.config.overrides import OverrideSection
from agent.config.power import PowerSection
from agent.config.section import Addresses, Section, numeric
from agent.curtailment import CurtailmentPolicy, Participation
from agent.errors import UsageError
from agent.home_assistant import Place
from agent.terms import TermsBook
from drivers.driver import Credentials

__all__ = [
    "AlertsSection",
    "Config",
    "ConfigError",
    "CredentialSection",
    "CurtailmentSection",
    "EconomicsSection",
    "FleetSection",
    "MarketSection",
    "MetricsSection",
    "MqttSection",
    "ObligationsSection",
    "PollSection",
    "PowerSection",
    "ScanSection",
    "load",
    "parse",
]


class ConfigError(UsageError):
    """The configuration cannot be used."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


class Config(Section):
    """The whole file."""

    scan: ScanSection = ScanSection()
    poll: PollSection = PollSection()
    market: MarketSection = MarketSection()
    power: PowerSection = PowerSection()
    economics: EconomicsSection = EconomicsSection()
    curtailment: CurtailmentSection = CurtailmentSection()
    obligations: ObligationsSection = ObligationsSection()
    mqtt: MqttSection = MqttSection()
    control: ControlSection = ControlSection()
    history: HistorySection = HistorySection()
    metrics: MetricsSection = MetricsSection()
    fleet: FleetSection = FleetSection()
    alerts: AlertsSection = AlertsSection()
    home_assistant: HomeAssistantSection = HomeAssistantSection()
    participation: dict[str, Annotated[Participation, Field(strict=False)]] = Field(
        default={}, description="auto, recommend or never, by machine id or group; the machine's own counts."
    )
    groups: dict[str, Annotated[Addresses, AfterValidator(numeric)]] = Field(
        default={}, description="Name of a group of machines to its addresses; the first that fits counts."
    )
    overrides: dict[str, OverrideSection] = Field(
        default={}, description="What is different for a group or a machine id; the machine's own counts."
    )
    credentials: CredentialSections = Field(
        default={}, description="Logins by family where they are not the factory's."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        wants = [
            key
            for key, wanted in (
                ("power.kind", self.power.kind == "mqtt"),
                ("obligations.mqtt_topic", self.obligations.mqtt_topic),
                ("home_assistant.site", self.home_assistant.site),
            )
            if wanted
        ]
        if wants and not self.mqtt.host:
            raise ValueError(f"{' and '.join(wants)} need a broker: give mqtt.host")
        if self.mqtt.host and not wants:
            raise ValueError(
                'mqtt: it is used for nothing; give power.kind = "mqtt", obligations.mqtt_topic or home_assistant.site'
            )
        return self

    def policy(self) -> CurtailmentPolicy:
        """The rules and limits as the decision wants them."""
        limits = self.curtailment.model_dump()
        # under what is paid for anyway a kWh costs nothing, and a machine that would go there runs
        limits["min_site_kw"] = max(self.curtailment.min_site_kw, self.power.take_or_pay_kw)
        return CurtailmentPolicy(**limits, participation=self.participation)

    def terms_book(self) -> TermsBook:
        """The terms of the site and of those that have others."""
        credit = self.power.curtailment_credit_usd_per_kwh
        own = {name: each.machine_terms(self.economics, credit) for name, each in self.overrides.items()}
        return TermsBook(site=self.economics.terms(credit_usd_per_kwh=credit), own=own)

    def announced_at(self) -> Place | None:
        """Where Home Assistant is told, if it is."""
        told = self.home_assistant
        if told.site is None:
            return None
        return Place(broker=self.mqtt.broker(), site=told.site, prefix=told.prefix)

    def logins(self) -> dict[str, Credentials]:
        """The site's logins by family, secrets resolved."""
        return resolved(self.credentials)


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
    except (ValueError, RecursionError) as error:  # also of numbers and nestings that are no mistake of TOML
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
