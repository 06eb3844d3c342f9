"""Who is told what, once: hysteresis, quiet hours, restarts, lost messages, storms, acknowledgements."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import herald as herald_module
from agent import messenger as messenger_module
from agent.alerts import (
    Alert,
    Change,
    Condition,
    Limits,
    Severity,
    alert_of,
    conditions,
    due,
    step,
    told,
)
from agent.clock import Clock
from agent.config import ConfigError, parse
from agent.config.alerts import Quiet
from agent.curtailment import Mode
from agent.errors import StorageError
from agent.fleet import Fleet
from agent.herald import Habits, Herald, message
from agent.market.quote import SourceStatus
from agent.messenger import Messenger, Target, is_address
from agent.orders import OrderState
from agent.vitals import Disk, Vitals
from drivers.reading import Board
from tests.agent.builders import (
    NOW,
    FakeDriver,
    HandClock,
    eventually,
    failure,
    mac,
    machine,
    market,
    order,
    picture,
    reading,
    round_row,
)
from tests.agent.processes import hashcost
from tests.agent.test_service import SiteOfFakes, known

LIMITS = Limits(hold=timedelta(minutes=10), remind=timedelta(hours=6))
MINUTE = timedelta(minutes=1)


def vitals(*machines, **changes):
    usual = {
        "picture": picture(Fleet(machines or [machine(1, reading())])),
        "mode": Mode.AUTO,
        "round": round_row(),
        "disk": Disk(database_bytes=1, free_bytes=50, total_bytes=100),
    }
    return Vitals(**usual | changes)


def wrong(of, limits=LIMITS):
    return {each.name for each in conditions(of, limits) if each.on}


def losing(count):
    return [machine(number, reading(hashrate_ths=20.0)) for number in range(1, count + 1)]


def hot(temp_c):
    return machine(1, reading(boards=(Board(slot=0, alive=True, chip_temp_c=temp_c),)))


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (vitals(), set()),
        (vitals(*losing(20)), {"losing_money"}),
        (vitals(*losing(1)), set()),
        (vitals(hot(96.0)), {"chip_temp"}),
        (vitals(hot(94.0)), set()),
        (vitals(machine(1, reading()), machine(2, failure())), {"offline"}),
        (vitals(given_up=frozenset({mac(1)})), {"disobedient"}),
        (vitals(disk=Disk(free_bytes=5, total_bytes=100)), {"disk"}),
        (vitals(disk=Disk()), set()),
        (vitals(round=round_row(took_s=31.0), interval_s=30.0), {"overloaded"}),
        (vitals(round=round_row(took_s=29.0), interval_s=30.0), set()),
        (vitals(storage_problem="disk full"), {"storage"}),
        (vitals(loops={"poll": {"late": True}, "scan": {"late": False}}), {"stuck"}),
        (vitals(obligation_kw=1.0), {"obligation_missed"}),
        (vitals(obligation_kw=3.5), set()),
        (vitals(sources=[SourceStatus(name="kraken", url="x", failure="HTTP 503")]), {"source_lost:kraken"}),
        (vitals(picture=picture(Fleet([machine(1, reading())]), market(None))), {"prices_in_doubt"}),
    ],
)
def test_what_is_watched(of, expected):
    assert wrong(of) == expected


def test_a_limit_of_none_watches_nothing():
    limits = Limits(losing_usd_per_day=None, chip_temp_c=None, offline_share=None, disk_free_share=None)
    bad = vitals(*losing(20), machine(30, failure()), disk=Disk(free_bytes=0, total_bytes=9))
    assert wrong(bad, limits) == set()


def test_a_machine_that_disobeys_is_named_with_what_it_did_not_do():
    failed = order(state=OrderState.FAILED, failure="still_mining")
    (told_,) = [
        each
        for each in conditions(vitals(given_up=frozenset({mac(1), mac(2)}), orders=[failed]), LIMITS)
        if each.name == "disobedient"
    ]
    assert told_.text == f"2 machines did not do what they were told: {mac(1)} (sleep: still_mining), 1 more"


# -- hysteresis ------------------------------------------------------------------------------------------


def at(value, *, on=10.0, off=8.0, severity=Severity.WARNING, name="x"):
    return [
        Condition(
            name=name, severity=severity, on=value >= on, off=value < off, value=value, text=f"{value:g}"
        )
    ]


def play(values, *, limits=LIMITS, severity=Severity.WARNING, quiet=lambda minute: False, every=MINUTE):
    """What is told, minute by minute."""
    alerts, said = {}, []
    for minute, value in enumerate(values):
        now = NOW + minute * every
        alerts = step(alerts, [] if value is None else at(value, severity=severity), now, limits)
        for change, alert in due(alerts.values(), now, limits, quiet=quiet(minute)):
            said.append((minute, change))
            alerts[alert.name] = told(alert, now)
    return said


def test_what_lasts_is_told_once_when_it_began_and_once_when_it_is_over():
    assert play([12] * 60 + [1] * 60) == [(10, Change.BEGAN), (70, Change.ENDED)]


def test_what_passes_quickly_is_not_told():
    assert play(([12] * 9 + [1]) * 20) == []


def test_what_wavers_about_its_limit_is_one_alert():
    assert play([12] * 20 + [9, 11] * 100) == [(10, Change.BEGAN)]


def test_what_grows_much_worse_is_told_again():
    assert play([12] * 20 + [23] * 20 + [24] * 20 + [50] * 9) == [
        (10, Change.BEGAN), (40, Change.WORSE), (60, Change.WORSE),
    ]  # fmt: skip


def test_what_is_critical_is_told_soon_and_again_until_somebody_has_seen_it():
    said = play([12] * 1000, severity=Severity.CRITICAL)
    assert said == [(2, Change.BEGAN), (362, Change.REMINDER), (722, Change.REMINDER)]


def test_what_is_not_watched_any_more_is_over():
    assert play([12] * 20 + [None] * 20) == [(10, Change.BEGAN), (30, Change.ENDED)]


def test_quiet_hours_hold_back_what_can_wait_and_forget_what_is_over_by_then():
    def night(minute):
        return minute < 100

    assert play([12] * 200, quiet=night) == [(100, Change.BEGAN)]
    assert play([12] * 50 + [1] * 150, quiet=night) == []
    assert play([12] * 200, quiet=night, severity=Severity.CRITICAL) == [(2, Change.BEGAN)]


def test_a_clock_that_is_set_back_holds_up_nothing():
    alerts = step({}, at(12), NOW + timedelta(days=1), LIMITS)
    for minute in range(11):
        alerts = step(alerts, at(12), NOW + minute * MINUTE, LIMITS)
    assert alerts["x"].firing


@given(st.lists(st.sampled_from([1.0, 9.0, 11.0, None]), max_size=200), st.sampled_from(Severity))
def test_beginnings_and_ends_take_turns_whatever_happens(values, severity):
    limits = replace(LIMITS, remind=None, hold=timedelta(minutes=2))
    said = [change for _, change in play(values, limits=limits, severity=severity)]
    assert said == [Change.BEGAN, Change.ENDED] * (len(said) // 2) + [Change.BEGAN] * (len(said) % 2)


@given(
    st.builds(
        Alert,
        name=st.text(),
        severity=st.sampled_from(Severity),
        text=st.text(),
        value=st.floats(allow_nan=False),
        firing=st.booleans(),
        since=st.just(NOW),
        turning_since=st.none() | st.just(NOW),
        told_at=st.none() | st.just(NOW),
        acknowledged_by=st.none() | st.text(),
    )
)
def test_an_alert_comes_back_from_the_store_as_it_was(alert):
    assert alert_of(json.loads(json.dumps(alert.as_data()))) == alert


@pytest.mark.parametrize(
    ("hours", "quiet", "loud"),
    [("22:00-06:00", ["23:00", "05:59"], ["06:00", "21:59"]), ("12:00-13:00", ["12:30"], ["13:00", "11:59"])],
)
def test_quiet_hours_are_of_the_sites_wall_clock(hours, quiet, loud):
    is_quiet = Quiet(hours, ZoneInfo("America/Chicago"))

    def local(clock):
        hour, minute = map(int, clock.split(":"))
        return NOW.astimezone(ZoneInfo("America/Chicago")).replace(hour=hour, minute=minute)

    assert all(is_quiet(local(each)) for each in quiet)
    assert not any(is_quiet(local(each)) for each in loud)


# -- telling it ------------------------------------------------------------------------------------------


class Post(Messenger):
    """A messenger that notes what it is to send, and takes it or not."""

    def __init__(self, *, takes=True):
        super().__init__()
        self.sent, self.takes = [], takes

    async def _send(self, target, title, body, severity):
        self.sent.append((target.name, title, body))
        return self.takes


def herald(clock, post, stored=None, *, targets=("ops",), saved=None, quiet=lambda _: False):
    async def save(name, value):
        if saved is not None:
            saved[name] = value

    async def record(event):
        pass

    habits = Habits(
        limits=LIMITS,
        targets=[Target(name=name, address="x") for name in targets],
        site="mine",
        is_quiet=quiet,
    )
    return Herald(habits, stored, clock=clock, save=save, record=record, messenger=post)


async def watch(one, clock, what, minutes):
    for _ in range(minutes):
        await one.look(what)
        await one.tell()
        clock.forward(minutes=1)


BAD = vitals(machine(1, reading()), machine(2, failure()))


async def test_a_restart_neither_repeats_nor_forgets_a_message():
    clock, post, saved = HandClock(), Post(), {}
    await watch(herald(clock, post, saved=saved), clock, BAD, 15)
    assert [title for _, title, _ in post.sent] == ["mine: warning"]
    again = herald(clock, post, saved["alerts"], saved=saved)
    await watch(again, clock, BAD, 15)
    assert len(post.sent) == 1
    await watch(again, clock, vitals(), 15)
    assert [title for _, title, _ in post.sent] == ["mine: warning", "mine: over"]
    assert post.sent[1][2] == "over: 0 of 1 machines cannot be read [offline]"
    assert json.loads(saved["alerts"]) == []


async def test_a_message_that_nobody_took_is_sent_again_and_its_loss_logged_once(monkeypatch, lines):
    monkeypatch.setattr(herald_module, "RETRY_S", (0.0, 0.0))
    clock, post = HandClock(), Post(takes=False)
    one = herald(clock, post)
    await watch(one, clock, BAD, 20)
    assert len(post.sent) > 5
    assert len(lines("alert_not_delivered")) == 1
    post.takes = True
    await watch(one, clock, BAD, 20)
    assert len(lines("alert_delivered")) == 1
    sent = len(post.sent)
    await watch(one, clock, BAD, 20)
    assert len(post.sent) == sent


async def test_a_plugin_that_breaks_is_a_failure_and_shows_no_address(monkeypatch, lines, caplog):
    def broken(_):
        raise ValueError("canary-alert-77")

    monkeypatch.setattr(messenger_module, "_opened", broken)
    messenger = Messenger()
    for _ in range(3):
        taken = await messenger.send([Target(name="x", address="y")], "t", "b", Severity.WARNING)
        assert taken == {"x": False}
    assert len(lines("alert_target_failed")) == 1
    assert "canary" not in caplog.text


async def test_a_target_that_is_down_is_not_tried_at_every_look():
    clock, post = HandClock(), Post(takes=False)
    await watch(herald(clock, post), clock, BAD, 60)
    assert len(post.sent) == 1


async def test_many_changes_at_once_are_one_short_message():
    clock, post = HandClock(), Post()
    sources = [SourceStatus(name=f"s{n}\x1b[31m", url="x", failure="down") for n in range(100)]
    await watch(herald(clock, post), clock, vitals(sources=sources), 15)
    ((_, _, body),) = post.sent
    assert len(body.splitlines()) == herald_module.SHOWN + 1
    assert "\x1b" not in body


async def test_an_acknowledgement_ends_the_reminders_until_it_begins_anew():
    clock, post = HandClock(), Post()
    one = herald(clock, post)
    broken = vitals(storage_problem="full")
    await watch(one, clock, broken, 400)
    assert [title for _, title, _ in post.sent] == ["mine: critical"] * 2
    assert "still: nothing is done" in post.sent[1][2]
    assert await one.acknowledge("storage", "ann")
    assert not await one.acknowledge("nothing", "ann")
    assert one.firing()[0].acknowledged_by == "ann"
    await watch(one, clock, broken, 800)
    assert len(post.sent) == 2
    await watch(one, clock, vitals(), 10)
    await watch(one, clock, broken, 10)
    assert [title for _, title, _ in post.sent[2:]] == ["mine: over", "mine: critical"]
    assert one.firing()[0].acknowledged_by is None


async def test_who_wants_only_what_is_critical_gets_only_that():
    clock, post = HandClock(), Post()
    one = herald(clock, post)
    one._habits = replace(
        one._habits,
        targets=[Target(name="all", address="x"), Target(name="pager", address="y", least=Severity.CRITICAL)],
    )
    await watch(one, clock, BAD, 15)
    assert [name for name, _, _ in post.sent] == ["all"]
    await watch(one, clock, replace(BAD, storage_problem="full"), 5)
    assert [name for name, _, _ in post.sent] == ["all", "all", "pager"]


async def test_the_end_of_what_nobody_was_told_of_is_seen_once_too(lines, monkeypatch):
    monkeypatch.setattr(herald_module, "RETRY_S", (0.0, 0.0))
    clock, post, saved = HandClock(), Post(takes=False), {}
    one = herald(clock, post, saved=saved)
    await watch(one, clock, BAD, 20)
    await watch(one, clock, vitals(machine(1, reading())), 20)
    assert [line.split()[0] for line in lines("event=alert_")] == [
        "event=alert_began", "event=alert_not_delivered", "event=alert_ended",
    ]  # fmt: skip
    assert json.loads(saved["alerts"]) == []


async def test_without_a_target_it_is_logged_and_listed_all_the_same(lines):
    clock, post = HandClock(), Post()
    one = herald(clock, post, targets=())
    await watch(one, clock, BAD, 30)
    assert post.sent == []
    assert len(lines("alert_began")) == 1
    assert [alert.name for alert in one.firing()] == ["offline"]


def test_a_title_says_how_bad_it_is():
    bad = Alert(name="x", severity=Severity.WARNING, text="t", value=1, firing=True, since=NOW)
    worse = replace(bad, severity=Severity.CRITICAL)
    assert message("s", [(Change.BEGAN, bad)])[0] == "s: warning"
    assert message("s", [(Change.BEGAN, bad), (Change.BEGAN, worse)])[0] == "s: critical"
    assert message("s", [(Change.ENDED, worse)])[0] == "s: over"


# -- over apprise, for real --------------------------------------------------------------------------------


@asynccontextmanager
async def webhook(status=200):
    """A receiver of JSON on loopback."""
    heard = []

    async def answer(reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(
                next(
                    line for line in head.lower().splitlines() if line.startswith(b"content-length")
                ).split()[1]
            )
            heard.append(json.loads(await reader.readexactly(length)))
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield f"json://user:canary-alert-77@127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def test_a_message_arrives_over_apprise_and_a_refusal_is_known():
    async with webhook() as (address, heard):
        messenger = Messenger()
        target = Target(name="hook", address=address)
        assert "canary" not in repr(target)
        assert await messenger.send([target], "mine: warning", "text", Severity.WARNING) == {"hook": True}
        assert (heard[0]["title"], heard[0]["message"], heard[0]["type"]) == (
            "mine: warning",
            "text",
            "warning",
        )
        messenger.close()
    async with webhook(status=500) as (address, _):
        messenger = Messenger()
        assert await messenger.send([replace(target, address=address)], "t", "b", Severity.WARNING) == {
            "hook": False
        }
        messenger.close()


def test_an_address_that_apprise_does_not_know_is_found_out():
    assert is_address("json://127.0.0.1:9")
    assert not is_address("nonsense")


async def test_the_agent_tells_and_shows_its_alerts_and_takes_an_acknowledgement(
    tmp_path, monkeypatch, caplog
):
    known(tmp_path / "h.db", machine(1))
    async with webhook() as (address, heard):
        monkeypatch.setenv("HOOK", address)
        text = '[alerts]\nhold_s = 0\nremind_s = 60\n[alerts.targets.hook]\npassword_env = "HOOK"\n'
        config = parse("[poll]\ninterval_s = 1.0\ndeadline_s = 1.0\n" + text, source="test")
        agent = SiteOfFakes(config, tmp_path / "h.db", clock=Clock(now=HandClock()))
        agent.fakes = {mac(1): FakeDriver(reading(boards=(Board(slot=0, alive=True, chip_temp_c=120.0),)))}
        async with agent:
            running = asyncio.create_task(agent.run())
            await eventually(lambda: heard)
            (shown,) = await agent.operations.alerts()
            assert (shown["name"], shown["severity"]) == ("chip_temp", "critical")
            assert await agent.operations.acknowledge("chip_temp", "ann")
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        assert "120 degrees Celsius" in heard[0]["message"]
    assert "canary" not in caplog.text
    assert b"canary" not in (tmp_path / "h.db").read_bytes()


async def test_a_disk_that_takes_nothing_does_not_silence_the_alert_of_it(tmp_path):
    known(tmp_path / "h.db", machine(1))
    agent = SiteOfFakes(
        parse("[alerts]\nhold_s = 0", source="test"), tmp_path / "h.db", clock=Clock(now=HandClock())
    )
    agent.fakes = {mac(1): FakeDriver(reading())}
    async with agent:
        await agent.poll_once()

        async def full(function, *arguments, **more):
            raise StorageError("disk full")

        right, agent._in_writer = agent._in_writer, full
        await agent.poll_once()
        assert "storage" in [alert.name for alert in agent.herald.firing()]
        agent._in_writer = right


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('quiet_hours = "ten"', "quiet_hours"),
        ("losing_usd_per_day = -1.0", "losing_usd_per_day"),
        ("[alerts.targets.x]\n", "exactly one"),
        ('[alerts.targets.x]\npassword_env = "NOT_THERE"', "NOT_THERE"),
    ],
)
def test_mistakes_are_told(text, problem):
    with pytest.raises(ConfigError, match=problem):
        parse(f"[alerts]\n{text}", source="test")


async def test_the_command_sends_a_test_to_everybody(tmp_path):
    async with webhook() as (address, heard):
        path = tmp_path / "c.toml"
        path.write_text(
            '[alerts.targets.hook]\npassword_env = "HOOK"\n[alerts.targets.bad]\npassword_env = "BAD"\n'
        )
        done = await asyncio.to_thread(
            hashcost, "alerts", "test", "--config", path, HOOK=address, BAD="json://127.0.0.1:1"
        )
    assert done.returncode == 3, done.stderr
    assert "sent   hook" in done.stdout
    assert "FAILED bad" in done.stdout
    assert "canary" not in done.stdout + done.stderr
    assert heard[0]["title"] == "hashcost: test"
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert hashcost("alerts", "test", "--config", empty).returncode == 2
