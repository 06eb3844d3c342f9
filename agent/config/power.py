"""What energy costs."""

from datetime import date, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from agent.config.hours import clocks, span
from agent.config.market import web_address
from agent.config.mqtt import plain_topic
from agent.config.secret import SecretSection
from agent.config.section import Section
from agent.tariff.account import ERCOT_TOKEN_URL, ErcotAccount
from agent.tariff.calendar import Calendar, Period
from agent.tariff.contract import Contract, Kind
from agent.tariff.feeds import MARKETS, Market, Wanted
from agent.tariff.intervals import Band

UTC_ZONE = ZoneInfo("UTC")
"""A default is not validated, so this one would be read from the disk when the agent's loop runs already."""
Price = Annotated[float, Field(gt=-1, lt=1)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone; name one like America/Chicago") from error
    return name


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no date; write it like 2026-12-25") from error
    return text


class PeriodSection(Section):
    """A price that holds at some hours of a time-of-use tariff. Of several that fit, the first counts."""

    price_usd_per_kwh: Price = Field(description="Energy rate, USD/kWh.")
    hours: Annotated[str, AfterValidator(span)] = Field(
        default="00:00-24:00",
        description="Wall clock of the site: 16:00-21:00, or 22:00-06:00 over midnight.",
    )
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday"]] = Field(
        default=["mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday"],
        description="Days; a holiday is no weekday.",
        min_length=1,
    )
    months: list[Annotated[int, Field(ge=1, le=12)]] = Field(
        default=list(range(1, 13)), description="Months, 1 to 12.", min_length=1
    )

    def period(self) -> Period:
        """The same for the calendar."""
        start, end = clocks(self.hours)
        return Period(
            price_usd_per_kwh=self.price_usd_per_kwh,
            start=start,
            end=end,
            days=frozenset(self.days),
            months=frozenset(self.months),
        )


