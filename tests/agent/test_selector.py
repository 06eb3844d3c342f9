"""Selectors mean the machines that a person would expect, or say which part is wrong."""

import time
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appraisal import Terms
from agent.selector import (
    MAX_DEPTH,
    MAX_LENGTH,
    QUANTITIES,
    SIGNS,
    Both,
    Compared,
    Either,
    Everything,
    Load,
    Not,
    SelectorError,
    parse,
    select,
)
from agent.view import view_machine
from drivers.reading import Address, PowerMode, PowerSource
from tests.agent.builders import MAX_AGE, asleep, failure, identity, mac, machine, market, reading


def viewed(number, outcome, **changes):
    made = machine(number, outcome, **changes)
    return view_machine(made, market(), Terms(), max_age=MAX_AGE)


OLD = viewed(
    1, reading(hashrate_ths=90.0, power_w=3300.0), group="air", identity=identity(1, model="Antminer S19")
)
USUAL = viewed(2, reading(), group="air")
HYDRO = viewed(
    3,
    reading(hashrate_ths=330.0, power_w=5300.0),
    group="hydro",
    identity=identity(3, model="Antminer S21 Hyd."),
)
WHATSMINER = viewed(
    4, reading(hashrate_ths=110.0, power_w=3400.0), group="hydro",
    identity=identity(4, make="WhatsMiner", model="M30S++_VE40"), address=Address(host="10.0.1.4", port=14028),
)  # fmt: skip
SLEEPING = viewed(5, asleep(), group="air")
LOST = viewed(6, failure(), group="air")
WATTLESS = viewed(7, reading(power_w=None, power_source=PowerSource.UNKNOWN, power_error=None), group="air")
ABSURD = viewed(8, reading(power_w=90_000.0, implausible="power 90000 W"), group="air")
SERIAL = viewed(9, reading(), group="site", identity=identity(9, mac=None, serial="JY1"))
SITE = [OLD, USUAL, HYDRO, WHATSMINER, SLEEPING, LOST, WATTLESS, ABSURD, SERIAL]


def numbers(text, views=SITE, **options):
    """The machines that a selector means, by the last octet of their address."""
    return [
        int(view.address.partition(":")[0].rpartition(".")[2])
        for view in select(parse(text), views, **options)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("ALL", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("02:13:00:00:00:02", [2]),
        ("02-13-00-00-00-0" + "2", [2]),
        ("sn:JY1", [9]),
        ("10.0.0.3", [3]),
        ("10.0.0.1-3", [1, 2, 3]),
        ("10.0.1.0/24", [4]),
        ("10.0.1.4", [4]),
        ("10.0.1.4:14028", [4]),
        ("group:hydro", [3, 4]),
        ("group:'hydro'", [3, 4]),
        ("model:s19", [1]),
        ("model:M30S++", [4]),
        ('model:"S21 hyd."', [3]),
        ("margin<0", [1, 4]),
        ("margin >= 2", [2, 3, 5, 9]),
        ("efficiency>30", [1, 4]),
        ("efficiency<=17.5 & group:air", [2, 5]),
        ("power>3350", [2, 3, 4, 9]),
        ("hashrate<95 group:air", [1, 5]),
        ("margin<-99", []),
        ("margin>-.5 hashrate>300", [3]),
        ("group:hydro, 10.0.0.1", [1, 3, 4]),
        ("group:hydro,10.0.0.1 power>99999", [3, 4]),
        ("(group:hydro,10.0.0.1) efficiency>30", [1, 4]),
        ("!group:air", [3, 4, 9]),
        ("! group:air !group:site", [3, 4]),
        ("!!group:hydro", [3, 4]),
        ("!(group:air, group:site)", [3, 4]),
        ("group:hydro&power>5000", [3]),
    ],
)  # fmt: skip
def test_a_selector_means_these_machines(text, expected):
    assert numbers(text) == expected


