"""Charts say what they show, to eyes and to screen readers, at any age of a series and with anything missing."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report.charts import all as charts
from bigtcp_bench.report.charts import over_time
from bigtcp_bench.report.charts.series import MAX_POINTS, series_of
from bigtcp_bench.report.charts.style import ARM_COLOURS, config_of
from bigtcp_bench.report.charts.vega import specification as drawn
from tests.report.views import comparison, run_view

FIRST = datetime(2025, 1, 6, 2, tzinfo=UTC)
INCIDENTS = [
    {"id": 3, "state": "recovered", "changed_on": "2025-02-01", "closed_on": "2025-02-10"},
    {"id": 4, "state": "regression", "changed_on": "2025-03-20", "closed_on": None},
]
LATENCIES = tuple(
    comparison("ipv6-rr", f"latency_{name}_us", off, on)
    for name, off, on in (("p50", 80.0, 70.0), ("p90", 120.0, 100.0), ("p99", 30_000.0, 20_000.0))
)


def nights(count: int, metric: str = "throughput_bps", **columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(1)
    off = 14e9 * np.exp(random.normal(0, 0.02, count))
    on = off * 1.7 * np.exp(random.normal(0, 0.02, count))
    return pd.DataFrame(
        {
            "started_at": [FIRST + timedelta(days=day) for day in range(count)],
            "scenario": "ipv6-stream-1",
            "metric": metric,
            "off_median": off,
            "on_median": on,
            "change": on / off - 1,
            "ci_low": on / off - 1.05,
            "ci_high": on / off - 0.95,
            "verdict": "faster",
            **columns,
        }
    )


def results() -> pd.DataFrame:
    values = {
        "throughput_bps": 14e9,
        "cpu_s_per_gb_sender": 0.4,
        "user_s_per_gb_sender": 0.05,
        "system_s_per_gb_sender": 0.2,
        "softirq_s_per_gb_sender": 0.1,
        "cpu_s_per_gb_receiver": 0.5,
    }
    rows = [
        (block, arm, generation, "ipv6-stream-1", 1, metric, value * (1 + generation / 100))
        for block, arm, generations in ((1, "off", 3), (2, "on", 6), (3, "off", 3))
        for generation in range(1, generations + 1)
        for metric, value in values.items()
    ]
    columns = ["block", "arm", "generation", "scenario", "repetition", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def packet_sizes() -> pd.DataFrame:
    blocks = ((1, "off", 65_536, 60_000), (2, "on", 196_608, 180_000), (3, "off", 1_500, 1_000))
    rows = [
        (block, "ipv4", "pod", "node1", end, direction, bound, arm, packets, packets * size)
        for block, arm, bound, size in blocks
        for end, direction, packets in (
            ("sender", "sent", 1_000),
            ("sender", "received", 70),
            ("receiver", "received", 1_000),
            ("receiver", "sent", 70),
        )
    ]
    columns = [*("block", "family", "path", "node", "end", "direction", "upper_bytes"), "arm", "packets", "bytes"]
    return pd.DataFrame(rows, columns=columns)


def view() -> Any:
    return replace(run_view(), comparisons=(*run_view().comparisons, *LATENCIES))


CHARTS = {
    "trend": lambda: over_time.trend_chart(nights(90), incidents=INCIDENTS),
    "benefit": lambda: over_time.benefit_chart(nights(90), incidents=INCIDENTS),
    "comparison": lambda: charts.comparison_chart(view()),
    "repetitions": lambda: charts.repetitions_chart(results(), "ipv6-stream-1", "throughput_bps"),
    "packets": lambda: charts.packet_size_chart(view().proofs),
    "captured packets": lambda: charts.packet_distribution_chart(packet_sizes()),
    "cpu": lambda: charts.cpu_chart(results()),
    "latency": lambda: charts.latency_chart(view()),
}
EMPTY = {
    "trend": lambda: over_time.trend_chart(nights(0)),
    "trend of two scenarios": lambda: over_time.trend_chart(nights(2, scenario=["ipv4-rr", "ipv6-rr"])),
    "trend without its columns": lambda: over_time.trend_chart(nights(3).drop(columns="on_median")),
    "trend of invalid nights": lambda: over_time.trend_chart(nights(3, verdict="invalid")),
    "benefit": lambda: over_time.benefit_chart(pd.DataFrame()),
    "comparison": lambda: charts.comparison_chart(run_view(comparisons=())),
    "repetitions": lambda: charts.repetitions_chart(results(), "ipv4-rr", "latency_p99_us"),
    "repetitions without columns": lambda: charts.repetitions_chart(pd.DataFrame(), "ipv4-rr", "latency_p99_us"),
    "packets": lambda: charts.packet_size_chart(()),
    "captured packets": lambda: charts.packet_distribution_chart(packet_sizes().iloc[:0]),
    "captured packets without columns": lambda: charts.packet_distribution_chart(pd.DataFrame()),
    "cpu": lambda: charts.cpu_chart(results().iloc[:0]),
    "latency": lambda: charts.latency_chart(run_view(comparisons=())),
}


@functools.cache
def specified(name: str) -> dict[str, Any]:
    """Return what one of ``CHARTS`` is drawn from, held against Vega-Lite's schema, once: nobody changes it."""
    return CHARTS[name]().to_dict()


