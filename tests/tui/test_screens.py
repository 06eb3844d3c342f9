"""Every screen and key on a stored site: what they show, and that what changes the site is not there unasked."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from textual.widgets import Static

from agent.database import PRICES
from agent.ledger import Sums
from agent.orders import Order, OrderAction, OrderState
from agent.rows import Event, to_ms
from agent.store import Store
from drivers.reading import Board, MachineId, Pool
from tests.agent.builders import asleep, failure, identity, mac, machine, reading
from tests.tui.screens import MEDIUM, NARROW, WIDE, opened, poll, shows, text, until
from tui.bindings import KEYS, SCREENS, keys_of
from tui.widgets.line_table import LineTable
from tui.widgets.slider import Slider

LOSING = 9000.0


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "hashcost.db"
    insides = {
        "boards": (
            Board(slot=0, alive=True, hashrate_ths=66.0, chip_temp_c=71.0),
            Board(slot=1, alive=False),
        ),
        "fans_rpm": (4200, 0),
        "pools": (Pool(url="stratum+tcp://pool.example:3333", user="site.1", alive=True, active=True),),
        "errors": ("P:1 power",),
    }
    poll(
        path,
        machine(1, reading(power_w=3001.0, **insides)),
        machine(2, reading(power_w=LOSING), group="hydro"),
        machine(3, asleep()),
        machine(4, failure("refused"), identity=identity(4, model="M50")),
    )
    return path


def table(pilot) -> LineTable:
    return pilot.app.screen.query_one(LineTable)


def rows(pilot) -> list[str]:
    return [view.address for view in table(pilot).rows]


# -- everywhere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name"), [(str(n), name) for n, name in enumerate(SCREENS, start=1)])
@pytest.mark.parametrize("size", [WIDE, MEDIUM, NARROW], ids=str)
async def test_every_screen_is_a_key_away_and_begins_with_what_the_site_earns(database, key, name, size):
    async with opened(database, size) as pilot:
        await shows(pilot, "10.0.0.2")
        await pilot.press(key)
        await shows(pilot, "AGENT DOWN", "hashprice 39.44 USD/PH/day", "power 0.0600 USD/kWh", "USD/h")
        assert name == pilot.app.screen.WHERE
        assert all(len(line) <= size[0] for line in text(pilot).splitlines())


@pytest.mark.parametrize("name", SCREENS)
async def test_help_lists_the_keys_of_the_screen_and_goes_away(database, name):
    async with opened(database, MEDIUM) as pilot:
        await shows(pilot, "10.0.0.2")
        await pilot.press(str(SCREENS.index(name) + 1), "question_mark")
        await shows(pilot, f"Keys on {name}", "read-only")
        helped = text(pilot)
        assert all(key.text in helped for key in keys_of(name, operate=False))
        await pilot.press("escape")
        await until(pilot, lambda: "Keys on" not in text(pilot))


async def test_the_palette_does_what_keys_do(database):
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2")
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"Market (4)")
        await shows(pilot, "everywhere: Market")
        await pilot.press("enter")
        await shows(pilot, "merit order")


@pytest.mark.parametrize("name", SCREENS)
async def test_without_operate_no_key_that_changes_the_site_does_anything(database, name):
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2")
        await pilot.press(str(SCREENS.index(name) + 1))
        for key in ("C", "R", "A", "X", "H", "U"):
            await pilot.press(key)
            await pilot.pause()
            assert name == pilot.app.screen.WHERE
        assert not any(word in text(pilot) for word in ("Curtail C", "Approve", "Hold"))


def test_no_key_that_changes_the_site_is_typed_by_accident():
    """They are capitals, far from arrows, Enter and the keys that move about."""
    for key in KEYS:
        assert not key.operates or (len(key.key) == 1 and key.key.isupper())


def test_no_key_means_two_things_on_a_screen():
    for name in SCREENS:
        keys = [key.key for key in keys_of(name, operate=True)]
        assert len(set(keys)) == len(keys), name


# -- fleet --------------------------------------------------------------------------------------------------------


async def test_a_table_is_sorted_by_each_column_either_way_and_unknown_comes_last(database):
    async with opened(database) as pilot:
        await until(pilot, lambda: rows(pilot) == ["10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"])
        await pilot.press("s")
        assert rows(pilot) == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        await pilot.press("d")
        assert rows(pilot)[0] == "10.0.0.4"
        await pilot.press(*"ssss")
        heading = text(pilot).splitlines()[3]
        assert "W▲" in heading or "W^" in heading
        assert rows(pilot)[-1] == "10.0.0.4"
        await pilot.press("d")
        assert rows(pilot)[0] == "10.0.0.2"
        assert rows(pilot)[-1] == "10.0.0.4"
        for _ in table(pilot).columns:
            await pilot.press("s")
        assert sorted(rows(pilot)) == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


async def test_marks_stay_with_their_machines_and_go_with_the_filter(database):
    async with opened(database) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("space", "space")
        assert [view.address for view in table(pilot).marked()] == ["10.0.0.2", "10.0.0.3"]
        await shows(pilot, "2 marked")
        await pilot.press("s", "d")
        assert {view.address for view in table(pilot).marked()} == {"10.0.0.2", "10.0.0.3"}
        await pilot.press("slash", *"hydro", "enter")
        await shows(pilot, "filter hydro: 1 of 4 machines", "1 marked")
        await pilot.press("escape", "a")
        await shows(pilot, "4 marked")
        await pilot.press("n")
        await until(pilot, lambda: "marked" not in text(pilot))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("asleep", {3}),
        ("M50", {4}),
        ("!M50", {1, 2, 3}),
        ("state:mining", {1, 2}),
        ("reason:unreachable", {4}),
        ("!group:hydro state:mining", {1}),
        ("power_w>3500", {2}),
        ("chip_temp_c>=50 margin<0", {2}),
        ("margin<0 | x", set()),
        ("10.0.0.1, 10.0.0.4", {1, 4}),
    ],
)
async def test_the_filter_takes_selectors_words_fields_and_numbers(database, typed, found):
    async with opened(database) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("slash")
        pilot.app.screen.query_one("#filter").value = typed
        await pilot.press("enter")
        await until(pilot, lambda: set(rows(pilot)) == {f"10.0.0.{n}" for n in found})


@pytest.mark.parametrize("typed", ["stat:mining", "power_x>5", "margin<1.2.3"])
async def test_a_filter_that_makes_no_sense_is_told(database, typed):
    async with opened(database) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("slash", *typed, "enter")
        await shows(pilot, "filter '")
        assert len(rows(pilot)) == 4


async def test_states_are_told_in_words_and_glyphs_and_in_ascii_where_there_is_nothing_else(
    database, monkeypatch
):
    async with opened(database) as pilot:
        await shows(pilot, "● 2 mining", "○ 1 asleep", "? 1 unknown")
    monkeypatch.setenv("HASHCOST_ASCII", "1")
    async with opened(database) as pilot:
        await shows(pilot, "* 2 mining", "o 1 asleep", "? 1 unknown")
        for key in "2345":
            await pilot.press(key)
            await pilot.pause()
            ours = [line for line in text(pilot).splitlines() if "▁" not in line and "▎" not in line]
            drawn = "".join(line[:-2] for line in ours)
            assert drawn.isascii() or not set(drawn) & set("●◐○✕█▲▼◆─▂▃▄▅▆▇"), drawn


async def test_no_colour_tells_the_same(database, monkeypatch):
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2", "curtail below_breakeven")
        coloured = text(pilot)
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2", "curtail below_breakeven")
        assert [line.split()[:4] for line in text(pilot).splitlines()[4:8]] == [
            line.split()[:4] for line in coloured.splitlines()[4:8]
        ]


# -- machine ------------------------------------------------------------------------------------------------------


async def test_a_machine_is_shown_with_all_that_is_known_of_it(database):
    with Store(database) as store:
        store.create_order(order(OrderState.FAILED, failure="did_not_obey", machine_id=mac(2)))
    async with opened(database, (200, 120)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("enter")
        await shows(
            pilot, "10.0.0.2", "curtail: below_breakeven", "strike price", "the last day", "hottest chip"
        )
        await shows(pilot, "failed: did_not_obey", "policy")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen.WHERE == "fleet")
        await pilot.press("down", "down", "enter")
        await shows(
            pilot, "10.0.0.1", "66.0", "alive", "dead", "fans 4200, 0 rpm", "pool.example:3333", "P:1 power"
        )


async def test_2_shows_the_machine_that_was_looked_at(database):
    async with opened(database) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("end", "2")
        await shows(pilot, "10.0.0.4", "hold: unreachable (refused)", "it has not told yet")


# -- curtailment --------------------------------------------------------------------------------------------------


def order(state, number=0, *, machine_id=None, **changes):
    now = datetime.now(UTC)
    usual = {
        "order_id": number, "machine_id": machine_id or mac(2), "action": OrderAction.SLEEP, "state": state,
        "reason": "below_breakeven", "ordered_by": "policy", "created_at": now - timedelta(minutes=5),
        "power_w": LOSING, "settled_at": now if state in {OrderState.FAILED, OrderState.EXPIRED} else None,
    }  # fmt: skip
    return Order(**{**usual, **changes})


async def test_orders_are_shown_with_what_waits_for_a_person_first(database):
    with Store(database) as store:
        store.create_order(order(OrderState.FAILED, failure="did_not_obey", machine_id=mac(1)))
        store.create_order(
            order(OrderState.DISPATCHED, machine_id=mac(3), dispatched_at=datetime.now(UTC), attempts=1)
        )
        store.create_order(order(OrderState.PROPOSED))
    async with opened(database) as pilot:
        await pilot.press("3")
        await shows(pilot, "1 proposal (9.0 kW)", "1 order under way", "1 failed within a day")
        await shows(pilot, "did_not_obey", "54 min left")
        assert [line.order.state for line in table(pilot).rows] == [
            OrderState.PROPOSED, OrderState.DISPATCHED, OrderState.FAILED,
        ]  # fmt: skip
        await pilot.press("a")
        assert [line.order.state for line in table(pilot).marked()] == [OrderState.PROPOSED]
        await pilot.press("n", "space")
        await shows(pilot, "1 marked")
        await pilot.press("home", "enter")
        await shows(pilot, "10.0.0.2", "the last day")


async def test_what_curtailment_was_worth_today_is_told_by_the_ledger(database):
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hour_ms = 3_600_000
    start_ms = to_ms(midnight)
    async with opened(database) as pilot:
        await pilot.press("3")
        await shows(pilot, "what curtailment is worth today is known when its first hour is booked")
    with Store(database) as store:
        for when, worth in ((-hour_ms, 9.0), (0, 1.25)):
            sums = Sums(start_ms=start_ms + when, end_ms=start_ms + when + hour_ms, avoided_loss_usd=worth,
                        forgone_profit_usd=worth / 5)  # fmt: skip
            store.book([(MachineId(mac(1)), sums)], start_ms + when + hour_ms)
    async with opened(database) as pilot:
        await pilot.press("3")
        await shows(pilot, "today until 01:00 UTC: 1.25 USD of losses avoided, 0.25 USD of profit forgone")


# -- market -------------------------------------------------------------------------------------------------------

TOLD = json.dumps(
    {
        "at": "2026-01-01T00:00:00+00:00",
        "doubts": ["btc_usd: too few sources say so"],
        "figures": [
            {
                "name": "btc_usd", "value": 92870.0, "source": "kraken", "age_s": 7.0, "state": "held",
                "automatic": False, "detail": "too few",
            },
        ],
        "power": None,
        "forecast": {
            "difficulty": 1.6e14, "hashprice_usd_per_ph_day": 36.8, "blocks": 400, "source": "mempool",
        },
        "sources": [
            {
                "name": "kraken", "url": "https://k", "answered_at": "2026-01-01T12:00:00+00:00",
                "failed_at": None, "failure": None, "values": "btc_usd 92870",
            },
            {
                "name": "gemini", "url": "https://g", "answered_at": None,
                "failed_at": "2026-01-01T12:00:00+00:00", "failure": "timeout: no whole answer", "values": "",
            },
            {
                "name": "luxor", "url": "https://l", "answered_at": None, "failed_at": None, "failure": None,
                "values": "",
            },
        ],
    }
)  # fmt: skip


async def test_prices_their_sources_and_the_merit_order_are_shown(database):
    with Store(database) as store:
        store.save_setting(PRICES, TOLD)
    async with opened(database) as pilot:
        await shows(pilot, "prices: btc_usd: too few sources say so; the agent only proposes")
        await pilot.press("4")
        await shows(
            pilot, "break-even efficiency 27.4 J/TH now", "after the next retarget, in 400 blocks: 36.80"
        )
        await shows(pilot, "92,870", "held", "failing", "timeout: no whole answer", "not asked yet")
        await shows(pilot, "9.0 of 15.5 kW (58%) under water", "hashprice 39.44 USD/PH/day", "loses", "earns")
        await shows(pilot, "answered, UTC", "hashcost USD/PH/day")
        page = text(pilot)
        assert page.index("earns") < page.index("── hashprice") < page.index("loses")


async def test_a_market_that_is_not_known_is_shown_as_such(tmp_path):
    path = tmp_path / "hashcost.db"
    poll(path, machine(1, reading()), hashprice=None)
    async with opened(path) as pilot:
        await pilot.press("4")
        await shows(pilot, "break-even efficiency - J/TH now", "not known well enough")
        await pilot.press("5")
        await shows(pilot, "a price is not known now")


# -- what-if -----------------------------------------------------------------------------------------------------------


async def test_sliders_move_a_scenario_beside_what_is_now(database):
    with Store(database) as store:
        store.save_setting(PRICES, TOLD)
    async with opened(database) as pilot:
        await pilot.press("5")
        await shows(pilot, "machines under break-even       1", "92,870 USD", "149.30 T")
        await pilot.press("pagedown", "pagedown", "pagedown", "right", "left")
        await shows(pilot, "65,009 USD (-30%)", "27.61")
        await pilot.press("tab", "tab", "tab", "pageup")
        await shows(pilot, "0.0660 USD/kWh (+10%)")
        await pilot.press("r")
        await until(pilot, lambda: all(each.value == each.began for each in pilot.app.screen.query(Slider)))
        await pilot.press("p")
        await shows(pilot, "BTC $83,000", "83,000 USD (-11%)")
        await pilot.press("p", "p", "p")
        await shows(pilot, "next retarget", "160.00 T (+7%)")
        await pilot.press("p")
        await shows(pilot, "next halving", "19.89")
        await pilot.press("p")
        await shows(pilot, "now   there")


async def test_a_scenario_is_back_when_its_price_is(tmp_path):
    database = tmp_path / "hashcost.db"
    poll(database, machine(1, reading()))
    async with opened(database) as pilot:
        await pilot.press("5", "p")
        await shows(pilot, "BTC $83,000", "83,000 USD (-11%)")
        poll(database, machine(1, reading()), hashprice=None)
        await shows(pilot, "a price is not known now")
        poll(database, machine(1, reading()))
        await shows(pilot, "BTC $83,000", "83,000 USD (-11%)", "machines under break-even")


# -- events -------------------------------------------------------------------------------------------------------


async def test_events_and_orders_are_shown_with_who_did_them_and_filtered(database):
    now = datetime.now(UTC)
    with Store(database) as store:
        store.save_events(
            [
                Event(at=now, kind="command_hold", detail="anna (uid 1000): hold the whole site"),
                Event(at=now - timedelta(hours=1), kind="scanned", detail="4 addresses"),
            ]
        )
        store.create_order(order(OrderState.FAILED, failure="did_not_obey"))
    async with opened(database) as pilot:
        await pilot.press("6")
        await shows(pilot, "command_hold", "anna", "sleep failed", "did_not_obey", "scanned")
        await pilot.press("slash", *"anna", "enter")
        await shows(pilot, "filter anna: 1 of 3 events")
        await pilot.press("slash", *["backspace"] * 4, *"!anna !scanned", "enter")
        await shows(pilot, "1 of 3 events", "sleep failed", "10.0.0.2")
        await pilot.press("slash", *["backspace"] * 14, *"10.0.0.2", "enter")
        await shows(pilot, "1 of 3 events", "sleep failed")
        await pilot.press("slash", *["backspace"] * 8, *mac(2).lower(), "enter")
        await shows(pilot, "1 of 3 events", "sleep failed")
        await pilot.press("escape")
        await until(pilot, lambda: table(pilot).row_count == 3)
        assert not str(pilot.app.screen.query_one("#notes", Static).content)


# -- found by somebody who did not believe it ------------------------------------------------------------------------


async def test_sliders_stop_before_nothing(database):
    async with opened(database) as pilot:
        await pilot.press("5")
        await shows(pilot, "92,870 USD")
        for _ in range(12):
            await pilot.press("pagedown")
        await shows(pilot, "929 USD (-99%)")
        await pilot.press("tab", *["pagedown"] * 12, "tab", *["pagedown"] * 12, "tab", *["pagedown"] * 20)
        await shows(pilot, "0.000 BTC/block", "-0.0600 USD/kWh")


async def test_what_would_be_woken_counts_as_followed(tmp_path):
    path = tmp_path / "hashcost.db"
    slept = machine(1, asleep())
    slept.ours = True
    for _ in range(40):
        slept.baselines.observe(reading())
    poll(path, slept, machine(2, reading(power_w=LOSING)))
    async with opened(path) as pilot:
        await shows(pilot, "restore above_breakeven", "-0.21 USD/h", "+0.12 if followed")


async def test_ages_of_prices_grow_while_nobody_writes_and_stale_ones_are_not_acted_on(database):
    told = json.loads(TOLD)
    told["at"] = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    told["figures"][0]["automatic"] = True
    with Store(database) as store:
        store.save_setting(PRICES, json.dumps(told))
    async with opened(database) as pilot:
        await pilot.press("4")
        await shows(pilot, "10 min")
        row = next(line for line in text(pilot).splitlines() if "btc_usd" in line and "held" in line)
        assert " no " in row


@pytest.mark.parametrize("typed", ["chip_temp_c > 60", "chip_temp_c >60", "chip_temp_c> 60"])
async def test_a_comparison_may_have_blanks(database, typed):
    async with opened(database) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("slash")
        pilot.app.screen.query_one("#filter").value = typed
        await pilot.press("enter")
        await until(pilot, lambda: set(rows(pilot)) == {"10.0.0.1", "10.0.0.2"})


async def test_every_failure_of_the_day_is_listed_however_much_came_after(database):
    with Store(database) as store:
        store.create_order(order(OrderState.FAILED, failure="did_not_obey", machine_id=mac(1)))
        for _ in range(600):
            store.create_order(order(OrderState.CONFIRMED, machine_id=mac(2)))
    async with opened(database) as pilot:
        await pilot.press("3")
        await shows(pilot, "1 failed within a day", "did_not_obey")


async def test_a_proposal_that_nobody_took_up_is_no_failure_and_one_that_a_person_wanted_is(database):
    with Store(database) as store:
        for _ in range(30):
            store.create_order(order(OrderState.EXPIRED))
        store.create_order(order(OrderState.EXPIRED, ordered_by="anna", machine_id=mac(3)))
        store.create_order(order(OrderState.PROPOSED))
    async with opened(database) as pilot:
        await pilot.press("3")
        await shows(pilot, "1 proposal", "anna")
        assert [(line.order.state, line.order.ordered_by) for line in table(pilot).rows] == [
            (OrderState.PROPOSED, "policy"), (OrderState.EXPIRED, "anna"),
        ]  # fmt: skip


async def test_an_error_that_is_over_goes(database):
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2")
        database.rename(database.with_name("away"))
        await pilot.press("4")
        await shows(pilot, "no such database")
        database.with_name("away").rename(database)
        await shows(pilot, "merit order")
        await until(pilot, lambda: "no such database" not in text(pilot))


async def test_details_are_cut_and_not_left_out_where_there_is_little_room(database):
    with Store(database) as store:
        store.save_events(
            [Event(at=datetime.now(UTC), kind="scan_failure", detail="10.0.0.9: refused " + "x" * 200)]
        )
    async with opened(database, NARROW) as pilot:
        await pilot.press("6")
        await shows(pilot, "10.0.0.9: refused")


async def test_an_agent_that_does_not_answer_is_told_with_the_reason(database, tmp_path):
    async with opened(database, socket=tmp_path / "nobody.sock") as pilot:
        await shows(pilot, "AGENT DOWN", "no agent listens there")


@pytest.mark.parametrize(
    "orders", [[{"due_by": None}], [{"order_id": 1, "due_by": "soon"}], None, [7]], ids=str
)
async def test_an_agent_of_another_version_is_told_and_ends_nothing(database, tmp_path, orders):
    async def answer(reader, writer):
        await reader.readline()
        writer.write(json.dumps({"result": {"orders": orders, "obligations": []}}).encode() + b"\n")
        await writer.drain()
        writer.close()

    socket = tmp_path / "agent.sock"
    async with (
        await asyncio.start_unix_server(answer, socket),
        opened(database, socket=socket) as pilot,
    ):
        await shows(pilot, "NO ANSWER", "its answer makes no sense here", "10.0.0.1")


@pytest.mark.parametrize(
    ("ago", "said"),
    [(timedelta(), ("answers", "live")), (timedelta(hours=2), ("answered then", "live then"))],
)
async def test_what_sources_said_to_an_agent_that_is_down_is_not_shown_as_what_they_say(database, ago, said):
    told = json.loads(TOLD)
    told["at"] = (datetime.now(UTC) - ago).isoformat()
    told["figures"][0]["state"] = "live"
    with Store(database) as store:
        store.save_setting(PRICES, json.dumps(told))
    async with opened(database) as pilot:
        await pilot.press("4")
        await shows(pilot, "92,870")
        page = text(pilot)
        for word, cells in zip(said, (("kraken", "btc_usd 92870"), ("btc_usd", "92,870")), strict=True):
            (line,) = [each for each in page.splitlines() if all(cell in each for cell in cells)]
            assert word in line
            assert (" then" in line) is bool(ago)
