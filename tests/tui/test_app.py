"""The terminal as an operator sees it: driven with keys, looked at on its screen, fed by a real store."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from agent.rows import Event
from agent.store import Store, StoreError
from tests.agent.builders import (
    asleep,
    eventually,
    failure,
    identity,
    machine,
    reading,
)
from tests.agent.processes import child_environment
from tests.tui.screens import opened, poll, shows, text, until
from tui import app as tui_app
from tui.app import run
from tui.widgets.line_table import LineTable

WIDE, NARROW, TINY = (180, 40), (80, 24), (20, 6)
LOSING = 9000.0


@pytest.fixture
def database(tmp_path) -> Path:
    return tmp_path / "hashcost.db"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Refresh so often that a test need not wait for two seconds."""
    monkeypatch.setattr(tui_app, "REFRESH_S", 0.2)


def three(database, *, losing=2):
    """Three machines of which number `losing` has the worst margin."""
    return poll(
        database,
        *[
            machine(number, reading(power_w=LOSING if number == losing else 3000.0 + number))
            for number in (1, 2, 3)
        ],
    )


def fleet(pilot) -> LineTable:
    return pilot.app.screen.query_one("#fleet", LineTable)


def addresses(pilot) -> list[str]:
    return [view.address for view in fleet(pilot).rows]


def chosen(pilot) -> str:
    return addresses(pilot)[fleet(pilot).cursor_row]


async def test_prices_are_shown_with_where_they_come_from(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "hashprice 39.44 USD/PH/day", "power 0.0600 USD/kWh", "(test, ", " s ago)")


async def test_prices_that_are_not_known_are_shown_as_such(database):
    poll(database, machine(1, reading()), hashprice=None)
    async with opened(database) as pilot:
        await shows(pilot, "hashprice - USD/PH/day", "(unknown)", "stale_market")


async def test_machines_are_shown_worst_margin_first_and_unknown_last(database):
    poll(
        database,
        machine(1, reading(power_w=3000.0)),
        machine(2, failure("refused")),
        machine(3, reading(power_w=LOSING)),
        machine(4, asleep()),
    )
    async with opened(database) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 4)
        assert addresses(pilot) == ["10.0.0.3", "10.0.0.4", "10.0.0.1", "10.0.0.2"]
        await shows(pilot, "curtail below_breakeven", "hold unreachable:refused", "asleep")


async def test_totals_are_shown(database):
    three(database)
    async with opened(database) as pilot:
        await shows(
            pilot, "3 machines", "3 mining", "15.0 kW", "0.600 PH/s", "1 under break-even lose 0.21 USD/h"
        )


async def test_a_fresh_picture_is_not_marked_stale(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "3 machines", "polled ")
        assert "STALE" not in text(pilot)


async def test_an_old_picture_is_marked_stale_and_still_shown(database):
    poll(database, machine(1, reading()), ago=timedelta(minutes=10))
    async with opened(database) as pilot:
        await shows(pilot, "STALE: last poll 10 min ago", "AGENT DOWN", "10.0.0.1", "39.44")
        await shows(pilot, "hold stale_reading")
        assert "breakeven" not in text(pilot).replace("break-even", "")


async def test_a_new_round_appears_by_itself(database):
    three(database)
    async with opened(database) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 3)
        three(database, losing=1)
        await until(pilot, lambda: addresses(pilot)[0] == "10.0.0.1")


async def test_the_cursor_stays_on_its_machine_when_the_rows_change_places(database):
    three(database, losing=2)
    async with opened(database) as pilot:
        await until(pilot, lambda: addresses(pilot) == ["10.0.0.2", "10.0.0.3", "10.0.0.1"])
        await pilot.press("down")
        assert chosen(pilot) == "10.0.0.3"
        three(database, losing=3)
        await until(pilot, lambda: addresses(pilot)[0] == "10.0.0.3")
        assert chosen(pilot) == "10.0.0.3"
        assert fleet(pilot).cursor_row == 0


async def test_home_and_end_go_to_the_worst_and_the_best_margin(database):
    three(database)
    async with opened(database) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 3)
        await pilot.press("end")
        assert chosen(pilot) == "10.0.0.1"
        await pilot.press("home")
        assert chosen(pilot) == "10.0.0.2"