def test_machines_come_in_the_order_of_the_site_and_once():
    assert numbers("group:hydro, all", SITE[::-1]) == [9, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("sign", SIGNS)
def test_what_is_unknown_or_implausible_matches_no_comparison(quantity, sign):
    for bound in (-1e9, 0.0, 1e9):
        assert select(Compared(quantity, sign, bound), [LOST, ABSURD]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kw:3", [1]),
        ("kw:3.3", [1]),
        ("kw:3.31", [1, 4]),
        ("kw:3 !group:air", [4]),
        ("kw:3 & group:hydro", [4]),
        ("group:hydro kw:3.5", [3, 4]),
        ("kw:1 group:hydro, kw:1 group:air", [1, 4]),
        ("(kw:1, group:hydro)", [1, 3, 4]),
        ("kw:1000", [1, 2, 3, 4, 9]),
        ("kw:1 10.0.0.6", []),
    ],
)
def test_load_is_moved_least_efficient_first_and_no_more_than_needed(text, expected):
    assert numbers(text) == expected


def test_what_wakes_is_picked_the_most_efficient_first():
    assert numbers("kw:3", load_w=lambda view: view.power_w, most_efficient_first=True) == [3]


def test_the_load_of_a_machine_is_what_the_caller_says_it_is():
    assert numbers("kw:3", load_w=lambda _: 1000.0) == [1, 2, 4]  # of equally efficient ones the lower id


