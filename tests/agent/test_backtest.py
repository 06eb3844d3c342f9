"""Backtests: the optimum is one, nobody beats it, nobody sees the future, and the agent's own code decides."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from agent.appraisal import Terms
from agent.backtest.chart import HEIGHT, RIGHT, TERMINAL_HEIGHT, TERMINAL_WIDTH, TOP, WIDTH, _ticks, terminal
from agent.backtest.clairvoyant import best_states
from agent.backtest.comparison import classes, compare, overlap
from agent.backtest.policies import AgentPolicy, AlwaysOn, Naive, NeverOn
from agent.backtest.replay import News, Past, Switch, Valuation, replay, together
from agent.backtest.report import COLUMNS
from agent.backtest.series import History, HistoryError, recorded_hashprice, recorded_power
from agent.curtailment import CurtailmentPolicy, Rule
from agent.lots import Lot
from agent.store import Store
from tests.agent.builders import NOW, machine, market, reading, save, stored_site
from tests.agent.processes import CLI, hashcost, python

STEP, DAY = 900.0, 86_400.0
T0 = datetime(2025, 1, 2, tzinfo=UTC).timestamp()
LOT = Lot(model="S19", count=1, hashrate_ths=100.0, power_w=3000.0, terms=Terms())
POLICY = CurtailmentPolicy(switching_cost_usd=0.02)
CHEAP, DEAR = 0.02, 0.9
"""Hashprice is 50: running is worth 0.05 / 0.02 / 0.07 USD/kWh of 2.96 avoidable kWh in an hour."""


def history(values, step=STEP, start=T0):
    starts = [start + index * step for index in range(len(values))]
    return History(starts, [at_s + step for at_s in starts], list(values))


def past(*prices, hashprices=(50.0,) * 40):
    return Past(history(prices), history(hashprices, DAY, T0 - DAY))


def spiky(size):
    return st.lists(st.floats(-0.05, 0.3), min_size=size, max_size=size)


def switches_of(policy, of, delay_s=0.0):
    return replay(policy, of.news(delay_s), of.power.ends[-1])


def agent(of, lot=LOT, policy=POLICY, delay_s=0.0):
    return AgentPolicy(lot, policy, lambda at_s: of.ahead_s(at_s, delay_s), late_s=delay_s)


# -- the clairvoyant -----------------------------------------------------------------------------------


def worth(states, avoided, cost):
    usd, before = 0.0, False
    for asleep, here in zip(states, avoided, strict=True):
        usd += (here if asleep else 0.0) - (cost / 2 if asleep is not before else 0.0)
        before = asleep
    return usd


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_the_optimum_is_the_best_of_all_that_can_be_done(avoided, cost):
    best = max(worth(states, avoided, cost) for states in product([False, True], repeat=len(avoided)))
    assert worth(best_states(avoided, cost), avoided, cost) == pytest.approx(best, abs=1e-12)


def test_the_optimum_sleeps_through_what_is_not_worth_a_wake():
    assert best_states([-1.0, 1.0, -0.01, 1.0, -1.0], 0.1) == [False, True, True, True, False]
    assert best_states([-1.0, 0.04, -1.0], 0.1) == [False, False, False]
    assert best_states([], 0.1) == []


policies = st.sampled_from(["naive", "agent", "dead band", "never"])


def made(name, of, lot, delay_s=0.0):
    match name:
        case "naive":
            return Naive(lot)
        case "never":
            return NeverOn()
        case "dead band":
            return agent(of, lot, replace(POLICY, rule=Rule.DEAD_BAND), delay_s)
    return agent(of, lot, delay_s=delay_s)


@settings(max_examples=60)
@given(spiky(40), policies, st.sampled_from([0.0, 60.0, 300.0, 900.0, 2000.0]), st.floats(0, 0.2))
def test_no_policy_beats_the_clairvoyant(prices, name, delay_s, cost):
    of = past(*prices)
    value = Valuation(of, LOT, cost)
    best = value.worth(value.clairvoyant()).gain_usd
    assert value.worth(switches_of(made(name, of, LOT, delay_s), of, delay_s)).gain_usd <= best + 1e-9
    assert best >= 0.0


# -- nobody sees the future ----------------------------------------------------------------------------


@settings(max_examples=60)
@given(spiky(30), spiky(30), st.integers(1, 29), policies, st.sampled_from([0.0, 300.0, 900.0, 2000.0]))
def test_other_prices_in_the_future_change_nothing_that_was_done_before(prices, others, cut, name, delay_s):
    one, other = past(*prices), past(*prices[:cut], *others[cut:])
    known_until = one.power.starts[cut] + delay_s

    def before(of):
        done = switches_of(made(name, of, LOT, delay_s), of, delay_s)
        return [each for each in done if each.at_s < known_until]

    assert before(one) == before(other)


def recorded(prices, hashprices, step=420.0):
    """As an agent recorded them, in stretches that do not fall on full five minutes."""
    starts = [T0 + 17.0 + index * step for index in range(len(prices))]
    spans = [(at_s, at_s + step) for at_s in starts]
    return overlap(
        recorded_power((*span, usd) for span, usd in zip(spans, prices, strict=True)),
        recorded_hashprice((*span, usd) for span, usd in zip(spans, hashprices, strict=True)),
        None,
        None,
    )


def hashprices(size):
    return st.lists(st.floats(20.0, 90.0), min_size=size, max_size=size)


@settings(max_examples=60)
@given(
    spiky(30),
    spiky(30),
    hashprices(30),
    hashprices(30),
    st.integers(1, 29),
    policies,
    st.sampled_from([0.0, 300.0]),
)
def test_of_what_was_recorded_nobody_sees_the_future_either(
    prices, others, told, told_else, cut, name, delay_s
):
    one = recorded(prices, told)
    other = recorded([*prices[:cut], *others[cut:]], [*told[:cut], *told_else[cut:]])
    until = T0 + 17.0 + cut * 420.0

    def before(of):
        return [each for each in switches_of(made(name, of, LOT), of, delay_s) if each.at_s < until]

    assert before(one) == before(other)


def test_what_was_recorded_was_known_at_once_and_nobody_knew_how_long_it_would_stand():
    of = recorded([CHEAP, DEAR], [50.0, 60.0])
    assert of.news(0.0)[0] == News(T0 + 17.0, CHEAP, 50.0)
    assert {(each.at_s, each.price_usd_per_kwh) for each in of.news(0.0)} >= {(T0 + 437.0, DEAR)}
    assert of.news(0.0)[-1].hashprice_usd_per_ph_day == 60.0
    assert of.ahead_s(T0 + 20.0, 0.0) == 0.0


def test_a_price_stands_until_the_next_is_told():
    of = past(CHEAP, DEAR)
    assert of.ahead_s(T0 + 10.0, 0.0) == STEP - 10.0
    assert of.ahead_s(T0 + 310.0, 300.0) == STEP - 10.0
    assert of.ahead_s(T0 + STEP + 10.0, 300.0) == 290.0
    assert of.ahead_s(T0 + STEP + 10.0, STEP) == STEP - 10.0
    assert of.ahead_s(T0 + 10.0, 300.0) == 0.0


def test_a_price_is_known_after_its_delay_and_a_hashprice_when_its_day_is_over():
    of = past(CHEAP, DEAR, CHEAP, hashprices=(50.0, 60.0, 70.0))
    assert of.news(300.0) == [
        News(T0, None, 50.0),
        News(T0 + 300.0, CHEAP, 50.0),
        News(T0 + STEP + 300.0, DEAR, 50.0),
        News(T0 + 2 * STEP + 300.0, CHEAP, 50.0),
    ]


def test_at_midnight_the_hashprice_of_the_day_that_ended_is_known():
    of = past(*[CHEAP] * 97, hashprices=(50.0, 60.0, 70.0))
    told = {each.at_s: each.hashprice_usd_per_ph_day for each in of.news(300.0)}
    assert told[T0 + DAY - STEP + 300.0] == 50.0
    assert told[T0 + DAY] == told[T0 + DAY + 300.0] == 60.0


def test_in_a_gap_prices_grow_stale_and_nobody_switches():
    starts = [T0, T0 + STEP, T0 + 10 * STEP]
    gap = Past(
        History(starts, [at_s + STEP for at_s in starts], [CHEAP, CHEAP, DEAR]),
        history((50.0,) * 3, DAY, T0 - DAY),
    )
    assert [each.price_usd_per_kwh for each in gap.news(0.0)] == [CHEAP, CHEAP, None, DEAR]
    assert gap.news(0.0)[2].at_s == T0 + 3 * STEP
    assert (gap.hours, gap.gap_hours) == (0.75, 2.0)
    assert switches_of(Naive(LOT), gap) == [Switch(T0 + 10 * STEP, True)]


# -- what it was worth ---------------------------------------------------------------------------------


def test_always_on_is_worth_what_the_prices_say_and_never_on_nothing_but_sleep():
    of = past(CHEAP, DEAR)
    value = Valuation(of, LOT, 0.02)
    always = value.worth(switches_of(AlwaysOn(), of))
    assert (always.gain_usd, always.hours_off, always.cycles) == (0.0, 0.0, 0)
    quarter = STEP / DAY
    assert value.always_on_usd() == pytest.approx(quarter * (2 * 5.0 - 72 * (CHEAP + DEAR)))
    never = value.worth(switches_of(NeverOn(), of))
    asleep_usd = -quarter * 0.04 * 24 * (CHEAP + DEAR)
    assert value.always_on_usd() + never.gain_usd == pytest.approx(asleep_usd - 0.01)
    assert (never.hours_off, never.cycles) == (0.5, 1)


def test_days_add_up_to_the_whole_and_the_worst_is_named():
    of = past(*([CHEAP] * 90 + [DEAR] * 20 + [CHEAP] * 90))
    value = Valuation(of, LOT, 0.02)
    found = value.worth([Switch(T0 + 90 * STEP, True), Switch(T0 + 199.5 * STEP, False)])
    assert sum(found.daily_usd.values()) == pytest.approx(found.gain_usd)
    assert sorted(found.daily_usd) == ["2025-01-02", "2025-01-03", "2025-01-04"]
    day, usd = found.worst_day
    assert usd == min(found.daily_usd.values())
    assert day == "2025-01-04"
    assert found.hours_off == pytest.approx(109.5 / 4)


def test_hashprice_moves_what_running_is_worth_but_not_what_was_known():
    of = past(*[0.06] * 200, hashprices=(50.0, 50.0, 20.0, 20.0))
    switches = switches_of(Naive(LOT), of)
    assert switches == [Switch(T0 + 2 * DAY, True)]  # the day after the first cheap one
    assert Valuation(of, LOT, 0.0).avoided_usd[96] > 0  # on which sleep was worth it already


def test_a_fleet_is_the_sum_of_its_lots():
    of = past(CHEAP, DEAR, CHEAP)
    one, ten = Valuation(of, LOT, 0.02), Valuation(of, replace(LOT, count=10), 0.02)
    single, many = one.worth(one.clairvoyant()), ten.worth(ten.clairvoyant())
    assert many.gain_usd == pytest.approx(10 * single.gain_usd)
    assert (many.cycles, many.cycles_per_machine) == (10, 1.0)
    both = together([single, many])
    assert (both.gain_usd, both.cycles, both.machines) == (pytest.approx(11 * single.gain_usd), 11, 11)


# -- the agent's own code ------------------------------------------------------------------------------


def test_a_dear_interval_is_slept_through_and_a_slightly_dear_one_is_not():
    of = past(CHEAP, DEAR, CHEAP, 0.07, CHEAP)
    assert switches_of(agent(of), of) == [Switch(T0 + STEP, True), Switch(T0 + 2 * STEP, False)]


def test_a_slow_leak_is_noticed():
    of = past(*[0.072] * 60)
    (only,) = switches_of(agent(of), of)
    assert only.sleeps
    assert only.at_s > T0 + 2 * STEP


def test_minimum_times_and_the_cap_of_the_policy_count():
    of = past(*[CHEAP, 0.2] * 30)
    capped = agent(of, policy=replace(POLICY, cycles_per_day=2))
    assert sum(each.sleeps for each in switches_of(capped, of)) == 2
    patient = agent(of, policy=replace(POLICY, min_off_s=1800.0, override_cycles=1e9))
    found = switches_of(patient, of)
    assert all(b.at_s - a.at_s >= 1800.0 for a, b in pairwise(found) if a.sleeps)


@settings(max_examples=40)
@given(spiky(20), st.sampled_from([0.0, 420.0]))
def test_that_quiet_machines_are_only_decided_on_at_news_changes_nothing(prices, delay_s):
    of = past(*prices)
    sparse = of.news(delay_s)
    end_s = of.power.ends[-1]
    dense = []
    for here, after in zip(sparse, [*sparse[1:], None], strict=True):
        until = end_s if after is None else after.at_s
        at_s = here.at_s
        while at_s < until:
            dense.append(replace(here, at_s=at_s))
            at_s += 60.0
    assert replay(agent(of, delay_s=delay_s), sparse, end_s) == replay(
        agent(of, delay_s=delay_s), dense, end_s
    )


def test_machines_with_a_price_of_their_own_do_not_see_the_market():
    own = replace(LOT, terms=Terms(price_usd_per_kwh=0.05))
    of = past(CHEAP, DEAR, CHEAP)
    assert switches_of(agent(of, own), of) == switches_of(Naive(own), of) == []


def test_policies_are_compared_by_class_and_by_delay():
    of = past(*([CHEAP, DEAR, DEAR, CHEAP] * 12))
    lots = [LOT, replace(LOT, model="S21", hashrate_ths=200.0, count=3)]
    found = compare(of, lots, {"agent": POLICY}, delay_min=0.0, delays_min=[0.0, 5.0, 15.0])
    by_name = {line.policy: line for line in found.lines}
    assert list(by_name) == ["always-on", "never-on", "naive", "agent", "clairvoyant"]
    assert by_name["clairvoyant"].share == 1.0
    assert by_name["always-on"].share == 0.0
    for each in found.classes:
        assert {line.policy for line in each.lines} == set(by_name)
    total = sum(
        line.result.gain_usd for each in found.classes for line in each.lines if line.policy == "agent"
    )
    assert by_name["agent"].result.gain_usd == pytest.approx(total)
    gains = [
        next(line for line in each.lines if line.policy == "agent").result.gain_usd for each in found.delays
    ]
    assert gains == sorted(gains, reverse=True)
    assert found.usd_per_five_minutes("agent") == pytest.approx((gains[0] - gains[-1]) / 3)


def test_a_price_that_is_told_late_is_believed_sooner_and_a_recorded_one_was_not_late():
    of = past(*[CHEAP, 0.08] * 6)
    late = compare(of, [LOT], {"agent": POLICY}, delay_min=0.0, delays_min=[0.0, 10.0])
    assert [line.result.cycles for each in late.delays for line in each.lines] == [6, 0, 6, 6]
    recorded_of = replace(of, power=replace(of.power, recorded=True))
    known = compare(recorded_of, [LOT], {"agent": POLICY}, delay_min=0.0, delays_min=[0.0, 10.0])
    assert [line.result.cycles for each in known.delays for line in each.lines] == [6, 0, 6, 0]


def test_machines_of_a_model_are_a_class():
    (both,) = classes([LOT, replace(LOT, count=3, power_w=3400.0)])
    assert (both.count, both.power_w) == (4, 3300.0)
    assert len(classes([LOT, replace(LOT, terms=Terms(fee=0.1))])) == 2


def test_histories_that_share_no_time_are_refused():
    with pytest.raises(HistoryError, match="share no time"):
        overlap(history([CHEAP] * 10), history([50.0] * 3, DAY, T0 + 40 * DAY), None, None)


def test_the_first_hashprice_must_be_known_at_the_beginning():
    of = overlap(history([CHEAP] * 200), history([50.0] * 3, DAY, T0), None, None)
    assert of.power.starts[0] == T0 + DAY
    assert of.news(0.0)[0].hashprice_usd_per_ph_day == 50.0


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    prices = "\n".join(
        f"{datetime.fromtimestamp(T0 + i * STEP, UTC).isoformat()},{900 if i % 40 == 7 else 25}"
        for i in range(400)
    )
    (tmp_path / "power.csv").write_text("timestamp_utc,usd_per_mwh\n" + prices + "\n")
    days = "\n".join(f"2025-01-0{day},50" for day in range(1, 8))
    (tmp_path / "hash.csv").write_text("date,hashprice_usd_per_ph_day\n" + days + "\n")
    (tmp_path / "fleet.csv").write_text("model,count\nAntminer S21,10\nAntminer S19j Pro,5\n")
    return tmp_path


def asked(files, *arguments):
    return hashcost(
        "backtest", "--prices", files / "power.csv", "--hashprice", files / "hash.csv",
        "--database", files / "none.db", *arguments,
    )  # fmt: skip


def test_a_backtest_as_data_and_as_csv(files):
    done = asked(files, "--inventory", files / "fleet.csv", "--json", "--csv", files / "out.csv")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    by_name = {each["policy"]: each for each in data["policies"]}
    assert 0.9 < by_name["agent"]["share_of_clairvoyant"] <= 1.0
    assert by_name["agent"]["machines"] == 15
    assert set(data["usd_per_five_minutes"]) == {"naive", "agent"}
    rows = list(csv.DictReader(io.StringIO((files / "out.csv").read_text())))
    assert tuple(rows[0]) == COLUMNS
    fleet = [
        row for row in rows if row["model"] == "" and row["policy"] == "agent" and row["delay_min"] == "0"
    ]
    assert float(fleet[0]["gain_usd"]) == pytest.approx(by_name["agent"]["gain_usd"])


def test_a_chart_ends_where_each_policy_did(files):
    (files / "<odd>.toml").write_text("[curtailment]\nswitching_cost_usd = 0.5\n")
    done = asked(
        files, "--inventory", files / "fleet.csv", "--policy", files / "<odd>.toml", "--chart", files / "out.svg",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    picture = ElementTree.parse(files / "out.svg").getroot()
    kind = "{http://www.w3.org/2000/svg}"
    gained = {each["policy"]: each["gain_usd"] for each in json.loads(done.stdout)["policies"]}
    legend = [text.text for text in picture.iter(f"{kind}text") if text.text.partition(":")[0] in gained]
    assert [text.partition(":")[0] for text in legend] == ["naive", "<odd>", "clairvoyant"]
    assert all(f"{gained[text.partition(':')[0]]:+,.2f}" in text for text in legend)
    curves = [line for line in picture.iter(f"{kind}polyline") if line.get("stroke-width") == "1.5"]
    lines = [line.get("points").split() for line in curves]
    ends = [float(points[-1].partition(",")[2]) for points in lines]
    assert ends[2] <= min(ends) + 0.1  # upwards is less
    assert ends[1] > ends[2]
    assert len({points[0] for points in lines}) == 1


def test_a_chart_as_png_has_the_same_lines(files):
    done = asked(files, "--inventory", files / "fleet.csv", "--chart", files / "out.svg")
    assert done.returncode == 0, done.stderr
    done = asked(files, "--inventory", files / "fleet.csv", "--chart", files / "out.png")
    assert done.returncode == 0, done.stderr
    kind = "{http://www.w3.org/2000/svg}"
    curves = [
        line
        for line in ElementTree.parse(files / "out.svg").getroot().iter(f"{kind}polyline")
        if line.get("stroke-width") == "1.5"
    ]
    with Image.open(files / "out.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (2 * WIDTH, 2 * HEIGHT))
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        top = curves[-1]  # it lies on the others
        x, y = map(float, top.get("points").split()[-1].split(","))
        wanted = ImageColor.getrgb(top.get("stroke"))
        near = picture.crop((round(2 * x) - 3, round(2 * y) - 3, round(2 * x) + 3, round(2 * y) + 3))
        assert any(  # its edges are soft
            max(abs(one - other) for one, other in zip(colour, wanted, strict=True)) < 20
            for _, colour in near.getcolors()
        )
        words = picture.crop((2 * (WIDTH - RIGHT + 38), 2 * TOP, 2 * WIDTH, 2 * (TOP + 20)))
        assert (0, 0, 0) in [colour for _, colour in words.getcolors(10**6)]


def test_a_chart_says_by_its_name_what_it_is_to_be(files):
    done = asked(files, "--inventory", files / "fleet.csv", "--chart", files / "out.jpg")
    assert done.returncode == 2
    assert "is named .svg or .png" in done.stderr
    assert not (files / "out.jpg").exists()


def test_without_pillow_a_png_is_refused_before_anything_is_reckoned(files):
    code = "import importlib.util; importlib.util.find_spec = lambda name, *_: None if name == 'PIL' else 1; "
    done = python(code + CLI, "backtest", "--prices", "nowhere.csv", "--chart", str(files / "out.png"))
    assert done.returncode == 2
    assert "needs pillow, which is not installed: pip install 'hashcost[charts]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chart_in_the_terminal_rises_where_a_policy_gains():
    compared = compare(
        past(*[CHEAP] * 96, *[DEAR] * 96, *[CHEAP] * 96), [LOT], {"agent": POLICY}, delay_min=0
    )
    _, *rows, dates, legend = (line.plain for line in terminal(compared))
    assert len(rows) == TERMINAL_HEIGHT
    assert {len(row) for row in rows} == {13 + TERMINAL_WIDTH}
    (best,) = [line.result.gain_usd for line in compared.lines if line.policy == "clairvoyant"]
    assert float(rows[0][:12]) == pytest.approx(
        best, abs=0.02
    )  # one who has not woken yet has not paid for it
    assert rows[-1].startswith("        0.00")
    marked = [[place for place, cell in enumerate(row[13:]) if cell != chr(0x2800)] for row in rows]
    assert marked[-1][0] == 0  # it begins with nothing, at the bottom on the left
    assert marked[0][-1] == TERMINAL_WIDTH - 1  # and ends with everything, at the top on the right
    assert all(marked)
    assert dates.split() == ["2025-01-02", "2025-01-04"]
    assert legend.split() == ["naive", "agent", "clairvoyant"]


def test_a_chart_of_what_could_gain_nothing_is_a_flat_line():
    compared = compare(past(*[CHEAP] * 96), [LOT], {"agent": POLICY}, delay_min=0)
    _, *rows, _, _ = (line.plain for line in terminal(compared))
    assert [any(cell != chr(0x2800) for cell in row[13:]) for row in rows].count(True) == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (-3.0, 7.0), (0.0, 31_000.0), (-0.002, 0.001), (5.0, 5.0)]
)
def test_the_ticks_of_a_chart_hold_all_of_it(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 9


def test_a_backtest_in_words_for_policies_of_files(files):
    for name, text in (("calm", "switching_cost_usd = 1.0"), ("quick", "switching_cost_usd = 0.001")):
        (files / f"{name}.toml").write_text(f"[curtailment]\n{text}\n")
    done = asked(
        files, "--inventory", files / "fleet.csv", "--policy", files / "calm.toml", "--policy", files / "quick.toml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("calm", "quick", "clairvoyant", "each 5 min", "worst day", "2025-01  "):
        assert said in done.stdout


def test_the_agents_own_machines(files):
    stored_site(files / "site.db", machine(1, reading()), machine(2, reading()))
    done = asked(files, "--json", "--delays", "", "--database", files / "site.db")
    (only,) = json.loads(done.stdout)["classes"]
    assert (only["model"], only["machines"]) == ("Antminer S21", 2)


def test_the_prices_that_the_agent_recorded(files):
    with Store(files / "site.db") as store:
        for index in range(97):
            at = NOW + index * timedelta(minutes=5)
            save(
                store,
                machine(1, reading(began_at=at)),
                market=market(DEAR if index // 12 % 2 else CHEAP, at=at),
                valid_s=300,
            )
    done = hashcost("backtest", "--json", "--database", files / "site.db")
    told = json.loads(done.stdout)
    assert (told["hours"], told["gap_hours"]) == (8.0, 0.0)
    found = {line["policy"]: line for line in told["policies"]}
    assert found["naive"]["hours_off"] == pytest.approx(4.0)
    assert found["naive"]["share_of_clairvoyant"] == pytest.approx(1.0)
    assert found["agent"]["cycles"] == 4
    mixed = asked(files, "--json", "--inventory", files / "fleet.csv")  # both from files need no database
    assert mixed.returncode == 0
    only_hashprice = hashcost(
        "backtest", "--json", "--prices", files / "power.csv", "--database", files / "site.db"
    )
    assert only_hashprice.returncode == 2
    assert "share no time" in only_hashprice.stderr


def test_without_rounds_there_are_no_recorded_prices(files):
    with Store(files / "site.db"):
        pass
    done = hashcost("backtest", "--inventory", files / "fleet.csv", "--database", files / "site.db")
    assert done.returncode == 2
    assert "holds no prices of its own yet; --prices FILE names some" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--delays", "5,x"), "minutes from 0 to 1440"),
        (("--from", "2030-01-01"), "share no time"),
        (("--prices", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (("--hashprice", "power.csv"), "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(files, arguments, told):
    done = asked(files, "--inventory", files / "fleet.csv", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_without_machines_an_inventory_is_asked_for(files):
    done = asked(files)
    assert done.returncode == 2
    assert "no such database" in done.stderr