async def test_a_refresh_does_not_scroll_away_from_what_is_being_looked_at(database):
    poll(database, *[machine(number, reading(power_w=3000.0 + number)) for number in range(1, 200)])
    async with opened(database, NARROW) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 199)
        fleet(pilot).scroll_to(y=50, animate=False)
        await until(pilot, lambda: fleet(pilot).scroll_y == 50)
        await asyncio.sleep(0.5)
        await pilot.pause()
        assert fleet(pilot).scroll_y == 50


async def test_the_view_follows_the_cursor_when_its_machine_goes_elsewhere(database):
    machines = [machine(number, reading(power_w=3000.0 + number)) for number in range(1, 200)]
    poll(database, *machines)
    async with opened(database, NARROW) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 199)
        assert chosen(pilot) == "10.0.0.199"
        poll(database, *machines[:-1], machine(199, reading(power_w=2000.0)))
        await until(pilot, lambda: addresses(pilot)[-1] == "10.0.0.199")
        await until(pilot, lambda: "10.0.0.199" in text(pilot))
        assert chosen(pilot) == "10.0.0.199"


async def test_quitting_while_a_picture_is_loaded_is_no_error(database):
    three(database)
    for _ in range(10):
        async with opened(database) as pilot:
            pilot.app.exit()
        assert pilot.app.return_code == 0


async def test_it_works_while_the_agent_is_down(database):
    three(database)
    assert not {"hashcost.db-wal", "hashcost.db-shm"} & {each.name for each in database.parent.iterdir()}
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.1", "39.44")


async def test_a_database_that_disappears_is_told_and_one_that_comes_back_is_shown(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "3 machines")
        database.rename(database.with_name("away"))
        await shows(pilot, "no such database")
        database.with_name("away").rename(database)
        await shows(pilot, "3 machines")


async def test_a_database_that_is_damaged_is_told(database):
    three(database)
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    async with opened(database) as pilot:
        await shows(pilot, "hashcost.db: ")


async def test_names_of_machines_are_shown_as_they_are(database):
    poll(database, machine(1, reading(), identity=identity(1, model="[red]S21[/] [/x]")))
    async with opened(database) as pilot:
        await shows(pilot, "[red]S21[/] [/x]")


async def test_names_that_would_steer_the_terminal_are_made_harmless(database):
    poll(database, machine(1, reading(), identity=identity(1, model="S21\x1b[2J\n")))
    async with opened(database) as pilot:
        await shows(pilot, "S21?[2J?")
        assert "\x1b" not in text(pilot)


async def test_names_of_wide_characters_leave_the_columns_aligned(database):
    poll(database, machine(1, reading(), identity=identity(1, model="螞蟻礦機")), machine(2, reading()))
    async with opened(database) as pilot:
        await shows(pilot, "螞蟻礦機")
        rows = [line for line in text(pilot).splitlines() if "10.0.0." in line]
        assert len({cell_len(row[: row.index("mining")]) for row in rows}) == 1
        assert len({cell_len(row.rstrip()) for row in rows}) == 1


async def test_the_cursor_moves_by_page_and_click_and_stays_in_sight(database):
    poll(database, *[machine(number, reading(power_w=3000.0 + number)) for number in range(1, 200)])
    async with opened(database, NARROW) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 199)
        for key in ("pagedown", "pagedown", "down", "pageup", "end", "up", "home"):
            await pilot.press(key)
            await pilot.pause()
            assert fleet(pilot).cursor_row in fleet(pilot).rows_in_sight(), key
            assert chosen(pilot) in text(pilot), key
        await pilot.click("#fleet", offset=(2, 4))
        assert fleet(pilot).cursor_row == 3


async def test_the_name_of_the_machine_stays_when_the_rest_is_scrolled_to_the_side(database):
    three(database)
    async with opened(database, NARROW) as pilot:
        await shows(pilot, "10.0.0.2", "recommendation")
        for _ in range(60):
            await pilot.press("right")
        await shows(pilot, "10.0.0.2", "strike")
        assert "recommendation" not in text(pilot)


async def test_only_the_rows_in_sight_are_drawn(database):
    poll(database, *[machine(number, reading()) for number in range(1, 501)])
    async with opened(database, NARROW) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 500)
        await pilot.press("down", "down")
        assert 0 < len(fleet(pilot)._strips) <= 24


