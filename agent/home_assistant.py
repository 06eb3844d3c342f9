"""The site's figures for Home Assistant over MQTT: a message that names each sensor, kept by the broker, and the
figures after every round. It tells and takes no commands; machines are not named: a big site stays a few sensors.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.fetch import pause_s
from agent.mqtt import LONGEST_RETRY_S, RETRY_S, Broker
from agent.view import totals
from agent.vitals import Vitals
from drivers.reading import RunState

log = logging.getLogger("hashcost")

EXPIRES_S = 900
"""Figures that are not renewed for so long are shown as unavailable."""
ONLINE, OFFLINE = "online", "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """One figure. `key` is its name in the state; `kind` and `unit` are Home Assistant's."""

    key: str
    title: str
    unit: str | None = None
    kind: str | None = None


SENSORS = (
    Sensor(key="power_kw", title="Load", unit="kW", kind="power"),
    Sensor(key="hashrate_phs", title="Hashrate", unit="PH/s"),
    Sensor(key="margin_usd_per_day", title="Margin", unit="USD/day"),
    Sensor(key="lost_usd_per_day", title="Lost under break-even", unit="USD/day"),
    Sensor(key="machines_mining", title="Machines mining"),
    Sensor(key="machines_asleep", title="Machines asleep"),
    Sensor(key="machines_unknown", title="Machines that cannot be read"),
    Sensor(key="chip_temp_c", title="Hottest chip", unit="°C", kind="temperature"),
    Sensor(key="hashprice_usd_per_ph_day", title="Hashprice", unit="USD/PH/day"),
    Sensor(key="power_price_usd_per_kwh", title="Power price", unit="USD/kWh"),
    Sensor(key="obligation_target_kw", title="Owed to the grid", unit="kW", kind="power"),
    Sensor(key="alerts", title="Alerts"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it is told: the broker, the name of the site in topics, and Home Assistant's prefix."""

    broker: Broker
    site: str
    prefix: str

    @property
    def state(self) -> str:
        """The topic of the figures."""
        return f"hashcost/{self.site}/state"

    @property
    def availability(self) -> str:
        """The topic that says whether the agent is there."""
        return f"hashcost/{self.site}/availability"


def discovery(place: Place) -> dict[str, dict[str, Any]]:
    """Topics and messages by which Home Assistant finds the sensors."""
    return {
        f"{place.prefix}/sensor/hashcost_{place.site}/{sensor.key}/config": _config(place, sensor)
        for sensor in SENSORS
    }


def _config(place: Place, sensor: Sensor) -> dict[str, Any]:
    told = {
        "name": sensor.title,
        "unique_id": f"hashcost_{place.site}_{sensor.key}",
        "state_topic": place.state,
        "value_template": f"{{{{ value_json.{sensor.key} }}}}",
        "availability_topic": place.availability,
        "expire_after": EXPIRES_S,
        "state_class": "measurement",
        "device": {"identifiers": [f"hashcost_{place.site}"], "name": f"hashcost {place.site}"},
    }
    optional = {"unit_of_measurement": sensor.unit, "device_class": sensor.kind}
    return told | {name: value for name, value in optional.items() if value is not None}


def figures(vitals: Vitals, alerts: int) -> dict[str, float | int | None]:
    """The state: one value for each sensor, None where it is unknown."""
    views, market = vitals.picture.views, vitals.picture.market
    sums = totals(views)
    warm = [view.chip_temp_c for view in views if view.chip_temp_c is not None]
    return {
        "power_kw": round(sums.power_kw, 3),
        "hashrate_phs": round(sums.hashrate_phs, 6),
        "margin_usd_per_day": round(sums.margin_usd_per_day, 2),
        "lost_usd_per_day": round(sums.lost_usd_per_day, 2),
        **{f"machines_{state}": sums.by_state.get(state, 0) for state in _STATES},
        "chip_temp_c": max(warm, default=None),
        "hashprice_usd_per_ph_day": market.hashprice_usd_per_ph_day,
        "power_price_usd_per_kwh": market.price_usd_per_kwh,
        "obligation_target_kw": vitals.obligation_kw,
        "alerts": alerts,
    }


_STATES = (RunState.MINING.value, RunState.ASLEEP.value, RunState.UNKNOWN.value)


class Announcer:
    """Tells the broker for as long as it runs; a broker that is away is told once and tried again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._figures: Mapping[str, Any] | None = None
        self._news = asyncio.Event()
        self._failures = 0

    def tell(self, vitals: Vitals, alerts: int) -> None:
        """Have the figures of a round told as soon as the broker is there; older ones are not."""
        self._figures = figures(vitals, alerts)
        self._news.set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        from aiomqtt import MqttError  # noqa: PLC0415 - an extra

        while True:
            try:
                await self._connected()
            except* (MqttError, OSError, ValueError) as errors:
                self._lost(str(errors.exceptions[0]))
            await asyncio.sleep(pause_s(RETRY_S, self._failures, None, longest_s=LONGEST_RETRY_S))

    def _lost(self, detail: str) -> None:
        if self._failures == 0:
            log.warning("event=home_assistant_lost broker=%s detail=%r", self._place.broker.address, detail)
        self._failures += 1

    async def _connected(self) -> None:
        from aiomqtt import Will  # noqa: PLC0415 - an extra

        place = self._place
        will = Will(place.availability, OFFLINE, qos=1, retain=True)
        async with place.broker.client(will=will) as client, asyncio.TaskGroup() as group:
            group.create_task(_until_lost(client.messages))
            for topic, told in discovery(place).items():
                await client.publish(topic, json.dumps(told), qos=1, retain=True)
            await client.publish(place.availability, ONLINE, qos=1, retain=True)
            if self._failures:
                log.info("event=home_assistant_back broker=%s", place.broker.address)
            self._failures = 0
            while True:
                await self._news.wait()
                self._news.clear()
                await client.publish(place.state, json.dumps(self._figures), qos=1)


async def _until_lost(messages: AsyncIterator[Any]) -> None:
    """Nothing is subscribed to: it is the end of the connection that is listened for."""
    async for _ in messages:
        pass
