"""Those who may call: a broker's topic and an OpenADR server, over real sockets; what they say, and their silence."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Clock
from agent.config import (
    Config,
    ConfigError,
    CurtailmentSection,
    MqttSection,
    ObligationsSection,
    PollSection,
    parse,
)
from agent.config.obligations import OpenAdrSection
from agent.config.power import PowerSection
from agent.curtailment import Mode
from agent.fetch import Fetcher, SourceError
from agent.grid import GridCallers, target_of
from agent.in_words import site_in_words
from agent.market.quote import Market
from agent.mqtt import Heard
from agent.obligations import Call, Standing, account
from agent.openadr import Vtn, calls_of
from agent.simulated.broker import SimulatedBroker
from agent.simulated.vtn import SimulatedVtn, event
from agent.simulated.web import SimulatedSources, SourceFault
from agent.store import Reader
from tests.agent.builders import NOW, FakeDriver, HandClock, asleep, eventually, mac, machine, reading
from tests.agent.test_service import SiteOfFakes, known

HOUR = timedelta(hours=1)
TOPIC = "site/target"


def heard(body, at=NOW, *, retained=False):
    return Heard(
        body=body if isinstance(body, bytes) else json.dumps(body).encode(), at=at, retained=retained
    )


def clock_of(hand):
    """A clock whose seconds go along with its hands."""
    return Clock(now=hand, monotonic_s=lambda: hand().timestamp())


# -- a target -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_target_is_0_or_100_with_the_time_at_which_it_was_said(unit):
    for target in (0, 100):
        assert target_of(heard({"target": target, "timestamp": NOW.timestamp() * unit})) == (target, NOW)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"off", "not JSON"),
        ({"target": 0}, "timestamp"),
        ({"timestamp": 1}, "target"),
        ({"target": 50, "timestamp": 1}, "target is 50; 0 sheds"),
        ({"target": "off", "timestamp": 1}, "target"),
        ({"target": False, "timestamp": 1}, "target"),
        ({"target": 0, "timestamp": "now"}, "timestamp"),
        ({"target": 0, "timestamp": 9e99}, "no time"),
        ({"target": 0, "timestamp": NOW.timestamp() + 120}, "in the future"),
        ([], "target"),
    ],
)
def test_what_is_no_target_is_told(body, why):
    with pytest.raises(SourceError, match=why):
        target_of(heard(body))


@given(st.one_of(st.binary(max_size=80), st.builds(lambda data: json.dumps(data).encode(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["target", "timestamp", "x"]), inner),
    max_leaves=6,
))))  # fmt: skip
def test_whatever_is_said_on_a_topic_is_a_target_or_a_failure(body):
    try:
        target, said_at = target_of(heard(body))
    except SourceError:
        return
    assert target in (0, 100)
    assert said_at.tzinfo is UTC


# -- events of OpenADR 3 ------------------------------------------------------------------------------------------


def asked(raw, now=NOW):
    return [(call.to_kw, call.by_kw) for call in read(raw, now=now)]


def read(*raw, now=NOW, **changes):
    told = calls_of(raw, now, **{"shed_to_kw": 20.0, "by": "vtn", "load_unit": "KW", **changes})
    assert told.problem is None
    return told.calls


@pytest.mark.parametrize(
    ("payload", "value", "units", "call"),
    [
        ("SIMPLE", 0, None, []),
        ("SIMPLE", 1, None, [(20.0, None)]),
        ("SIMPLE", 3, None, [(20.0, None)]),
        ("IMPORT_CAPACITY_LIMIT", 500, None, [(500.0, None)]),
        ("IMPORT_CAPACITY_LIMIT", 0.5, "MW", [(500.0, None)]),
        ("DISPATCH_SETPOINT", 500_000, "W", [(500.0, None)]),
        ("DISPATCH_SETPOINT_RELATIVE", -120, "KW", [(None, 120.0)]),
        ("DISPATCH_SETPOINT_RELATIVE", 120, "KW", []),
        ("PRICE", 0.3, "KWH", []),
    ],
)
def test_an_event_calls_for_what_its_payload_says(payload, value, units, call):
    assert asked(event(payload, value, start=NOW, units=units)) == call


def test_an_event_holds_for_its_interval():
    (call,) = read(event("SIMPLE", 1, start=NOW, lasts=2 * HOUR))
    assert (call.start, call.end, call.source) == (NOW, NOW + 2 * HOUR, "openadr")
    assert read(event("SIMPLE", 1, start=NOW - 2 * HOUR)) == []


def test_intervals_follow_each_other():
    raw = event("SIMPLE", 1, start=NOW)
    raw["intervals"] = [
        {"id": number, "payloads": [{"type": "SIMPLE", "values": [level]}]}
        for number, level in enumerate((1, 0, 2))
    ]
    calls = read(raw)
    assert [call.start for call in calls] == [NOW, NOW + 2 * HOUR]
    assert len({call.call_id for call in calls}) == 2


@pytest.mark.parametrize(
    "spoilt",
    [
        {"intervalPeriod": {}},
        {"intervalPeriod": {"start": "soon", "duration": "PT1H"}},
        {"intervalPeriod": {"start": NOW.isoformat(), "duration": "an hour"}},
        {"intervals": [{"id": 0, "payloads": [{"type": "SIMPLE", "values": []}]}]},
        {"intervals": [{"id": 0, "payloads": [{"type": "SIMPLE", "values": ["much"]}]}]},
        {"intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT", "values": [-5]}]}]},
        {"intervals": ["x"]},
        {"intervals": 5},
        {"programID": None},
        {
            "payloadDescriptors": [{"payloadType": "DISPATCH_SETPOINT", "units": "A"}],
            "intervals": [{"id": 0, "payloads": [{"type": "DISPATCH_SETPOINT", "values": [5]}]}],
        },
    ],
)
def test_an_event_that_cannot_be_read_is_told_and_hides_no_other(spoilt):
    good, bad = event("SIMPLE", 1, start=NOW, event_id="good"), event("SIMPLE", 1, start=NOW) | spoilt
    told = calls_of([bad, good], NOW, shed_to_kw=1.0, by="vtn")
    assert [call.call_id for call in told.calls] == ["openadr-good-0-SIMPLE"]
    assert "event 'e1'" in told.problem


def test_what_calls_nobody_need_not_be_readable():
    prices = event("PRICE", 1, start="soon") | {"intervalPeriod": {"start": "soon"}}
    assert read(prices, event("PRICE", "n/a", start=NOW)) == []


def test_a_load_has_a_unit_by_the_event_or_by_the_configuration():
    unitless = event("IMPORT_CAPACITY_LIMIT", 2, start=NOW)
    told = calls_of([unitless], NOW, shed_to_kw=1.0, by="vtn")
    assert told.calls == []
    assert "give obligations.openadr.load_unit" in told.problem
    assert [call.to_kw for call in read(unitless, load_unit="MW")] == [2000.0]


@pytest.mark.parametrize(
    ("start", "lasts", "call"),
    [
        ("0000-00-00", "P9999Y", (datetime(2026, 1, 1, tzinfo=UTC), None)),
        ("0001-01-01T00:00:00Z", "P9999Y", (datetime(2026, 1, 1, tzinfo=UTC), None)),
        (NOW, "PT0S", (NOW, None)),
        (NOW, "P1D", (NOW, NOW + 24 * HOUR)),
    ],
)
def test_now_for_ever_and_at_once_have_words_of_their_own(start, lasts, call):
    (told,) = read(event("SIMPLE", 1, start=start, lasts=lasts))
    assert (told.start, told.end) == call


def test_targets_of_either_version_are_no_obstacle():
    for targets in (["hall-a"], [{"type": "GROUP", "values": ["hall-a"]}], None):
        assert len(read(event("SIMPLE", 1, start=NOW) | {"targets": targets})) == 1


@pytest.fixture
async def vtn():
    held = SimulatedVtn()
    async with SimulatedSources(held.handlers()) as server:
        held.url, held.server = server.url("vtn"), server
        yield held


def client_of(vtn, fetcher, **changes):
    usual = {"url": vtn.url, "client_id": vtn.client_id, "secret": vtn.secret, "shed_to_kw": 20.0}
    return Vtn(fetcher, **{**usual, **changes})


async def test_a_server_is_asked_with_a_token_of_its_own_and_a_new_one_when_that_expired(vtn):
    vtn.events = [event("SIMPLE", 1, start=NOW)]
    async with Fetcher(Clock(now=HandClock())) as fetcher:
        client = client_of(vtn, fetcher)
        assert len((await client.calls(NOW)).calls) == 1
        vtn.expire()
        assert len((await client.calls(NOW)).calls) == 1
        with pytest.raises(SourceError, match="status_401"):
            await client_of(vtn, fetcher, secret="guessed").calls(NOW)
        assert len((await client_of(vtn, fetcher, client_id=None, secret=vtn.token).calls(NOW)).calls) == 1
        with pytest.raises(SourceError, match="status_403"):
            await client_of(vtn, fetcher, client_id=None, secret="old").calls(NOW)


async def test_all_pages_of_one_programme_are_read(vtn):
    vtn.events = [event("SIMPLE", 1, start=NOW, event_id=str(n), program_id=f"p{n % 2}") for n in range(130)]
    async with Fetcher(Clock(now=HandClock())) as fetcher:
        assert len((await client_of(vtn, fetcher).calls(NOW)).calls) == 130
        assert len((await client_of(vtn, fetcher, program_id="p1").calls(NOW)).calls) == 65


@pytest.mark.parametrize("fault", [SourceFault.DOWN, SourceFault.HTML, SourceFault.CUT, SourceFault.STATUS_503,
                                   SourceFault.HUGE, SourceFault.LOOP])  # fmt: skip
async def test_a_server_that_fails_tells_nothing(vtn, fault):
    vtn.server.faults["vtn"] = fault
    async with Fetcher(Clock(now=HandClock()), timeout_s=1.0) as fetcher:
        with pytest.raises(SourceError):
            await client_of(vtn, fetcher).calls(NOW)


# -- the callers --------------------------------------------------------------------------------------------------


def section(**changes):
    usual = {"mqtt_topic": TOPIC, "shed_to_kw": 4.0, "on_silence": "keep"}
    return ObligationsSection(**{**usual, **changes})


class Listening:
    """Callers of a broker, running."""

    def __init__(self, broker, clock, **changes):
        self.clock = clock
        self.callers = GridCallers(
            section(**changes), MqttSection(host="127.0.0.1", port=broker.port), Fetcher(clock_of(clock)),
            clock_of(clock),
        )  # fmt: skip
        self.broker = broker

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(loop()) for loop in self.callers.loops.values()]
        await eventually(lambda: self.broker.subscribers(TOPIC) == 1)
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def say(self, target, at=None, **more):
        stamp = (at or self.clock()).timestamp()
        self.broker.publish(TOPIC, json.dumps({"target": target, "timestamp": stamp}).encode(), **more)

    def calls(self):
        return self.callers.said().get("mqtt")


async def test_a_topic_sheds_and_releases():
    async with SimulatedBroker() as broker, Listening(broker, HandClock()) as site:
        assert site.calls() is None  # nothing was said: what was known before stands
        site.say(0)
        await eventually(site.calls)
        (call,) = site.calls()
        assert (call.to_kw, call.start, call.end) == (4.0, NOW, None)
        site.clock.forward(seconds=60)
        site.say(0)  # said again is the same call
        await eventually(lambda: site.callers.statuses()[0].answered_at == site.clock())
        assert site.calls() == [call]
        site.clock.forward(seconds=60)
        site.say(100)
        await eventually(lambda: site.calls() == [])


async def test_what_is_old_or_makes_no_sense_changes_nothing():
    async with SimulatedBroker() as broker, Listening(broker, HandClock()) as site:
        site.say(0)
        await eventually(site.calls)
        site.say(100, at=NOW - HOUR)
        site.say(100, at=NOW + HOUR)
        broker.publish(TOPIC, b"\xff{")
        broker.publish(TOPIC, b'{"target": 100, "timestamp": 1}' + b" " * 100_000)
        await eventually(lambda: "100031 bytes" in str(site.callers.statuses()[0].failure))
        assert len(site.calls()) == 1


async def test_a_broker_that_goes_is_told_and_looked_for_again(monkeypatch):
    monkeypatch.setattr("agent.mqtt.RETRY_S", 0.05)
    async with SimulatedBroker() as broker, Listening(broker, HandClock()) as site:
        site.say(0)
        await eventually(site.calls)
        broker.drop()
        await eventually(lambda: site.callers.statuses()[0].failure is not None)
        assert len(site.calls()) == 1  # what it called for stands
        await eventually(lambda: broker.logins == 2 and broker.subscribers(TOPIC) == 1)
        site.clock.forward(seconds=1)
        site.say(100)
        await eventually(lambda: site.calls() == [])
        assert site.callers.statuses()[0].failure is None


async def test_a_broker_wants_its_password(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("pickaxe\n")
    monkeypatch.setattr("agent.mqtt.RETRY_S", 0.05)
    async with SimulatedBroker(login=("site", "pickaxe")) as broker:
        for username, logins in (("thief", 0), ("site", 1)):
            mqtt = MqttSection(
                host="127.0.0.1", port=broker.port, username=username, password_file=str(tmp_path / "secret")
            )
            clock = Clock(now=HandClock())
            callers = GridCallers(section(), mqtt, Fetcher(clock), clock)
            task = asyncio.create_task(callers.loops["mqtt"]())
            if logins:
                await eventually(lambda: broker.subscribers(TOPIC) == 1)
            else:
                await eventually(lambda: callers.statuses()[0].failure is not None)  # noqa: B023 - at once
                assert "pickaxe" not in repr(mqtt.broker())
            assert broker.logins == logins
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("on_silence", ["keep", "shed"])
async def test_silence_is_what_the_contract_says(on_silence):
    async with (
        SimulatedBroker() as broker,
        Listening(broker, HandClock(), on_silence=on_silence, silence_s=300.0) as site,
    ):
        site.say(100)
        await eventually(lambda: site.calls() == [])
        site.clock.forward(seconds=299)
        assert site.callers.said()["silence"] == []
        site.clock.forward(seconds=1)
        silence = site.callers.said()["silence"]
        assert [call.to_kw for call in silence] == ([4.0] if on_silence == "shed" else [])
        site.say(100)
        await eventually(lambda: site.callers.said()["silence"] == [])


async def test_what_a_broker_kept_does_not_break_the_silence():
    """A retained message is of the time that it says, not of when we came."""
    async with SimulatedBroker() as broker:
        clock = HandClock()
        broker.publish(
            TOPIC, json.dumps({"target": 100, "timestamp": NOW.timestamp() - 400}).encode(), retain=True
        )
        async with Listening(broker, clock, on_silence="shed") as site:
            await eventually(lambda: site.calls() == [])
            assert site.callers.said()["silence"] == []  # it has a minute to speak
            clock.forward(seconds=60)
            assert [call.by for call in site.callers.said()["silence"]] == ["mqtt"]


async def test_silence_is_counted_by_a_clock_that_nobody_sets():
    async with SimulatedBroker() as broker, Listening(broker, HandClock(), on_silence="shed") as site:
        seconds = {"passed": 0.0}
        site.callers._callers[0]._clock = Clock(now=site.clock, monotonic_s=lambda: seconds["passed"])
        site.callers._callers[0]._began_s = site.callers._callers[0]._heard_s = 0.0
        site.clock.forward(hours=1)
        assert site.callers.said()["silence"] == []
        site.clock.forward(days=-2)
        seconds["passed"] = 301.0
        assert len(site.callers.said()["silence"]) == 1


async def test_a_topic_that_may_not_be_heard_is_told(monkeypatch):
    monkeypatch.setattr("agent.mqtt.RETRY_S", 0.05)
    async with SimulatedBroker() as broker:
        broker.denied = {TOPIC}
        clock = clock_of(HandClock())
        callers = GridCallers(
            section(), MqttSection(host="127.0.0.1", port=broker.port), Fetcher(clock), clock
        )
        task = asyncio.create_task(callers.loops["mqtt"]())
        await eventually(lambda: "refuses a subscription" in str(callers.statuses()[0].failure))
        broker.denied = set()
        await eventually(lambda: callers.statuses()[0].failure is None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- the agent ----------------------------------------------------------------------------------------------------


def agent_of(database, port, clock, **changes):
    config = Config(
        poll=PollSection(interval_s=1.0, deadline_s=1.0),
        curtailment=CurtailmentSection(mode=Mode.AUTO, min_on_s=0.0, min_off_s=0.0),
        obligations=section(**changes),
        mqtt=MqttSection(host="127.0.0.1", port=port),
    )
    agent = SiteOfFakes(config, database, clock=clock_of(clock))
    agent.fakes = {mac(n): obedient(n, clock) for n in (1, 2)}
    return agent


def obedient(number, clock):
    """A machine that sleeps once it is told to."""

    async def now():
        one = asleep() if driver.commands else reading()
        return replace(one, began_at=clock(), ended_at=clock())

    driver = FakeDriver(now, number=number)
    return driver


async def test_an_agent_that_is_called_sheds_and_says_so_and_comes_back(tmp_path):
    database, clock = tmp_path / "hashcost.db", HandClock()
    known(database, machine(1), machine(2))
    async with SimulatedBroker() as broker, agent_of(database, broker.port, clock) as agent:
        await eventually(lambda: broker.subscribers(TOPIC) == 1)
        await agent.poll_once()
        say = json.dumps({"target": 0, "timestamp": NOW.timestamp()}).encode()
        broker.publish(TOPIC, say)
        await eventually(lambda: agent.feeds.grid.said().get("mqtt"))
        await agent.poll_once()
        assert agent.curtailer.obligation.target_kw == 4.0
        (told,) = await agent.operations.calls()
        assert (told["standing"], told["load_kw"]) == ("shedding", 7.0)
        await eventually(lambda: any(driver.commands for driver in agent.fakes.values()))
        clock.forward(seconds=60)
        await agent.poll_once()
        assert (await agent.operations.calls())[0]["standing"] == "met"
    with Reader(database) as reader:
        kinds = {event.kind for event in reader.events(limit=100)}
    assert {"obligation_shedding", "obligation_met"} <= kinds


def said(target, at=NOW):
    return json.dumps({"target": target, "timestamp": at.timestamp()}).encode()


async def test_what_a_broker_kept_from_before_does_not_end_a_call_after_a_restart(tmp_path):
    database, clock = tmp_path / "hashcost.db", HandClock()
    known(database, machine(1), machine(2))
    async with SimulatedBroker() as broker:
        broker.publish(TOPIC, said(100, NOW - HOUR), retain=True)
        async with agent_of(database, broker.port, clock) as agent:
            await eventually(lambda: broker.subscribers(TOPIC) == 1)
            broker.publish(TOPIC, said(0))
            await eventually(lambda: agent.feeds.grid.said().get("mqtt"))
            await agent.poll_once()
        async with agent_of(database, broker.port, clock) as agent:
            await eventually(lambda: broker.subscribers(TOPIC) == 1)
            await asyncio.sleep(0.2)
            await agent.poll_once()
            assert agent.curtailer.obligation.target_kw == 4.0


async def test_silence_outlives_a_restart_and_ends_with_a_word(tmp_path):
    database, hand = tmp_path / "hashcost.db", HandClock()
    known(database, machine(1), machine(2))
    async with SimulatedBroker() as broker:
        async with agent_of(database, broker.port, hand, on_silence="shed") as agent:
            await agent.poll_once()
            hand.forward(seconds=301)
            await agent.poll_once()
            assert agent.curtailer.obligation.target_kw == 4.0
        async with agent_of(database, broker.port, hand, on_silence="shed") as agent:
            await agent.poll_once()
            assert agent.curtailer.obligation.target_kw == 4.0
            await eventually(lambda: broker.subscribers(TOPIC) == 1)
            broker.publish(TOPIC, said(100, hand()))
            await eventually(lambda: agent.feeds.grid.said().get("mqtt") == [])
            await agent.poll_once()
            assert agent.curtailer.obligation is None


async def test_in_mode_recommend_what_an_operator_called_for_is_not_masked_by_a_stricter_call(tmp_path):
    database, clock = tmp_path / "hashcost.db", HandClock()
    known(database, machine(1), machine(2))
    async with SimulatedBroker() as broker, agent_of(database, broker.port, clock) as agent:
        agent.config = agent.config.model_copy(
            update={"curtailment": CurtailmentSection(mode=Mode.RECOMMEND)}
        )
        await agent.poll_once()
        agent.obligations.add(Call(call_id="o", source="operator", by="anna", start=NOW, to_kw=4.0))
        agent.feeds.grid._callers[0].hear(
            [Call(call_id="m", source="mqtt", by="x", start=NOW, to_kw=3.0)], NOW
        )
        await agent.poll_once()
        assert (agent.curtailer.obligation.target_kw, agent.curtailer.obligation.approved) == (4.0, True)


async def test_calls_of_one_who_may_not_call_any_more_are_dropped(tmp_path):
    database, clock = tmp_path / "hashcost.db", HandClock()
    known(database, machine(1), machine(2))
    async with SimulatedBroker() as broker:
        async with agent_of(database, broker.port, clock) as agent:
            agent.obligations.take("mqtt", [Call(call_id="m", source="mqtt", by="x", start=NOW, to_kw=4.0)])
            await agent._save_calls(agent.obligations.calls)
        async with agent_of(database, broker.port, clock) as agent:
            assert [call.call_id for call in agent.obligations.calls] == ["m"]
            await agent.poll_once()  # it said nothing yet
            assert agent.curtailer.obligation.target_kw == 4.0
        async with SiteOfFakes(Config(), database, clock=Clock(now=clock)) as agent:
            assert agent.obligations.calls == []


# -- how the site stands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load_kw", "after_s", "standing"),
    [
        (4.0, 0, Standing.MET),
        (4.1, 599, Standing.SHEDDING),
        (4.1, 600, Standing.SHORT),
        (None, 900, Standing.UNKNOWN),
    ],
)
def test_how_a_site_stands_is_what_it_is_seen_to_draw(load_kw, after_s, standing):
    call = Call(call_id="c", source="mqtt", by="x", start=NOW, to_kw=4.0)
    told = account(call, NOW + timedelta(seconds=after_s), load_kw, timedelta(seconds=600))
    assert told.standing is standing
    assert ("0.1 kW short" in told.in_words()) is (standing is Standing.SHORT)


# -- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[obligations]\nmqtt_topic = "t"\n', "give shed_to_kw"),
        ('[obligations]\nmqtt_topic = "t"\nshed_to_kw = 5.0\n', "give on_silence"),
        ('[obligations]\nmqtt_topic = "t"\nshed_to_kw = 5.0\non_silence = "shed"\n', "give mqtt.host"),
        ('[obligations]\non_silence = "shed"\n', "neither is given"),
        ('[mqtt]\nhost = "b"\n', "it is used for nothing"),
        ("[mqtt]\nport = 1883\n", "give the host"),
        ('[power]\nkind = "mqtt"\n', "say which topic"),
        ('[power]\ntopic = "t"\n', "what is given of mqtt would do nothing"),
        ('[power]\nkind = "mqtt"\ntopic = "t"\n', "give mqtt.host"),
        ('[obligations]\nmqtt_topic = "grid/#"\n', "has a wildcard"),
        ('[power]\nkind = "mqtt"\ntopic = "a+b"\n', "has a wildcard"),
        ('[obligations.openadr]\nurl = "vtn"\n', "not an http or https address"),
        ('[obligations.openadr]\nurl = "http://v"\nclient_id = "c"\n', "needs its secret"),
    ],
)
def test_a_mistake_is_told(text, said):
    with pytest.raises(ConfigError, match=said):
        parse(text, source="config.toml")


def test_silence_must_be_longer_than_the_time_between_two_questions():
    openadr = OpenAdrSection(url="http://vtn", poll_s=400.0)
    with pytest.raises(ValueError, match="at least three times"):
        section(mqtt_topic="", openadr=openadr)


async def test_a_configuration_is_told_back_with_who_may_call():
    config = Config(obligations=section(on_silence="shed"), mqtt=MqttSection(host="b"))
    lines = await site_in_words(config, Market(at=NOW, hashprice=None, power=None))
    assert "the grid may call: the topic site/target" in lines
    assert "the grid may call: after 300 s of silence the site sheds to 4 kW" in lines
    config = Config(power=PowerSection(kind="mqtt", topic="p"), mqtt=MqttSection(host="b"))
    lines = await site_in_words(config, Market(at=NOW, hashprice=None, power=None))
    assert any(line.startswith("power: the topic p; no price is known") for line in lines)
