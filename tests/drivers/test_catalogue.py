"""Nameplates, whatever a machine calls itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.catalogue import nameplate, spelling


@pytest.mark.parametrize(
    ("said", "hashrate_ths", "power_w"),
    [
        ("Antminer S19 Pro", 110, 3250),
        ("ANTMINER S19 PRO", 110, 3250),
        ("S19 Pro (Stock)", 110, 3250),
        ("Antminer S19 Pro (LuxOS)", 110, 3250),
        ("Antminer S21 Hyd.", 335, 5360),
        ("Antminer S21 Hydro", 335, 5360),
        ("Antminer S19 Pro+ Hyd.", 198, 5445),
        ("Antminer S19j Pro+", 122, 3355),
        ("Antminer S19 Pro NOPIC", 110, 3250),
        ("M60S_VK40", 186, 3441),
        ("M60SVK40", 186, 3441),
        ("M60S VK40", 186, 3441),
        ("Whatsminer M60S", 186, 3441),
        ("M30S+_VG40", 100, 3400),
        ("M30S+VG40", 100, 3400),
        ("M30S++_VH20", 112, 3472),
        ("M20SV10", 68, 3360),
        ("M50_VH50", 114, 3306),
        ("M63S_VK30", 390, 7215),
    ],
)
def test_every_spelling_of_a_model_finds_it(said: str, hashrate_ths: float, power_w: float) -> None:
    found = nameplate(said)
    assert found is not None
    assert (found.hashrate_ths, found.power_w) == (hashrate_ths, power_w)


@pytest.mark.parametrize("said", ["", "Antminer", "Antminer S99", "M99S_VK40", "BitAxe Gamma", "S19 Pro Max"])
def test_an_unknown_model_has_no_nameplate(said: str) -> None:
    assert nameplate(said) is None


@pytest.mark.parametrize(("expected", "chosen"), [(95.2, 96), (100.4, 100), (104.0, 104), (140.0, 104)])
def test_of_several_nameplates_the_nearest_to_what_the_machine_expects(
    expected: float, chosen: float
) -> None:
    found = nameplate("Antminer S19j Pro", expected)
    assert found is not None
    assert found.hashrate_ths == chosen
    assert found.error == 0.10


def test_without_an_expectation_the_middle_one_with_a_wider_error() -> None:
    found = nameplate("Antminer S19j Pro")
    assert found is not None
    assert (found.hashrate_ths, found.error) == (100, 0.15)


def test_a_model_that_names_its_terahashes_is_taken_at_its_word() -> None:
    found = nameplate("Antminer S19j Pro 104T", 96.0)
    assert found is not None
    assert found.hashrate_ths == 104


@pytest.mark.parametrize(("model", "error"), [("S21", 0.10), ("T21", 0.15), ("M70", 0.20)])
def test_less_trust_is_a_wider_band(model: str, error: float) -> None:
    found = nameplate(model)
    assert found is not None
    assert found.error == error


def test_efficiency_is_power_by_hashrate() -> None:
    for model in ("S19 Pro", "S21 XP", "M30S++", "M66S", "S9"):
        found = nameplate(model)
        assert found is not None
        assert found.efficiency_j_per_th == pytest.approx(found.power_w / found.hashrate_ths, rel=0.02)


@given(st.text(max_size=40))
def test_no_name_makes_it_fail(said: str) -> None:
    assert nameplate(said) is None or spelling(said)
