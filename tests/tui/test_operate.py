"""The terminal with --operate beside a running agent, over its real socket: nothing is done unasked, and what is
asked for reaches the machines."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from textual.widgets import Button

from agent.clock import Clock
from agent.config import Config, CurtailmentSection, PollSection
from agent.curtailment import Mode
from agent.orders import OrderState
from agent.service import Agent
from drivers.driver import utc_now
from tests.agent.builders import FakeDriver, asleep, mac, machine, reading
from tests.agent.test_service import SiteOfFakes, known
from tests.tui.screens import MEDIUM, opened, shows, text, until
from tui.screens.confirm import ConfirmScreen, Plan, question

LOSING = 9000.0


class Site(SiteOfFakes):
    """An agent that polls its fakes and serves its socket, and scans nothing. What it read stands for a minute: a busy
    machine need not keep up with a round a second."""

    _valid_s = 60.0

    async def _scan_loop(self):
        await asyncio.Event().wait()


def obedient(number, power_w):
    """A machine that sleeps once it is told to."""

    async def now():
        told = [command[0] for command in driver.commands]
        one = asleep() if told and told[-1] == "sleep" else reading(power_w=power_w)
        at = utc_now()
        return replace(one, began_at=at, ended_at=at)

    driver = FakeDriver(now, number=number)
    return driver


@asynccontextmanager
async def running(tmp_path, *powers, mode=Mode.RECOMMEND):
    database, socket = tmp_path / "hashcost.db", tmp_path / "agent.sock"
    known(database, *[machine(number) for number in range(1, len(powers) + 1)])
    config = Config(
        poll=PollSection(interval_s=1.0, deadline_s=1.0),
        # what sleeps is not proposed to be woken while the test looks on
        curtailment=CurtailmentSection(mode=mode, rule="dead_band", min_on_s=0.0, min_off_s=7200.0),
    )
    agent: Agent = Site(config, database, clock=Clock(), socket=socket)
    agent.fakes = {mac(n): obedient(n, power_w) for n, power_w in enumerate(powers, start=1)}
    async with agent:
        await agent.poll_once()
        task = asyncio.create_task(agent.run())
        try:
            async with opened(database, MEDIUM, socket=socket, operate=True) as pilot:
                yield agent, pilot
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def commands(agent):
    return {
        number: [c[0] for c in agent.fakes[mac(number)].commands] for number in range(1, len(agent.fakes) + 1)
    }


async def asked(pilot):
    """Until there is a question that has the keys."""

    def is_asked():
        return isinstance(pilot.app.screen, ConfirmScreen) and pilot.app.screen.focused is not None

    await until(pilot, is_asked)


async def test_the_agent_is_seen_with_its_mode(tmp_path):
    async with running(tmp_path, 3000.0) as (_, pilot):
        await shows(pilot, "RECOMMEND", "OPERATE", "10.0.0.1")
        await until(pilot, lambda: "AGENT DOWN" not in text(pilot))  # its socket may open a moment later


async def test_a_machine_is_curtailed_after_its_number_is_typed_and_restored(tmp_path):
    """One of two is more than a twentieth of the site."""
    async with running(tmp_path, 3001.0, 3000.0) as (agent, pilot):
        await shows(pilot, "RECOMMEND", "10.0.0.2")
        await pilot.press("home", "C")
        await asked(pilot)
        await shows(pilot, "curtail 1 machine?", "kW", "USD/hour", "10.0.0.1", "Type 1 to go on")
        yes = pilot.app.screen.query_one("#yes", Button)
        assert yes.disabled
        await pilot.press("2", "enter")
        assert yes.disabled
        await pilot.press("backspace", "1", "enter")
        assert not yes.disabled
        assert commands(agent) == {1: [], 2: []}  # Enter went to the button, and did not press it
        await pilot.press("enter")
        await until(pilot, lambda: commands(agent) == {1: ["sleep"], 2: []})
        await shows(pilot, "1 ordered")
        await until(
            pilot,
            lambda: (
                agent.operations.picture.views[0].run_state.value == "asleep" or "1 asleep" in text(pilot)
            ),
        )
        agent.curtailer.policy = replace(agent.curtailer.policy, mode=Mode.OBSERVE)
        await shows(pilot, "1 asleep")
        await pilot.press("slash", *"asleep", "enter")
        await shows(pilot, "filter asleep: 1 of 2")
        await pilot.press("R")
        await asked(pilot)
        await pilot.press("1", "enter", "enter")
        await until(pilot, lambda: commands(agent)[1][-1] == "wake")


@pytest.mark.parametrize("keys", [["escape"], ["enter"], ["tab", "escape"]], ids=str)
async def test_no_is_what_a_hasty_hand_says(tmp_path, keys):
    """Of 21 machines one is no twentieth: no number is asked for, and the safe answer has the keys."""
    async with running(tmp_path, *[3000.0 + n for n in range(21)]) as (agent, pilot):
        await shows(pilot, "21 machines")
        await pilot.press("C")
        await asked(pilot)
        assert not pilot.app.screen.query("#number")
        await pilot.press(*keys)
        await until(pilot, lambda: not isinstance(pilot.app.screen, ConfirmScreen))
        await asyncio.sleep(0.3)
        assert not any(commands(agent).values())


async def test_marks_are_what_is_meant_and_yes_is_one_tab_away(tmp_path):
    async with running(tmp_path, *[3000.0 + n for n in range(60)]) as (agent, pilot):
        await shows(pilot, "60 machines")
        await pilot.press("space", "space", "C")
        await asked(pilot)
        await shows(pilot, "curtail 2 machines?")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: sum(map(len, commands(agent).values())) == 2)


async def test_proposals_are_approved_and_rejected(tmp_path):
    async with running(tmp_path, LOSING, LOSING + 1, 3000.0) as (agent, pilot):
        await shows(pilot, "RECOMMEND", "10.0.0.1")
        await pilot.press("3")
        await shows(pilot, "2 proposals", "nothing is owed to the grid", "within this minute: down 0 of")
        await pilot.press("home", "A")
        await asked(pilot)
        await shows(pilot, "approve 1 machine?", "below_breakeven")
        await pilot.press("1", "enter", "enter")
        await until(pilot, lambda: sum(map(len, commands(agent).values())) == 1)
        await shows(pilot, "1 proposal")
        answer = await pilot.app.source.tell("orders")
        assert all(each["due_by"] for each in answer["orders"] if each["state"] != "dispatching")
        await pilot.press("a", "X")
        await asked(pilot)
        await pilot.press("1", "enter", "enter")
        await shows(pilot, "0 proposals")
        states = {order.state for order in agent.reconciler.all()}
        assert OrderState.PROPOSED not in states
        assert sum(map(len, commands(agent).values())) == 1


async def test_hold_is_at_once_and_cannot_be_overlooked_and_resume_asks(tmp_path):
    async with running(tmp_path, LOSING, 3000.0, mode=Mode.AUTO) as (agent, pilot):
        await shows(pilot, "AUTO")
        await pilot.press("H")
        await shows(pilot, " HELD ")
        assert agent.curtailer.held
        await pilot.press("U")
        await asked(pilot)
        await pilot.press("escape")
        await asyncio.sleep(0.2)
        assert agent.curtailer.held
        await pilot.press("U")
        await asked(pilot)
        await pilot.press("2", "enter", "enter")
        await until(pilot, lambda: not agent.curtailer.held)
        await until(pilot, lambda: " HELD " not in text(pilot))


async def test_what_cannot_be_done_is_told_and_asks_nothing(tmp_path):
    async with running(tmp_path, 3000.0) as (_, pilot):
        await shows(pilot, "10.0.0.1")
        await pilot.press("R")
        await shows(pilot, "none of them: ")
        await pilot.press("3", "A")
        await shows(pilot, "mark proposals first")


async def test_quitting_does_not_stop_the_agent(tmp_path):
    async with running(tmp_path, 3000.0) as (agent, pilot):
        await shows(pilot, "10.0.0.1")
        await pilot.press("q")
        await until(pilot, lambda: not pilot.app.is_running)
        reads = agent.fakes[mac(1)].reads
        async with asyncio.timeout(60):
            while agent.fakes[mac(1)].reads == reads:
                await asyncio.sleep(0.05)


async def test_an_agent_that_goes_down_meanwhile_is_told(tmp_path):
    async with running(tmp_path, 3000.0) as (_, pilot):
        await shows(pilot, "RECOMMEND", "10.0.0.1")
        (tmp_path / "agent.sock").unlink()
        await shows(pilot, "AGENT DOWN")
        await pilot.press("C")
        await shows(pilot, "no agent listens there")


@pytest.mark.parametrize(
    ("count", "site", "large"), [(1, 20, False), (2, 20, True), (500, 10_000, False), (501, 10_000, True)]
)
def test_more_than_a_twentieth_is_large(count, site, large):
    plan = Plan(verb="curtail", count=count, site_machines=site, kw=1.0, usd_per_day=24.0, lines=[])
    assert plan.is_large is large
    machines = "1 machine" if count == 1 else f"{count} machines"
    assert question(plan).plain == f"curtail {machines}?\n1.0 kW, +1.00 USD/hour for the site"
