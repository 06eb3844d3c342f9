"""The whole agent answers a call of the grid, by the simulated site's own books."""

from datetime import timedelta

import pytest

from agent.obligations import OPERATOR, Call
from drivers.reading import RunState


def site_kw(stage):
    return sum(machine.truth().power_w for machine in stage.site.machines) / 1000


def states(stage):
    return {machine.mac: machine.truth().run_state for machine in stage.site.machines}


def settled(agent):
    return not agent.reconciler.open_orders()


def modes(stage):
    return {machine.mac: machine.truth().power_mode for machine in stage.site.machines}


async def test_load_is_shed_by_so_much_across_a_restart_and_restored_exactly(start_theatre):
    """By 15 kW from 5 minutes on for half an hour; the agent is replaced in the middle."""
    stage = await start_theatre(machines=12, seed=7)
    async with stage.new_agent() as agent:
        await agent.scan()
        await stage.priced(agent, 0.01, standing=0)
        before_kw, before, modes_before = site_kw(stage), states(stage), modes(stage)
        now = stage.site.now()
        call = Call(
            call_id="alice-1", source=OPERATOR, by="alice", by_kw=15.0, start=now + timedelta(minutes=5),
            end=now + timedelta(minutes=35),
        )  # fmt: skip
        await agent.operations.shed(call, dry_run=False)
        for _ in range(3):
            stage.pass_time(60)
            await agent.poll_once()
        assert agent.reconciler.all() == []

        await stage.rounds(agent, lambda: bool(agent.reconciler.standing()) and settled(agent), most=20)
        slept = set(agent.reconciler.standing())
        assert before_kw - site_kw(stage) >= 14.5
        assert site_kw(stage) >= before_kw - 15.0 - 7.0, "more than one machine too many"

    async with stage.new_agent() as agent:
        await stage.rounds(agent, lambda: settled(agent), quiet=3)
        assert set(agent.reconciler.standing()) == slept
        (again,) = agent.obligations.calls
        assert again.target_kw == pytest.approx(before_kw - 15.0, rel=0.05)
        await stage.rounds(agent, lambda: not agent.obligations.calls and not agent.reconciler.standing())
        await stage.rounds(agent, lambda: states(stage) == before)
    assert slept
    assert modes(stage) == modes_before
    for machine in stage.site.machines:
        assert stage.writes(machine) == (["sleep", "wake"] if machine.mac in slept else [])
        assert machine.truth().run_state is RunState.MINING
