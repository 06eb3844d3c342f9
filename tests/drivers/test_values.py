"""What a value in an answer means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.values import flag, mac, number, positive, rows, text, whole

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (3250, 3250.0),
        ("37603.30", 37603.3),
        ("3250 W", 3250.0),
        ("-1", -1.0),
        ("5.2e3", 5200.0),
        ("", None),
        ("nan", None),
        ("inf", None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ("error 6060 cmd", None),
        ("78-50-69-70", None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_a_number_is_finite_and_was_said(said: object, meant: float | None) -> None:
    assert number(said) == meant


def test_zero_watts_are_no_watts() -> None:
    assert positive("0 W") is None
    assert positive(-1) is None
    assert positive("1 W") == 1.0


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("02:13:ab:00:01:fe", "02:13:AB:00:01:FE"),
        ("0213ab0001fe", "02:13:AB:00:01:FE"),
        ("02-13-AB-00-01-FE", "02:13:AB:00:01:FE"),
        ("00:00:00:00:00:00", None),
        ("ff:ff:ff:ff:ff:ff", None),
        ("02:13:ab", None),
        (12, None),
    ],
)
def test_macs_have_one_spelling(said: object, meant: str | None) -> None:
    assert mac(said) == meant


def test_flags_and_texts() -> None:
    assert [flag(said) for said in ("true", "False", True, 0, "1", "maybe", None)] == [
        True,
        False,
        True,
        False,
        True,
        None,
        None,
    ]
    assert text("'20230911.12.Rel'") == "20230911.12.Rel"
    assert text("  ") is None
    assert text(7) is None
    assert rows({"a": 1}) == []
    assert rows([1, {"a": 1}, None]) == [{"a": 1}]


@given(JSON)
def test_nothing_in_json_makes_it_fail(value: object) -> None:
    number(value), positive(value), whole(value), text(value), flag(value), mac(value), rows(value)
