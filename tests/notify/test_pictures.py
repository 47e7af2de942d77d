"""What is on the pictures for Slack; that they are pictures is seen where they are sent."""

from __future__ import annotations

import json

from bigtcp_bench.notify.pictures import drawing
from tests.support.incidents import revise
from tests.support.nights import CLUSTER, add_night


def test_the_trend_of_an_incident_has_bands_and_shades(warehouse, monkeypatch):
    monkeypatch.setattr("bigtcp_bench.report.charts.all.png", lambda chart: json.dumps(chart.to_dict()).encode())
    runs = [add_night(warehouse, number) for number in range(5)]
    incident = revise(warehouse, "2026-03-04", changed_on="2026-03-02").id
    series = {"scenario": "ipv4-stream-1", "metric": "throughput_bps"}
    chart = drawing(warehouse)(CLUSTER, series | {"run": runs[3], "incident": incident})
    drawn = json.loads(chart.image)
    bands = [layer for layer in drawn["layer"] if layer["mark"]["type"] == "area"]
    assert [(layer["encoding"]["y"]["field"], layer["encoding"]["y2"]["field"]) for layer in bands] == [
        ("low", "high")
    ]
    assert any(layer["mark"]["type"] == "rect" for layer in drawn["layer"])
    assert chart.title == "ipv4-stream-1 throughput, 4 nights"