def rows_of(specification: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of all data sets of a chart."""
    return [row for rows in specification["datasets"].values() for row in rows]


def encodings(specification: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    return [layer["encoding"][channel] for layer in specification["layer"] if channel in layer.get("encoding", {})]


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_has_title_units_and_words(name):
    specification = specified(name)
    assert specification["title"]["text"]
    assert len(specification["description"]) > 40
    titles = [one.get("title") for channel in ("x", "y") for one in encodings(specification, channel)]
    assert any(title and ("(" in title or title == "block") for title in titles)
    assert encodings(specification, "tooltip")


@pytest.mark.parametrize("name", CHARTS)
def test_arms_have_the_same_colours_everywhere(name):
    colours = [one for one in encodings(specified(name), "color") if one.get("field") == "arm"]
    for one in colours:
        assert dict(zip(one["scale"]["domain"], one["scale"]["range"], strict=True)) == ARM_COLOURS
    assert bool(colours) == (name in ("trend", "repetitions", "packets", "latency"))


@pytest.mark.parametrize("name", EMPTY)
def test_what_cannot_be_drawn_says_why(name):
    specification = EMPTY[name]().to_dict()
    (row,) = rows_of(specification)
    assert row["text"].endswith(".")
    assert row["text"] in specification["description"]


@pytest.mark.parametrize(("name", "theme"), [("trend", "light"), ("comparison", "dark")])
def test_a_picture_is_as_wide_as_asked_for(name, theme):
    picture = charts.png(CHARTS[name](), theme, width_px=800)
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20]) == (800,)


def test_values_are_in_the_unit_of_the_axis():
    specification = specified("trend")
    assert "throughput (Gbit/s)" in [one.get("title") for one in encodings(specification, "y")]
    values = [row["value"] for row in rows_of(specification) if row.get("arm") == "off"]
    assert 13 < min(values) < max(values) < 15


@pytest.mark.parametrize("build", [over_time.trend_chart, over_time.benefit_chart])
def test_ten_years_are_few_points_and_say_so(build):
    specification = drawn(build(nights(3650)))
    assert len([row for row in rows_of(specification) if "low" in row]) <= MAX_POINTS
    assert "by week" in specification["title"]["text"]
    assert "lowest to the highest night" in specification["title"]["subtitle"][0]
    assert "3650 nights from 2025-01-06" in specification["description"]


def test_a_week_holds_the_middle_and_the_ends_of_its_nights():
    frame = nights(1600).drop(index=2)
    rows, span = series_of(frame).by_arm()
    assert span == "week"
    weeks = (
        ("2025-01-06 to 2025-01-12 (6 nights)", slice(0, 6)),
        ("2025-01-13 to 2025-01-19 (7 nights)", slice(6, 13)),
    )
    for row, (name, of_week) in zip([row for row in rows if row["arm"] == "on"], weeks, strict=False):
        values = frame["on_median"].iloc[of_week]
        assert row["night"] == name
        assert (row["value"], row["low"], row["high"]) == (values.median(), values.min(), values.max())


def test_invalid_nights_are_left_out_and_counted():
    frame = nights(10, verdict=["invalid", *["faster"] * 9])
    specification = drawn(over_time.trend_chart(frame))
    assert specification["title"]["subtitle"][-1] == "1 night without a usable value left out"
    assert len([row for row in rows_of(specification) if row.get("arm") == "on"]) == 9


@given(
    metric=st.sampled_from(["throughput_bps", "softirq_share_sender"]),
    middle=st.floats(-0.5, 2.0),
    half=st.floats(0.001, 0.5),
    lopsided=st.floats(0.2, 20),
)
@settings(max_examples=40)
def test_bands_touch_exactly_when_the_change_may_be_zero(metric, middle, half, lopsided):
    off = 0.3
    if METRICS[metric].scale == "log":
        low, high = (math.exp(math.log1p(middle) + side * half) - 1 for side in (-1, 1))
    else:
        low, high = middle - half, middle + lopsided * half
    frame = nights(
        1, metric=metric, off_median=off, on_median=off * (1 + middle), change=middle, ci_low=low, ci_high=high
    )
    rows, _ = series_of(frame).by_arm()
    assert all(0 <= row["low"] <= row["value"] <= row["high"] for row in rows)
    assert METRICS[metric].unit != "1" or all(row["high"] <= 1 for row in rows)
    of_off, of_on = rows
    apart = of_on["low"] > of_off["high"] or of_off["low"] > of_on["high"]
    if min(abs(low), abs(high)) > 1e-9:
        assert apart == (low > 0 or high < 0)


def test_less_is_a_benefit_where_lower_is_better():
    frame = nights(5, metric="cpu_s_per_gb_sender", change=-0.2, ci_low=-0.25, ci_high=-0.1)
    rows, _ = series_of(frame, "change").benefit()
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"]) == (20.0, 10.0, 25.0)
    assert rows[0]["text"].startswith("−20.0 %")


def test_incidents_and_changes_are_shaded_and_told():
    frame = nights(90, cilium_version=["1.18.1"] * 40 + ["1.18.2"] * 50)
    specification = drawn(over_time.trend_chart(frame, incidents=INCIDENTS))
    assert "incident 3: recovered, 2025-02-01 to 2025-02-10" in specification["description"]
    assert "incident 4: regression, since 2025-03-20" in specification["description"]
    assert "Cilium 1.18.2 from 2025-02-15" in specification["description"]
    labels = {row["label"] for row in rows_of(specification) if "label" in row}
    assert {"incident 3", "incident 4 (open)", "Cilium 1.18.2"} <= labels
    shades = [row for row in rows_of(specification) if "until" in row]
    assert max(row["until"] for row in shades) == max(row["at"] for row in rows_of(specification) if "arm" in row)


def test_an_edited_plan_is_marked_and_told_in_full():
    frame = nights(40, plan=[{"duration_s": 10}] * 20 + [{"duration_s": 5}] * 20)
    for chart in (over_time.trend_chart, over_time.benefit_chart):
        specification = drawn(chart(frame))
        assert "plan: duration s 10 → 5 from 2025-01-26" in specification["description"]
        assert "plan edited" in {row["label"] for row in rows_of(specification) if "label" in row}


def test_incidents_of_other_times_are_not_drawn():
    elsewhere = [{"id": 1, "state": "recovered", "changed_on": "2020-01-01", "closed_on": "2020-02-01"}]
    assert "incident" not in drawn(over_time.trend_chart(nights(20), incidents=elsewhere))["description"]


@pytest.mark.parametrize(("width_px", "fewest"), [(1200, 10), (560, 10), (290, 3)])
def test_labels_do_not_lie_on_each_other(width_px, fewest):
    frame = nights(90, cilium_version=[f"1.18.{day // 2}" for day in range(90)])
    specification = drawn(over_time.trend_chart(frame, incidents=INCIDENTS))
    rules = [row for row in rows_of(specification) if row.get("what") == "Cilium"]
    texts = [layer for layer in specification["layer"] if layer["mark"]["type"] == "text"]
    shown_if = {"calculate": "width >= datum.needs_px ? datum.label : ''", "as": "shown"}
    assert all(layer["transform"] == [shown_if] for layer in texts)
    placed = [row for layer in texts for row in specification["datasets"][layer["data"]["name"]]]
    shown = [row for row in placed if row["needs_px"] <= width_px]
    assert len(rules) == 44
    assert fewest <= len(shown) <= len(placed) <= 3 * 6
    begin, end = (choose(row["at"] for row in rows_of(specification) if "arm" in row) for choose in (min, max))
    for number in range(3):
        lengths = [(row, 6 * len(row["label"])) for row in shown if row["row"] == number]
        moments = [(row["at"] - begin) / (end - begin) * width_px for row, _ in lengths]
        ends = sorted(
            (at, at + length) if row["side"] == "left" else (at - length, at)
            for (row, length), at in zip(lengths, moments, strict=True)
        )
        assert all(left >= 0 and right <= width_px for left, right in ends)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(ends))


def test_the_parts_of_cpu_time_make_the_whole():
    specification = specified("cpu")
    rows = rows_of(specification)
    for arm in ("off", "on"):
        total = next(row["value"] for row in rows if row["arm"] == arm and "label" in row)
        parts = [row["value"] for row in rows if row["arm"] == arm and "kind" in row]
        assert len(parts) == 4
        assert sum(parts) == pytest.approx(total)


def test_a_capture_is_shown_by_the_share_of_bytes_in_the_direction_of_the_data():
    rows = rows_of(specified("captured packets"))
    shares = {(row["scenario"], row["arm"], row["size"]): row["value"] for row in rows if "size" in row}
    for end in ("sender", "receiver"):
        assert shares.pop((f"ipv4, {end}", "on", "≤ 196,608 B")) == 100
        assert shares.pop((f"ipv4, {end}", "off", "≤ 65,536 B")) == pytest.approx(100 * 60 / 61)
        assert shares.pop((f"ipv4, {end}", "off", "≤ 1,500 B")) == pytest.approx(100 / 61)
    assert shares == {}
    means = [row["label"] for row in rows if "label" in row]
    assert means == ["off: mean 30,500 B", "on: mean 180,000 B"] * 2


def test_without_shares_cpu_time_is_one_piece():
    rows = rows_of(drawn(charts.cpu_chart(results(), "receiver")))
    assert {row["kind"] for row in rows if "kind" in row} == {"all kinds"}


def test_an_a_a_run_compares_no_arms():
    title = drawn(charts.comparison_chart(run_view(order=("off", "off"))))["title"]["text"]
    assert title == "A/A run: the same arm twice"


@pytest.mark.parametrize("days", [1, 2, 8, 28, 100, 380, 2000])
def test_no_two_ticks_of_the_axis_of_time_have_the_same_label(days):
    axis = drawn(over_time.trend_chart(nights(days)))["layer"][-1]["encoding"]["x"]["axis"]
    moments = json.loads(axis["values"]["expr"])
    labels = [f"{pd.Timestamp(moment, unit='ms'):{axis['format']}}" for moment in moments]
    assert 1 <= len(labels) == len(set(labels)) <= 14


def test_a_click_on_a_night_opens_its_run():
    frame = nights(5).assign(run_id=range(11, 16))
    for chart in (over_time.trend_chart, over_time.benefit_chart):
        linked = chart(frame, run_url=lambda number: f"/pages/run/{number}").to_dict()
        assert {row["href"] for row in rows_of(linked) if "href" in row} == {
            f"/pages/run/{n}" for n in range(11, 16)
        }
        assert any("href" in layer["encoding"] for layer in linked["layer"])
        assert "href" not in str(drawn(chart(frame)))


@pytest.mark.parametrize("ends", [(71.0, 173.0), (100.0, 7000.0), (95.0, 180.0), (3300.0, 3350.0), (0.2, 9000.0)])
def test_every_tick_of_the_logarithmic_axis_has_its_number(ends):
    rows = tuple(
        comparison("ipv6-rr", f"latency_{name}_us", *values)
        for name, values in (("p50", (ends[0], ends[0])), ("p99", (ends[1], ends[1])))
    )
    chart = drawn(charts.latency_chart(run_view(comparisons=rows)))
    ticks = encodings(chart, "x")[0]["axis"]["values"]
    assert len(ticks) >= 2
    assert all(ends[0] / 1.08 <= tick <= ends[1] * 1.08 for tick in ticks)
    picture = vl_convert.vegalite_to_svg(chart | {"width": 500})
    shown = re.findall(r">([\d,.]+)</text>", picture)
    assert len(shown) == len(ticks)
    # What was not measured is not in the legend.
    assert ("p50" in picture, "p99<" in picture, "p99.9" in picture) == (True, True, False)


@pytest.mark.parametrize(("order", "arms"), [(("on", "on"), {"on"}), (("off", "on", "off"), {"off", "on"})])
def test_latencies_of_a_run_that_has_one_arm_are_drawn_as_of_that_arm(order, arms):
    assert {row["arm"] for row in rows_of(drawn(charts.latency_chart(run_view(order=order))))} == arms


@pytest.mark.parametrize("name", ["comparison", "packets", "cpu"])
@pytest.mark.parametrize("width_px", [230, 500])
def test_ticks_across_a_chart_are_evenly_apart_and_all_have_their_number(name, width_px):
    chart = specified(name) | {"width": width_px}
    picture = vl_convert.vegalite_to_svg(chart, config=config_of("light"))
    labels = re.search(r"role-axis-label.*?</g>", picture[picture.index("X-axis") :], re.DOTALL)
    shown = [
        float(one.replace(",", "").replace("\N{MINUS SIGN}", "-"))
        for one in re.findall(r">([+\N{MINUS SIGN}\d,.]+)</text>", labels[0])
    ]
    steps = {round(after - before, 6) for before, after in itertools.pairwise(shown)}
    assert len(steps) == 1, shown
    assert len(re.findall("<text", labels[0])) == len(shown)