async def test_a_filter_shows_the_machines_that_it_names_and_escape_shows_all(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.1")
        await pilot.press("slash", *"margin<0", "enter")
        await shows(pilot, "filter margin<0: 1 of 3 machines", "3 machines")
        assert addresses(pilot) == ["10.0.0.2"]
        three(database, losing=3)
        await until(pilot, lambda: addresses(pilot) == ["10.0.0.3"])
        await pilot.press("escape")
        await until(pilot, lambda: len(addresses(pilot)) == 3 and "filter margin" not in text(pilot))


async def test_a_filter_that_is_wrong_changes_nothing_and_says_why(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.1")
        await pilot.press("slash", *"gruop:[x]", "enter")
        await shows(pilot, "there is no field gruop")
        assert len(addresses(pilot)) == 3
        await pilot.press("escape", "q")
        await eventually(lambda: not pilot.app.is_running)


@pytest.mark.parametrize("size", [NARROW, TINY, (300, 100)], ids=str)
async def test_any_size_of_terminal_will_do(database, size):
    poll(database, *[machine(number, reading()) for number in range(1, 120)])
    async with opened(database, size) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 119)
        for key in ("end", "home", "pagedown", "right", "left", "up"):
            await pilot.press(key)
        await pilot.resize_terminal(*NARROW)
        await pilot.pause()
        assert text(pilot).strip()


async def test_at_80_by_24_what_decides_needs_no_scrolling(database):
    three(database)
    async with opened(database, NARROW) as pilot:
        await shows(pilot, "10.0.0.2", "machine", "margin", "recommendation", "state", "W", "TH/s")
        await shows(pilot, "-5.07", "curtail below_breakeven", "mining")


async def test_headings_of_numbers_are_over_their_numbers(database):
    three(database)
    async with opened(database) as pilot:
        await shows(pilot, "10.0.0.2")
        lines = text(pilot).splitlines()
        heading = next(line for line in lines if "margin" in line)
        row = next(line for line in lines if "10.0.0.2" in line)
        assert heading.index(" W ") + 1 == row.index("9000") + 3
        assert heading.index("margin") + len("margin") == row.index("-5.07") + len("-5.07")


async def test_the_doubts_of_the_last_scan_are_told_in_a_line(database):
    three(database)
    now = datetime.now(UTC)
    with Store(database) as store:
        doubts = [Event(at=now, kind="machine_stranger", detail=f"who is {n}?") for n in range(3)]
        store.save_events([*doubts, Event(at=now, kind="scanned", detail="")])
    async with opened(database) as pilot:
        await shows(pilot, "(2 more in `hashcost status`)", "machine_stranger: who is 0?")
        assert "who is 1?" not in text(pilot)


async def test_at_80_by_24_prices_machines_and_totals_are_all_there(database):
    three(database)
    async with opened(database, NARROW) as pilot:
        await shows(pilot, "39.44 USD/PH/day", "10.0.0.2", "3 machines", "polled")


async def test_a_big_site_is_shown(database):
    poll(database, *[machine(number, reading()) for number in range(1, 2001)])
    async with opened(database) as pilot:
        await until(pilot, lambda: fleet(pilot).row_count == 2000)
        await shows(pilot, "2000 machines")


async def test_q_quits(database):
    three(database)
    async with opened(database) as pilot:
        await pilot.press("q")
        await eventually(lambda: not pilot.app.is_running)
    assert pilot.app.return_code == 0


async def test_it_changes_nothing_in_the_store(database):
    three(database)
    before = database.read_bytes()
    async with opened(database) as pilot:
        await shows(pilot, "3 machines")
        await pilot.press("down", "enter", "space", "delete", "end")
    assert database.read_bytes() == before


def test_without_a_database_it_does_not_even_open(database):
    with pytest.raises(StoreError, match="no such database"):
        run(database, database.with_name("agent.sock"), operate=False)


def test_as_a_process_it_tells_a_missing_database_in_a_line(database):
    ran = subprocess.run(
        [sys.executable, "-m", "tui", str(database), "agent.sock"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"hashcost: {database}: no such database")
    assert len(ran.stderr.splitlines()) == 1