class AccountSection(SecretSection):
    """The account that ERCOT's public API wants beside the key; the secret is its password."""

    username: str = Field(description="User of the account.")
    token_url: Annotated[str, AfterValidator(web_address)] = Field(
        default=ERCOT_TOKEN_URL, description="Where tokens are given."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_secret(needed=True)
        return self

    def account(self) -> ErcotAccount:
        """The account, its password resolved."""
        return ErcotAccount(username=self.username, password=self.secret(), token_url=self.token_url)


class PowerSection(SecretSection):
    """The marginal price of energy: fixed, by the calendar, from a market's feed, or from a file."""

    kind: Literal["fixed", "time_of_use", "feed", "file", "mqtt"] = Field(
        default="fixed",
        description="fixed, time_of_use (periods), feed (of a market), file (a CSV) or mqtt (a topic).",
    )
    price_usd_per_kwh: Price = Field(
        default=0.06,
        description="Marginal power price, USD/kWh: 6 cents is 0.06. Of time_of_use, the price where no period fits.",
    )
    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="Time zone of the site, such as America/Chicago."
    )
    periods: list[PeriodSection] = Field(
        default=[], description="Of time_of_use: prices by hours, days, months."
    )
    holidays: list[Annotated[str, AfterValidator(_date)]] = Field(
        default=[], description="Of time_of_use: dates that are holidays."
    )
    feed: Literal["", "comed", "ercot", "nord_pool", "octopus", "miso", "nyiso", "json", "csv"] = Field(
        default="", description="Of feed: whose prices."
    )
    url: str = Field(
        default="", description="Of feed: another base address, or the whole one of json and csv."
    )
    account: AccountSection | None = Field(
        default=None, description="Of ercot: the account that it wants beside the key."
    )
    location: str = Field(default="", description="Settlement point, zone, delivery area or tariff code.")
    file: str = Field(default="", description="Of file: path of a CSV with a header.")
    time_column: str = Field(
        default="start", description="Of json, csv and file: name of the interval's start."
    )
    price_column: str = Field(default="price", description="Of json, csv and file: name of the price.")
    topic: Annotated[str, AfterValidator(plain_topic)] = Field(
        default="", description="Of mqtt: topic of messages that hold a number or JSON."
    )
    pointer: str = Field(
        default="",
        pattern=r"^(/.*)?$",
        description="Of json and mqtt: pointer to the price or to the list of rows.",
    )
    time_pointer: str = Field(
        default="",
        pattern=r"^(/.*)?$",
        description="Of json and mqtt: pointer to the time of a single price.",
    )
    unit: Literal["usd_per_kwh", "usd_per_mwh", "cents_per_kwh"] = Field(
        default="usd_per_kwh",
        description="Of json, csv, file and mqtt: unit, with currency_usd for other currencies.",
    )
    currency_usd: Annotated[float, Field(gt=0, lt=1000)] | None = Field(
        default=None, description="USD for a unit of the feed's currency: of a pound 1.27, of a euro 1.08."
    )
    interval_s: Annotated[float, Field(ge=60, le=86_400)] | None = Field(
        default=None,
        description="Of json, csv, file and mqtt: seconds that a price holds; default 3600, of mqtt 300.",
    )
    settlement_s: Annotated[float, Field(ge=60, le=86_400)] | None = Field(
        default=None, description="Seconds over which load settles; default: as the market does."
    )
    max_age_s: Annotated[float, Field(ge=60, le=86_400)] = Field(
        default=900.0, description="Seconds after the end of its interval that a price is acted on."
    )
    poll_s: Annotated[float, Field(ge=60, le=86_400)] = Field(
        default=60.0, description="Seconds between two looks at the feed or file."
    )
    lowest_usd_per_kwh: float | None = Field(
        default=None,
        description="A price under this cannot be true; default -0.5, or what the market allows.",
    )
    highest_usd_per_kwh: float | None = Field(
        default=None, description="A price over this cannot be true; default 1.0, or what the market allows."
    )
    contract: Annotated[Kind, Field(strict=False)] = Field(
        default=Kind.INDEX,
        description="index (the market's price is paid), or block (bought ahead; what is not used is sold back).",
    )
    losses: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Share of energy lost on the way: 2 % is 0.02."
    )
    adder_usd_per_kwh: Annotated[float, Field(gt=-0.5, lt=0.5)] = Field(
        default=0.0, description="What is charged by the kWh on top of the energy, USD/kWh."
    )
    sell_back_fee_usd_per_kwh: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Of a block: what selling a kWh back costs, USD/kWh."
    )
    take_or_pay_kw: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Load that is paid for whether it is used or not: economics keep the site over it.",
    )
    curtailment_credit_usd_per_kwh: Annotated[float, Field(ge=0, lt=2)] = Field(
        default=0.0, description="What a programme pays for each kWh not used, USD/kWh."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_secret()
        given_for = {
            "feed": self.feed,
            "file": self.file,
            "time_of_use": self.periods,
            "mqtt": self.topic,
        }
        for kind, given in given_for.items():
            if given and self.kind != kind:
                raise ValueError(
                    f"kind is {self.kind}: what is given of {kind} would do nothing; set kind or drop it"
                )
        needed = {"feed": ("feed",), "file": ("file",), "mqtt": ("topic",)}.get(self.kind, ())
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"kind is {self.kind}: say which {name}")
        if self.kind == "time_of_use" and not self.periods:
            raise ValueError("kind is time_of_use: give at least one [[power.periods]]")
        if self.kind == "feed":
            self._check_feed()
        band = self.band()
        if band.low >= band.high:
            raise ValueError(f"no price lies between {band.low:g} and {band.high:g} USD/kWh")
        return self

    def _check_feed(self) -> None:
        market = self.market()
        if self.account is not None and self.feed != "ercot":
            raise ValueError(f"feed is {self.feed}: an account is for ercot")
        if market.needs_location and not self.location:
            raise ValueError(f"feed is {self.feed}: give the location whose prices are meant")
        if market.foreign and self.currency_usd is None:
            raise ValueError(f"feed is {self.feed}: give currency_usd, what a unit of its currency is worth")
        if not self.url and not market.url:
            raise ValueError(f"feed is {self.feed}: give its url")
        if self.url:
            web_address(self.url)

    def market(self) -> Market:
        """The market that is asked, or the plain table of a file."""
        return MARKETS[self.feed or "csv"]

    def wanted(self) -> Wanted:
        """What is asked of it."""
        return Wanted(
            location=self.location,
            currency_usd=self.currency_usd or 1.0,
            unit=self.unit,
            interval=timedelta(seconds=self.interval_s or (300.0 if self.kind == "mqtt" else 3600.0)),
            zone=ZoneInfo(self.time_zone),
            pointer=self.pointer,
            time_pointer=self.time_pointer,
            time_column=self.time_column,
            price_column=self.price_column,
        )

    def band(self) -> Band:
        """What a price can be."""
        usual = self.market().band if self.kind in {"feed", "file"} else Band()
        low, high = self.lowest_usd_per_kwh, self.highest_usd_per_kwh
        return Band(low=usual.low if low is None else low, high=usual.high if high is None else high)

    def settlement(self) -> timedelta:
        """Over what load settles."""
        if self.kind == "mqtt" and self.settlement_s is None:
            return self.wanted().interval
        own_s = self.settlement_s or (self.interval_s if self.feed in {"", "json", "csv"} else None)
        return self.market().settlement if own_s is None else timedelta(seconds=own_s)

    def calendar(self) -> Calendar:
        """The periods as a calendar."""
        return Calendar(
            zone=ZoneInfo(self.time_zone),
            otherwise_usd_per_kwh=self.price_usd_per_kwh,
            periods=[each.period() for each in self.periods],
            holidays=frozenset(date.fromisoformat(each) for each in self.holidays),
        )

    def terms_of_contract(self) -> Contract:
        """What the contract makes of a market's price."""
        return Contract(
            kind=self.contract,
            losses=self.losses,
            adder_usd_per_kwh=self.adder_usd_per_kwh,
            sell_back_fee_usd_per_kwh=self.sell_back_fee_usd_per_kwh,
        )
