"""Commands as the agent carries them out: checked first, recorded before they are done, answered in full."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms
from agent.baseline import SAMPLES_NEEDED
from agent.commands import CommandError, Commands, exit_status, in_words, moved_kw
from agent.control import VIEWER_COMMANDS, ControlServer, Request, Role, call
from agent.selector import SelectorError
from agent.view import view_machine
from drivers.reading import RunState
from tests.agent.builders import (
    MAX_AGE,
    NOW,
    asleep,
    eventually,
    failure,
    identity,
    mac,
    machine,
    market,
    reading,
)
from tests.agent.processes import open_directory

TERMS = Terms(fee=0.02, reject=0.01, overhead=1.05, sleep_power_w=50.0)
COMMANDS = ("status", "orders", "hold", "resume", "approve", "reject", "curtail", "restore")
PRICE = 0.06
HASHPRICE = market().hashprice_usd_per_ph_day


def viewed(number, *outcomes, terms=TERMS, price=PRICE, **changes):
    return view_machine(machine(number, *outcomes, **changes), market(price), terms, max_age=MAX_AGE)


def slept(number, hashrate_ths=200.0, power_w=3500.0, **changes):
    """A machine that ran at these numbers before it was put to sleep."""
    ran = reading(hashrate_ths=hashrate_ths, power_w=power_w)
    return viewed(number, *[ran] * SAMPLES_NEEDED, asleep(), **changes)


class Agent:
    """An agent that keeps in order what it was told, and refuses machines that are `protected`."""

    terms = TERMS

    def __init__(self, *views, orders=(), protected=()):
        self.told = []
        self.successor_knows = True
        self._views = views
        self._orders = orders
        self._protected = protected

    @property
    def done(self):
        return [each for each in self.told if each[0] != "record"]

    @property
    def recorded(self):
        return [each[1] for each in self.told if each[0] == "record"]

    async def status(self):
        return {"mode": "recommend", "held": False}

    async def views(self):
        return self._views

    async def open_orders(self):
        return self._orders

    async def hold(self, by):
        self.told.append(("hold", by))
        return self.successor_knows

    async def resume(self, by):
        self.told.append(("resume", by))
        return self.successor_knows

    async def approve(self, order_ids, by):
        return self._settled("approve", order_ids, by)

    async def reject(self, order_ids, by):
        return self._settled("reject", order_ids, by)

    def _settled(self, command, order_ids, by):
        self.told.append((command, list(order_ids), by))
        known = {order["order_id"] for order in self._orders if order["state"] == "proposed"}
        return [
            {
                "order_id": each,
                "machine_id": mac(each),
                "accepted": each in known,
                "reason": None if each in known else "not_proposed",
            }
            for each in order_ids
        ]

    async def curtail(self, machine_ids, by, *, dry_run):
        return self._switched("curtail", machine_ids, by, dry_run)

    async def restore(self, machine_ids, by, *, dry_run):
        return self._switched("restore", machine_ids, by, dry_run)

    def _switched(self, command, machine_ids, by, dry_run):
        self.told.append((command, list(machine_ids), by, dry_run))
        return [
            {
                "machine_id": each,
                "accepted": each not in self._protected,
                "reason": "protected" if each in self._protected else None,
            }
            for each in machine_ids
        ]

    async def record(self, event):
        self.told.append(("record", event))


def asked(command, role=Role.OPERATOR, **arguments):
    return Request(command=command, arguments=arguments, user="alice", uid=1000, role=role)


async def give(agent, command, **arguments):
    return await Commands(agent, clock=lambda: NOW)(asked(command, **arguments))


async def test_the_status_is_what_the_agent_says():
    assert await give(Agent(), "status") == {"mode": "recommend", "held": False}


async def test_open_orders_are_listed():
    orders = ({"order_id": 7, "state": "proposed"},)
    assert await give(Agent(orders=orders), "orders") == {"orders": list(orders)}


@pytest.mark.parametrize(("command", "held"), [("hold", True), ("resume", False)])
async def test_the_site_is_held_and_let_go_by_a_user(command, held):
    agent = Agent()
    assert await give(agent, command) == {"held": held}
    assert agent.done == [(command, "alice")]
    agent.successor_knows = False
    answer = await give(agent, command)
    assert answer == {"held": held, "known_to_standby": False}
    assert "standby does not know" in in_words(command, answer)


PROPOSALS = (
    {"order_id": 1, "state": "proposed"},
    {"order_id": 2, "state": "dispatched"},
    {"order_id": 3, "state": "proposed"},
)


@pytest.mark.parametrize("command", ["approve", "reject"])
async def test_orders_are_settled_by_number(command):
    agent = Agent(orders=PROPOSALS)
    answer = await give(agent, command, orders=[3, 2])
    assert agent.done == [(command, [3, 2], "alice")]
    assert (answer["accepted"], answer["refused"]) == (1, 1)
    assert [each["reason"] for each in answer["orders"]] == [None, "not_proposed"]


@pytest.mark.parametrize("command", ["approve", "reject"])
async def test_all_are_those_that_are_proposed(command):
    agent = Agent(orders=PROPOSALS)
    assert (await give(agent, command, all=True))["accepted"] == 2
    assert agent.done == [(command, [1, 3], "alice")]


async def test_of_no_proposed_orders_none_is_approved():
    agent = Agent()
    assert await give(agent, "approve", all=True) == {"orders": [], "accepted": 0, "refused": 0}
    assert agent.done == []


async def test_machines_are_curtailed_by_selector_and_those_refused_are_in_no_sum():
    agent = Agent(
        viewed(1, reading()), viewed(2, reading(power_w=5000.0)), viewed(3, reading()), protected=[mac(3)]
    )
    answer = await give(agent, "curtail", selector="10.0.0.1-3")
    assert agent.done == [("curtail", [mac(1), mac(2), mac(3)], "alice", False)]
    assert (answer["accepted"], answer["refused"], answer["dry_run"]) == (2, 1, False)
    assert answer["kw"] == pytest.approx(3.45 + 4.95)
    earned = 0.2 * HASHPRICE * 0.98 * 0.99
    gains = [kw * 24 * PRICE * 1.05 - earned for kw in (3.45, 4.95)]
    assert answer["usd_per_day"] == pytest.approx(sum(gains), rel=1e-4)
    assert [each["usd_per_day"] for each in answer["machines"]] == pytest.approx([*gains, gains[0]], rel=1e-4)
    assert answer["machines"][2]["reason"] == "protected"


async def test_what_a_sleeping_machine_will_draw_and_earn_is_what_it_did():
    agent = Agent(slept(1, hashrate_ths=190.0, power_w=3650.0))
    answer = await give(agent, "restore", selector="all")
    assert agent.done == [("restore", [mac(1)], "alice", False)]
    assert answer["kw"] == pytest.approx(3.6)
    assert answer["usd_per_day"] == pytest.approx(
        0.19 * HASHPRICE * 0.98 * 0.99 - 3.6 * 24 * PRICE * 1.05, rel=1e-4
    )


@given(st.floats(1, 500), st.floats(100, 9000), st.floats(0, 90), st.floats(0.8, 1.3), st.floats(-0.05, 0.4))
def test_curtailing_and_restoring_move_the_same_load(hashrate_ths, power_w, sleep_power_w, overhead, price):
    terms = Terms(overhead=overhead, sleep_power_w=sleep_power_w)
    awake = viewed(1, reading(hashrate_ths=hashrate_ths, power_w=power_w), terms=terms, price=price)
    sleeping = slept(1, hashrate_ths, power_w, terms=terms, price=price)
    assert moved_kw(awake, terms, waking=False) == pytest.approx(moved_kw(sleeping, terms, waking=True))
    assert moved_kw(awake, terms, waking=True) is None
    assert moved_kw(sleeping, terms, waking=False) is None


@pytest.mark.parametrize("command", ["curtail", "restore"])
@pytest.mark.parametrize(
    "view",
    [
        viewed(1, failure()),
        viewed(1, reading(run_state=RunState.RAMPING)),
        viewed(1, reading(implausible="no")),
        viewed(1, asleep(implausible="no")),
        viewed(1, asleep(), identity=identity(1, model="Shed Miner 3000")),
    ],
    ids=["unreachable", "ramping", "implausible", "implausible asleep", "unknown model"],
)
async def test_what_is_unknown_is_counted_and_in_no_sum(command, view):
    answer = await give(Agent(view, viewed(2, reading()), slept(3)), command, selector="10.0.0.1")
    assert (answer["accepted"], answer["kw"], answer["kw_unknown"]) == (1, 0.0, 1)
    assert answer["machines"][0]["kw"] is None


async def test_the_load_to_shed_counts_what_sleep_still_draws():
    agent = Agent(*[viewed(number, reading()) for number in range(1, 6)])
    answer = await give(agent, "curtail", selector="kw:7", dry_run=True)
    assert answer["accepted"] == 3  # two would shed 6.9 kW
    assert answer["kw"] >= 7


async def test_the_load_to_restore_is_picked_from_sleeping_machines_the_most_efficient_first():
    agent = Agent(slept(1, 100.0, 3500.0), slept(2), slept(3, 300.0, 3500.0), viewed(4, reading()))
    answer = await give(agent, "restore", selector="kw:5", dry_run=True)
    assert [each["machine_id"] for each in answer["machines"]] == [mac(2), mac(3)]


@pytest.mark.parametrize("command", ["curtail", "restore"])
async def test_a_dry_run_answers_the_same_and_does_and_records_nothing(command):
    def agent():
        return Agent(viewed(1, reading()), slept(2), viewed(3, failure()), protected=[mac(3)])

    dry, wet = agent(), agent()
    would = await give(dry, command, selector="all", dry_run=True)
    did = await give(wet, command, selector="all")
    assert {**would, "dry_run": False} == did
    assert [each[3] for each in dry.done] == [True]
    assert dry.recorded == []
    assert len(wet.recorded) == 1


async def test_a_selector_that_fits_nothing_now_tells_the_agent_nothing():
    agent = Agent(viewed(1, reading()))
    answer = await give(agent, "curtail", selector="margin<-100")
    assert (answer["machines"], answer["kw"], agent.done) == ([], 0, [])


@pytest.mark.parametrize(
    ("command", "arguments", "detail"),
    [
        ("hold", {}, "alice (uid 1000): hold the whole site"),
        ("resume", {}, "alice (uid 1000): resume the whole site"),
        ("approve", {"orders": [1, 2]}, "alice (uid 1000): approve orders 1, 2"),
        ("reject", {"all": True}, "alice (uid 1000): reject orders 1, 3"),
        ("curtail", {"selector": "all"}, "alice (uid 1000): curtail 'all', 2 machines"),
        ("restore", {"selector": "10.0.0.1\t"}, "alice (uid 1000): restore '10.0.0.1\\t', 1 machines"),
    ],
)
async def test_a_command_is_recorded_with_its_user_before_it_is_done(command, arguments, detail):
    agent = Agent(viewed(1, reading()), viewed(2, reading()), orders=PROPOSALS)
    await give(agent, command, **arguments)
    assert [each[0] for each in agent.told] == ["record", command]
    (event,) = agent.recorded
    assert (event.at, event.kind, event.detail) == (NOW, f"command_{command}", detail)


async def test_a_record_of_many_orders_stays_short():
    agent = Agent()
    await give(agent, "approve", orders=list(range(5000)))
    assert len(agent.recorded[0].detail) < 200
    assert "5000 in all" in agent.recorded[0].detail


async def test_questions_are_not_recorded():
    agent = Agent()
    await give(agent, "status")
    await give(agent, "orders")
    assert agent.recorded == []


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("status", {"verbose": True}, "status: verbose: Extra inputs"),
        ("hold", {"machine": mac(1)}, "hold: machine: Extra inputs"),
        ("orders", {"limit": 1}, "Extra inputs"),
        ("approve", {}, "approve: give either the numbers of orders or all"),
        ("approve", {"orders": []}, "give either"),
        ("approve", {"orders": [1], "all": True}, "give either"),
        ("approve", {"orders": ["1"]}, "orders.0: Input should be a valid integer"),
        ("reject", {"orders": [1.5]}, "orders.0: Input should be a valid integer"),
        ("reject", {"orders": "1"}, "orders: Input should be a valid tuple"),
        ("reject", {"all": 1}, "all: Input should be a valid boolean"),
        ("curtail", {}, "curtail: give either a selector or machines"),
        ("curtail", {"selector": 5}, "selector: Input should be a valid string"),
        ("curtail", {"selector": "all", "machines": ["x"]}, "give either a selector or machines"),
        ("curtail", {"machines": "x"}, "machines: Input should be a valid tuple"),
        ("curtail", {"selector": "all", "dry_run": "no"}, "dry_run: Input should be a valid boolean"),
        ("restore", {"selector": "all", "dryrun": True}, "dryrun: Extra inputs"),
        ("explode", {}, "explode: no such command"),
        ("__class__", {}, "no such command"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_done(command, arguments, words):
    agent = Agent(viewed(1, reading()))
    with pytest.raises(CommandError, match=words):
        await give(agent, command, **arguments)
    assert agent.told == []


@pytest.mark.parametrize("selector", ["", "group:nowhere", "margin<", "@/etc/passwd"])
async def test_a_wrong_selector_is_told_and_nothing_is_done(selector):
    agent = Agent(viewed(1, reading()))
    with pytest.raises(SelectorError):
        await give(agent, "curtail", selector=selector)
    assert agent.told == []


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_viewer_may_only_ask(command):
    agent = Agent(viewed(1, reading()), orders=PROPOSALS)
    arguments = {"approve": {"all": True}, "reject": {"all": True}}.get(command, {})
    arguments = {"selector": "all"} if command in {"curtail", "restore"} else arguments
    commands = Commands(agent, clock=lambda: NOW)
    if command in VIEWER_COMMANDS:
        assert await commands(asked(command, Role.VIEWER, **arguments))
    else:
        with pytest.raises(CommandError, match=f"{command} is for operators"):
            await commands(asked(command, Role.VIEWER, **arguments))
    assert agent.told == []


async def test_a_whole_site_goes_over_the_socket():
    views = [viewed(number, reading()) for number in range(1, 255)] * 8
    views = [view_of_number(view, number) for number, view in enumerate(views)]
    with open_directory() as directory:
        server = ControlServer(directory / "agent.sock", Commands(Agent(*views)))
        task = asyncio.ensure_future(server.run())
        await eventually(server.ready.is_set)
        answer = await call(directory / "agent.sock", "curtail", selector="all", dry_run=True)
        task.cancel()
        await asyncio.wait([task])
    assert answer["accepted"] == len(views)
    assert answer["kw"] == pytest.approx(len(views) * 3.45)


def view_of_number(view, number):
    return replace(view, machine_id=mac(number))


# -- for people --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "refused", "status"),
    [(2, 0, 0), (0, 0, 0), (0, 2, 1), (1, 1, 3)],
    ids=["all", "none", "no", "part"],
)
def test_the_exit_status_says_how_much_was_done(accepted, refused, status):
    assert exit_status({"accepted": accepted, "refused": refused}) == status


def test_a_command_without_outcomes_is_done():
    assert exit_status({"held": True}) == 0


async def test_what_would_happen_is_told_machine_by_machine_and_how_to_do_it():
    agent = Agent(
        viewed(1, reading()),
        viewed(2, reading(power_w=None)),
        viewed(3, reading(), identity=identity(3, model="S21\x1b[2J")),
        protected=[mac(3)],
    )
    text = in_words("curtail", await give(agent, "curtail", selector="all", dry_run=True))
    assert text.splitlines() == [
        "would curtail 2 machines, 3.5 kW less and 1 machines unknown, -2.44 USD/day and 1 machines unknown",
        "  02:13:00:00:00:01  10.0.0.1         Antminer S21  site  3.45 kW  -2.44 USD/day",
        "  02:13:00:00:00:02  10.0.0.2         Antminer S21  site  - kW  - USD/day",
        "  02:13:00:00:00:03  10.0.0.3         S21?[2J  site  not curtailed: protected",
        "nothing was done; to do it, add --yes",
    ]


async def test_what_was_done_is_told_without_how_to_do_it():
    text = in_words("restore", await give(Agent(slept(1)), "restore", selector="all"))
    assert text.splitlines()[0] == "ordered to wake: 1 machines, 3.5 kW more, +2.44 USD/day"
    assert "--yes" not in text


async def test_orders_that_were_not_settled_are_named():
    text = in_words("approve", await give(Agent(orders=PROPOSALS), "approve", orders=[1, 2]))
    assert text.splitlines() == ["approved 1 orders", "  order 2 not approved: not_proposed"]
    none = in_words("reject", await give(Agent(), "reject", all=True))
    assert none == "no order waits for approval"


async def test_every_answer_is_json_and_has_words():
    agent = Agent(viewed(1, reading()), slept(2), viewed(3, failure()), orders=PROPOSALS)
    for command in ("hold", "resume", "approve", "reject", "curtail", "restore"):
        arguments = {"approve": {"all": True}, "reject": {"all": True}}.get(command, {})
        arguments = {"selector": "all"} if command in {"curtail", "restore"} else arguments
        answer = await give(agent, command, **arguments)
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        assert in_words(command, answer)


async def test_a_selector_that_fits_nothing_now_is_told():
    answer = await give(Agent(viewed(1, reading())), "curtail", selector="margin<-100", dry_run=True)
    assert in_words("curtail", answer) == "the selector fits no machine now"


@pytest.mark.parametrize(
    "command", ["hold", "resume", "curtail", "restore", "approve", "reject", "shed", "release"]
)
async def test_one_that_stands_by_is_told_nothing_and_says_who_is(command):
    commands = Commands(Agent(viewed(1, reading())), clock=lambda: NOW, stands_by=True)
    with pytest.raises(CommandError, match="stands by"):
        await commands(asked(command))
    for harmless in ("status", "orders"):
        assert await commands(asked(harmless)) is not None
