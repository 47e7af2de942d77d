import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units

FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
positive = st.floats(min_value=1e-6, max_value=9e17, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (24.1234e9, "bit/s", "24.1 Gbit/s"),
        (999.6e6, "bit/s", "1.00 Gbit/s"),
        (0.0, "bit/s", "0 bit/s"),
        (187.2, "us", "187 µs"),
        (12_345.0, "us", "12.3 ms"),
        (12_345_678.0, "us", "12.3 s"),
        (63_012.4, "B", "63,012 B"),
        (0.1234, "1", "12.3 %"),
        (12_345.6, "1/s", "12,346 /s"),
        (0.41234, "s/GB", "0.412 s/GB"),
        (9.996, "s/GB", "10.0 s/GB"),
        (0.25, "1/GB", "0.250 /GB"),
        (None, "B", "–"),
        (math.nan, "bit/s", "–"),
        (math.inf, "us", "–"),
    ],
)
def test_values_read_as_people_write_them(value, unit, text):
    assert units.value_text(value, unit) == text


def test_no_metric_has_a_unit_that_is_written_in_no_way():
    assert {metric.unit for metric in METRICS.values()} <= set(units._RENDERERS)


@given(positive)
def test_a_bit_rate_says_the_rate_to_three_digits(value):
    number, prefix = re.fullmatch(r"([\d.,]+) ([kMGTP]?)bit/s", units.bit_rate(value)).groups()
    shown = float(number.replace(",", "")) * FACTORS[prefix]
    assert shown == pytest.approx(value, rel=0.0051)
    assert 1 <= float(number.replace(",", "")) < 1000 or prefix in ("", "P")


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_significant_digits_are_neither_lost_nor_invented(value):
    text = units.significant(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.0051)
    if value < 99:
        assert len(text.replace(".", "").lstrip("0")) == 3


@given(st.sampled_from([metric.unit for metric in METRICS.values()]), st.floats())
def test_every_unit_renders_every_number(unit, value):
    text = units.value_text(value, unit)
    assert (text == units.MISSING) == (not math.isfinite(value))


def test_changes_carry_sign_and_interval():
    assert units.change_with_interval(0.742, 0.701, 0.785) == "+74.2 % [+70.1, +78.5]"
    assert units.change_with_interval(-0.051, -0.08, -0.02) == "−5.1 % [−8.0, −2.0]"
    assert units.change_with_interval(0.742, None, None) == "+74.2 %"
    assert units.change_with_interval(0.742, math.nan, 0.8) == "+74.2 %"
    assert units.change_with_interval(None, 0.1, 0.2) == "–"
    assert units.change_text(-0.0001) == "+0.0 %", "a rounded zero has no minus"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.250 s"),
        (59.9, "59.9 s"),
        (228, "3 min 48 s"),
        (3900, "1 h 5 min"),
        (1080, "18 min"),
        (7200, "2 h"),
        (None, "–"),
    ],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("unit", "largest", "divisor", "text"),
    [
        ("bit/s", 51e9, 1e9, "Gbit/s"),
        ("bit/s", 999.0, 1.0, "bit/s"),
        ("us", 9_999.0, 1.0, "µs"),
        ("us", 10_000.0, 1e3, "ms"),
        ("us", 2e7, 1e6, "s"),
        ("1", 0.4, 0.01, "%"),
        ("B", 150_000.0, 1.0, "B"),
        ("s/GB", 0.4, 1.0, "s/GB"),
    ],
)
def test_axes_have_the_unit_that_suits_them(unit, largest, divisor, text):
    assert units.axis(unit, largest) == (divisor, text)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("from +41 % to +28.5 %", "from +41_% to +28.5_%"),
        ("took 1 h 48 min, 32 min of it traffic", "took 1_h 48_min, 32_min of it traffic"),
        ("not ready within 300 s after 03:48 UTC", "not ready within 300_s after 03:48_UTC"),
        ("47.7 Gbit/s, 0.352 s/GB, 12 /GB, 21,164 /s", "47.7_Gbit/s, 0.352_s/GB, 12_/GB, 21,164_/s"),
        ("above 65,536 B, 5 µs or 7 ms", "above 65,536_B, 5_µs or 7_ms"),
        ("5 scenarios, 3 hosts, 2 minutes, run 4 by hand", "5 scenarios, 3 hosts, 2 minutes, run 4 by hand"),
    ],
)
def test_no_line_ends_between_a_number_and_its_unit(text, held):
    assert units.unbroken(text) == held.replace("_", "\N{NO-BREAK SPACE}")


def test_markup_stays_markup_and_nothing_nothing():
    assert units.unbroken(Markup("<b>5 %</b>")) == Markup("<b>5\N{NO-BREAK SPACE}%</b>")
    assert units.unbroken(None) is None
