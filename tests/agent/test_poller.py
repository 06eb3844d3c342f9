"""Rounds over a fleet of fake machines: everyone has an outcome, nothing hangs, the silent are asked less often."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet import Failure
from agent.poller import JITTER, MAX_BACKOFF_ROUNDS, Poller, pause_s
from drivers.driver import AuthenticationFailed, Malformed, NoAnswer, Refused, WrongMachine
from tests.agent.builders import NOW, FakeDriver, HandClock, machine, reading

DOWN = NoAnswer("10.0.0.1", "nobody there")


def poller(workers=4, deadline_s=5.0, clock=None):
    return Poller(workers=workers, deadline_s=deadline_s, clock=clock or HandClock(), seed=1)


def fleet(*drivers):
    return [(machine(number), driver) for number, driver in enumerate(drivers, start=1)]


async def rounds(asked, machines, count):
    """Poll `count` rounds as the agent does; which of them read the first machine."""
    read = []
    _, driver = machines[0]
    for number in range(1, count + 1):
        before = driver.reads
        result = await asked.poll(machines)
        for each, _ in machines:
            if each.machine_id in result.outcomes:
                each.apply(result.outcomes[each.machine_id])
        if driver.reads > before:
            read.append(number)
    return read


async def test_every_machine_has_an_outcome():
    machines = fleet(FakeDriver(), FakeDriver(DOWN), FakeDriver(reading(hashrate_ths=1.0)))
    result = await poller().poll(machines)
    ok, down, slow = (result.outcomes[each.machine_id] for each, _ in machines)
    assert (ok, slow.hashrate_ths) == (reading(), 1.0)
    assert isinstance(down, Failure)
    assert result.backed_off == 0


async def test_an_empty_fleet_is_a_round_too():
    result = await poller().poll([])
    assert (dict(result.outcomes), result.backed_off) == ({}, 0)


@pytest.mark.parametrize(
    "error", [NoAnswer, Refused, Malformed, AuthenticationFailed, WrongMachine], ids=lambda each: each.kind
)
async def test_an_error_of_a_driver_becomes_a_failure_of_its_kind(error):
    machines = fleet(FakeDriver(error("10.0.0.1", "why it failed")))
    outcome = (await poller().poll(machines)).outcomes[machines[0][0].machine_id]
    assert outcome == Failure(at=NOW, kind=error.kind, detail="10.0.0.1: why it failed")


async def test_a_fault_of_ours_with_one_machine_does_not_blind_the_site(caplog):
    machines = fleet(FakeDriver(KeyError("chain_rate4")), FakeDriver())
    outcomes = (await poller().poll(machines)).outcomes
    odd, healthy = (outcomes[each.machine_id] for each, _ in machines)
    assert odd.kind == "internal_error"
    assert "chain_rate4" in odd.detail
    assert healthy == reading()
    assert "event=driver_fault" in caplog.text


async def test_a_cancellation_that_nobody_asked_for_costs_no_worker_and_is_told(caplog):
    """As of a driver that waits for a future which was cancelled long ago."""
    machines = fleet(FakeDriver(asyncio.CancelledError()), FakeDriver(), FakeDriver())
    outcomes = (await poller(workers=1, deadline_s=60).poll(machines)).outcomes
    odd, *healthy = (outcomes[each.machine_id] for each, _ in machines)
    assert odd.kind == "internal_error"
    assert healthy == [reading(), reading()]
    assert "event=driver_fault" in caplog.text


async def test_no_more_machines_are_read_at_once_than_there_are_workers():
    now, most = 0, 0

    async def watched():
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        return reading()

    result = await poller(workers=3).poll(fleet(*[FakeDriver(watched) for _ in range(30)]))
    assert most == 3
    assert len(result.outcomes) == 30


async def test_workers_are_used_although_one_machine_hangs():
    hanging = FakeDriver(asyncio.Event().wait)
    result = await poller(workers=2, deadline_s=0.2).poll(fleet(hanging, *[FakeDriver() for _ in range(20)]))
    kinds = [outcome.kind for outcome in result.outcomes.values() if isinstance(outcome, Failure)]
    assert kinds == ["round_deadline"]


async def test_a_round_ends_at_its_deadline_and_leaves_nothing_behind():
    drivers = [FakeDriver(asyncio.Event().wait) for _ in range(5)]
    before, began_s = asyncio.all_tasks(), asyncio.get_running_loop().time()
    result = await poller(workers=2, deadline_s=0.05).poll(fleet(*drivers))
    assert asyncio.get_running_loop().time() - began_s < 1
    assert result.took_s >= 0.05
    assert {outcome.kind for outcome in result.outcomes.values()} == {"round_deadline"}
    assert len(result.outcomes) == 5
    assert sum(driver.cancelled for driver in drivers) == sum(driver.reads for driver in drivers) == 2
    assert asyncio.all_tasks() == before


async def test_when_rounds_do_not_fit_nobody_starves_and_nothing_piles_up():
    """Each round has time for about eight of thirty machines: all are read within six, none is asked less often for it,
    and there are never more tasks than workers."""
    alone, most = len(asyncio.all_tasks()), 0

    async def slow():
        nonlocal most
        most = max(most, len(asyncio.all_tasks()) - alone)
        await asyncio.sleep(0.025)
        return reading()

    drivers = [FakeDriver(slow) for _ in range(30)]
    machines, asked = fleet(*drivers), poller(workers=2, deadline_s=0.12)
    read = set()
    for _ in range(6):
        result = await asked.poll(machines)
        for each, _ in machines:
            each.apply(result.outcomes[each.machine_id])  # everybody was due
        read |= {each for each, outcome in result.outcomes.items() if not isinstance(outcome, Failure)}
    assert len(read) == 30
    assert most == 2
    assert max(driver.reads for driver in drivers) <= 3


async def test_a_machine_that_was_read_before_the_deadline_keeps_its_reading():
    machines = fleet(FakeDriver(), FakeDriver(asyncio.Event().wait))
    result = await poller(deadline_s=0.05).poll(machines)
    assert result.outcomes[machines[0][0].machine_id] == reading()


async def test_a_silent_machine_rests_longer_and_longer_up_to_sixteen_rounds():
    read = await rounds(poller(), fleet(FakeDriver(DOWN)), 80)
    assert read == [1, 2, 4, 8, 16, 32, 48, 64, 80]
    assert MAX_BACKOFF_ROUNDS == 16


async def test_a_machine_that_answers_again_is_read_in_every_round():
    driver = FakeDriver(DOWN, DOWN, DOWN, reading())
    assert await rounds(poller(), fleet(driver), 12) == [1, 2, 4, 8, 9, 10, 11, 12]


async def test_after_an_answer_the_rests_begin_short_again():
    driver = FakeDriver(DOWN, DOWN, DOWN, reading(), DOWN)
    assert await rounds(poller(), fleet(driver), 17) == [1, 2, 4, 8, 9, 10, 12, 16]


async def test_a_machine_whose_silence_is_forgotten_is_read_in_the_next_round():
    driver, asked = FakeDriver(DOWN), poller()
    machines = fleet(driver)
    assert await rounds(asked, machines, 5) == [1, 2, 4]
    asked.forget(machines[0][0].machine_id)
    await asked.poll(machines)
    assert driver.reads == 4


async def test_what_is_heard_of_a_machine_that_was_forgotten_meanwhile_makes_it_rest_no_longer():
    asked = poller()

    async def forgotten():
        asked.forget(machines[0][0].machine_id)
        raise DOWN

    driver = FakeDriver(forgotten)
    machines = fleet(driver)
    assert await rounds(asked, machines, 5) == [1, 2, 3, 4, 5]


async def test_resting_machines_are_counted_and_have_no_outcome():
    machines = fleet(FakeDriver(DOWN), FakeDriver())
    asked = poller()
    await rounds(asked, machines, 2)
    result = await asked.poll(machines)
    assert result.backed_off == 1
    assert list(result.outcomes) == [machines[1][0].machine_id]


async def test_one_machine_rests_alone():
    silent, lively = FakeDriver(DOWN), FakeDriver()
    await rounds(poller(), fleet(silent, lively), 8)
    assert (silent.reads, lively.reads) == (4, 8)


async def test_a_failure_carries_the_time_before_the_read():
    clock = HandClock()

    async def later():
        clock.forward(seconds=9)
        raise NoAnswer("10.0.0.1", "too late")

    machines = fleet(FakeDriver(later))
    result = await poller(clock=clock).poll(machines)
    assert result.began_at == result.outcomes[machines[0][0].machine_id].at == NOW


async def test_cancelling_a_round_cancels_its_reads():
    driver = FakeDriver(asyncio.Event().wait)
    polling = asyncio.ensure_future(poller(deadline_s=60).poll(fleet(driver)))
    await asyncio.sleep(0.01)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    assert driver.cancelled


intervals = st.floats(0.1, 3600)


@given(intervals, st.floats(0, 100_000), st.floats(-1, 1))
def test_a_pause_is_never_negative_and_never_longer_than_an_interval_and_its_jitter(interval, took, jitter):
    wait, skipped = pause_s(interval, took, jitter)
    assert 0 <= wait <= interval * (1 + JITTER) * (1 + 1e-9)
    assert skipped >= 0


@given(intervals, st.integers(0, 50), st.floats(0.01, 0.99))
def test_a_round_that_runs_over_skips_the_starts_that_it_missed(interval, missed, share):
    wait, skipped = pause_s(interval, interval * (missed + share), 0.0)
    assert skipped == missed
    assert wait == pytest.approx(interval * (1 - share))


@given(intervals, st.floats(0.0, 0.89))
def test_jitter_moves_a_start_by_a_tenth_of_the_interval_at_most(interval, share):
    early, middle, late = (pause_s(interval, interval * share, jitter)[0] for jitter in (-1, 0, 1))
    assert late - middle == pytest.approx(interval / 10)
    assert middle - early == pytest.approx(interval / 10)
