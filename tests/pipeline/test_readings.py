"""Units and ranges, against hand calculations."""

import math

import pytest

from pipeline.readings import QUANTITIES, Channel, ReadingError, check_range, split_name, to_canonical


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "canonical"),
    [
        ("velocity_rms", "m/s", 0.0023, 2.3),
        ("acceleration_rms", "m/s2", 9.80665, 1.0),
        ("acceleration_peak", "mg", 600, 0.6),
        ("temperature", "degF", 212.0, 100.0),
        ("temperature", "K", 273.15, 0.0),
        ("current", "mA", 1500.0, 1.5),
        ("opening", "cm", 73.0, 0.73),
        ("load", "%", 55.0, 0.55),
        ("oil_pressure", "MPa", 1.6, 16.0),
        ("oil_pressure", "kPa", 250.0, 2.5),
    ],
)
def test_units_become_canonical(quantity: str, unit: str, value: float, canonical: float) -> None:
    assert to_canonical(quantity, unit, value) == pytest.approx(canonical, abs=1e-9)


def test_every_quantity_accepts_its_own_unit_unchanged() -> None:
    for quantity in QUANTITIES.values():
        assert to_canonical(quantity.name, quantity.unit, quantity.low) == quantity.low


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "reason", "told"),
    [
        ("velocity_rms", "inch/s", 1.0, "wrong_unit", "mm/s, m/s; got 'inch/s'"),
        ("noise", "dB", 1.0, "unknown_quantity", "'noise' is unknown"),
        ("temperature", "degC", math.nan, "not_finite", "finite"),
        ("temperature", "degC", math.inf, "not_finite", "finite"),
        ("temperature", "degC", 900.0, "out_of_range", "-60..400 degC; got 900"),
        ("moving", "1", 2.0, "out_of_range", "0..1"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_allowed(quantity: str, unit: str, value: float, reason: str, told: str) -> None:
    with pytest.raises(ReadingError) as refusal:
        to_canonical(quantity, unit, value)

    assert refusal.value.reason == reason
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "fits"),
    [
        ("velocity_rms", "m/s", 1.31, "1.31 would be possible in mm/s; is the unit wrong?"),  # 1,310 mm/s
        ("load", "1", 45.0, "45 would be possible in %; is the unit wrong?"),
        ("acceleration_peak", "g", 4903.325, "4903.32 would be possible in m/s2 or mg; is the unit wrong?"),  # 500 g, 4.9 g
    ],
)
def test_an_impossible_value_is_refused_with_the_units_it_would_fit(quantity: str, unit: str, value: float, fits: str) -> None:
    with pytest.raises(ReadingError, match="out|must lie in") as refusal:
        to_canonical(quantity, unit, value)

    assert refusal.value.reason == "out_of_range"
    assert fits in str(refusal.value)


def test_a_range_includes_its_ends() -> None:
    assert check_range("humidity", 0.0) == 0.0
    assert check_range("humidity", 100.0) == 100.0


def test_a_name_is_a_quantity_or_a_point_and_a_quantity() -> None:
    assert split_name("velocity_rms") == ("", "velocity_rms")
    assert split_name("winding.temperature") == ("winding", "temperature")
    for bad in ("a.b.c", ".temperature", "temperature.", "", "win ding.temperature"):
        with pytest.raises(ReadingError):
            split_name(bad)


def test_a_channel_knows_its_names() -> None:
    channel = Channel("G1", "motor", "temperature", "degC", point="winding")

    assert channel.name == "winding.temperature"
    assert channel.key == "motor.winding.temperature"