@pytest.mark.parametrize(
    ("text", "part", "reason"),
    [
        ("", "", "empty"),
        ("  ", "  ", "empty"),
        ("group:hydro,", "group:hydro,", "missing at the end"),
        (",all", ",all", "missing before ','"),
        ("all && all", "all && all", "missing before '&'"),
        ("!", "!", "missing at the end"),
        ("(all", "(all", "not closed"),
        ("all)", ")", "not opened"),
        ("()", "()", "missing before ')'"),
        ("(" * (MAX_DEPTH + 1) + "all", "(" * (MAX_DEPTH + 1) + "all", "nested deeper"),
        ("model:'S21", "'S21", "quote"),
        ("S21", "S21", "neither an IPv4 address"),
        ("group:", "group:", "nothing after group:"),
        ("group:''", "group:''", "nothing after group:"),
        ("margin", "margin", "neither an IPv4 address"),
        ("margin<", "margin<", "'' is not a number"),
        ("margin<<0", "margin<", "'' is not a number"),
        ("<0", "<0", "'' cannot be compared"),
        ("margin<nan", "margin<nan", "'nan' is not a number"),
        ("margin<1e400", "margin<1e400", "is not a number"),
        ("power<" + "9" * 400, "power<" + "9" * 400, "is not a number"),
        ("temperature>80", "temperature>80", "only margin, efficiency, power, hashrate"),
        ("kw:0", "kw:0", "positive"),
        ("kw:-1", "kw:-1", "positive"),
        ("kw:lots", "kw:lots", "'lots' is not a number"),
        ("kw:1 kw:2", "kw:2", "twice"),
        ("!kw:1", "!kw:1", "negated"),
        ("10.0.0.300", "10.0.0.300", "255"),
        ("10.0.0.0/8", "10.0.0.0/8", "more than"),
        ("10.0.0.0/16, 10.1.0.0/16", "10.1.0.0/16", "more than"),
        ("@/etc/passwd", "@/etc/passwd", "files are not read"),
        ("a" * (MAX_LENGTH + 1), "a" * (MAX_LENGTH + 1), "longer than"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named_with_what_is_accepted(text, part, reason):
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert caught.value.part == part
    assert reason in caught.value.reason
    assert "accepted: a machine id or MAC" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["group:hydor", "02:13:00:00:00:99", "sn:JY2", "10.9.0.0/24", "10.0.1.4:4028", "model:S99"]
)
@pytest.mark.parametrize("form", ["{}", "!{}", "all !{}", "all, {}"])
def test_a_name_that_no_machine_has_is_an_error_and_never_everybody(name, form):
    with pytest.raises(SelectorError) as caught:
        numbers(form.format(name))
    assert caught.value.part == name


def test_a_group_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(SelectorError, match="there is air, hydro, site"):
        numbers("group:hydor")


def test_a_file_of_addresses_is_not_opened(tmp_path):
    (tmp_path / "list").write_text("10.0.0.1\n")
    with pytest.raises(SelectorError, match="files are not read"):
        parse(f"@{tmp_path / 'list'}")


@pytest.mark.parametrize(
    "text", [" " * 8190 + "(", "a" * 8190 + "<", "a " * 4096, "!" * 8189 + "all", "'" * 8190]
)
def test_no_text_takes_long(text):
    began = time.process_time()
    with suppress(SelectorError):
        parse(text)
    assert time.process_time() - began < 1.0


words = st.sampled_from(
    ["all", "group:air", "model:s21", "10.0.0.1-5", "margin<0", "power", "<", ">=", "kw:3", "kw:", "!", "&", ",", "(",
     ")", " ", "'", '"', "sn:", "@x", "1e9", "-", "\x00", "\u0663", "02:13:00:00:00:01"]
)  # fmt: skip


@given(st.text() | st.lists(words).map("".join) | st.lists(words).map(" ".join))
def test_any_text_is_a_selector_or_a_selector_error(text):
    with suppress(SelectorError):
        chosen = select(parse(text), SITE)
        assert {view.machine_id for view in chosen} <= {view.machine_id for view in SITE}


outcomes = st.one_of(
    st.builds(failure),
    st.builds(
        reading,
        hashrate_ths=st.none() | st.floats(1, 400),
        power_w=st.none() | st.floats(1, 9000),
        implausible=st.none() | st.just("no"),
        power_mode=st.none() | st.sampled_from(PowerMode),
    ),
    st.builds(asleep),
)
sites = st.lists(st.tuples(outcomes, st.sampled_from(["air", "hydro"])), min_size=1, max_size=8).map(
    lambda found: [
        viewed(number, outcome, group=group) for number, (outcome, group) in enumerate(found, start=1)
    ]
)
comparisons = st.builds(
    Compared, st.sampled_from(list(QUANTITIES)), st.sampled_from(list(SIGNS)), st.floats(-20, 5000)
)
selectors = st.recursive(
    comparisons | st.just(Everything()),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(Both, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Either, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(sites, selectors, selectors)
def test_de_morgan(site, a, b):
    assert select(Not(Either((a, b))), site) == select(Both((Not(a), Not(b))), site)
    assert select(Not(Both((a, b))), site) == select(Either((Not(a), Not(b))), site)


@given(sites, selectors)
def test_a_selector_and_its_negation_share_the_site(site, selector):
    chosen, others = select(selector, site), select(Not(selector), site)
    assert len(chosen) + len(others) == len(site)
    assert {view.machine_id for view in chosen}.isdisjoint(view.machine_id for view in others)


@given(sites, selectors, st.floats(0.001, 60))
def test_no_more_machines_than_needed_and_none_more_efficient_than_one_passed_over(site, rest, kw):
    candidates = [
        view
        for view in select(rest, site)
        if view.run_state == "mining" and view.efficiency_j_per_th is not None
    ]
    chosen = select(Both((rest,), Load(kw)), site)
    ids = {view.machine_id for view in chosen}
    assert ids <= {view.machine_id for view in candidates}
    passed_over = [view for view in candidates if view.machine_id not in ids and view.power_w]
    if passed_over:
        assert sum(view.power_w for view in chosen) >= kw * 1000 * (1 - 1e-9)
        worst_left = max(view.efficiency_j_per_th for view in passed_over)
        assert all(view.efficiency_j_per_th >= worst_left for view in chosen)
    if chosen:
        last = min(chosen, key=lambda view: view.efficiency_j_per_th)
        without = sum(view.power_w for view in chosen if view is not last)
        tied = [view for view in chosen if view.efficiency_j_per_th == last.efficiency_j_per_th]
        assert without < kw * 1000 or len(tied) > 1


def test_an_id_is_read_in_any_case_and_the_site_is_not_changed():
    before = [replace(view) for view in SITE]
    assert numbers(mac(2).lower()) == [2]
    assert before == SITE
