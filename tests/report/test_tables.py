"""A frame as people read it: units, per cents, words, folded to the width."""

from __future__ import annotations

import pandas as pd

from bigtcp_bench.report.tables import by_night, frame_text, newest_first

NIGHTS = pd.DataFrame(
    [
        ("ipv4-stream-1", night, arm, value, "bit/s", 0.25, 0.201, 0.3, "faster", "1.18.3", run)
        for run, night in ((1, "2026-03-01"), (2, "2026-03-02"))
        for arm, value in (("off", 2e10), ("on", 2.5e10))
    ],
    columns=[
        "scenario",
        "night",
        "arm",
        "value",
        "unit",
        "change",
        "ci_low",
        "ci_high",
        "verdict",
        "cilium_version",
        "run",
    ],
)


def test_a_night_is_a_row_in_words_and_units() -> None:
    frame, left_out = newest_first(by_night(NIGHTS), 1)
    assert left_out == "the newest 1 of 2 nights; --nights says how many"
    names, row = (line.split("  ") for line in frame_text(frame, 120).splitlines()[:2])
    assert [cell.strip() for cell in names if cell.strip()] == [
        *("scenario", "night", "off", "on", "change", "verdict", "cilium version", "run")
    ]
    assert [cell.strip() for cell in row if cell.strip()] == [
        *("ipv4-stream-1", "2026-03-02", "20.0 Gbit/s", "25.0 Gbit/s", "+25.0 % [+20.1, +30.0]"),
        *("better", "1.18.3", "2"),
    ]


def test_it_fits_80_columns_and_says_once_what_is_the_same_everywhere() -> None:
    lines = frame_text(newest_first(by_night(NIGHTS), None)[0], 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("ipv4-stream-1 2026-03-02 ")
    assert "better" in lines[1]
    said = " ".join(" ".join(lines).split())
    assert "In all rows: cilium version 1.18.3. Left out in this width: run. change: on against off" in said


def test_nothing_is_cut_or_broken_and_metrics_have_their_names_for_people() -> None:
    metrics = ["cpu_s_per_gb_receiver", "throughput_bps"]
    columns = ("repetition_sd", "generation_sd", "switch_sd", "detects", "would_detect")
    sizes = dict.fromkeys(columns, 0.243)
    noise = pd.DataFrame(
        [
            {
                "scenario": "ipv6-stream-1",
                "metric": one,
                **sizes,
                "order": "off,on",
                "generations": 20,
                "repetitions": 1,
            }
            for one in metrics
        ]
    )
    for width in (80, 120):
        lines = frame_text(noise, width).splitlines()
        assert max(map(len, lines)) <= width
        assert [line.split()[:3] for line in lines if line.startswith("ipv6")] == [
            ["ipv6-stream-1", "CPU", "receiver"],
            ["ipv6-stream-1", "throughput", "24.3"],
        ]
        assert "In all rows: order off,on." in " ".join(lines)


def test_the_history_of_incidents_fits_80_columns() -> None:
    incidents = pd.DataFrame(
        {
            "cluster": "lab",
            "incident": [6],
            "state": ["new-normal"],
            "attribution": ["infrastructure"],
            "changed_on": ["2026-11-09"],
            "suspected_on": ["2026-11-09"],
            "confirmed_on": ["2026-11-11"],
            "closed_on": ["2026-12-01"],
            "acknowledged_at": [None],
            "acknowledged_by": [None],
            "acknowledged_note": [None],
            "open_days": [22],
            "series": [11],
            "scenarios": ["ipv4-stream-1,ipv6-stream-1,ipv6-rr"],
            "metrics": ["throughput_bps,cpu_s_per_gb_sender"],
            "lowest_change": [-0.0875],
            "highest_change": [0.0863],
        }
    )
    lines = frame_text(incidents, 80).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if "2026-11-09" in line]
    assert row.split()[-2:] == ["−8.8", "%"]
    said = " ".join(" ".join(lines).split())
    assert "Left out in this width: confirmed, metrics, days, of series" in said
    wide = frame_text(incidents, 160)
    assert "throughput" in wide
    assert "known to" not in wide


def test_text_from_outside_stays_one_row() -> None:
    frame = pd.DataFrame({"night": ["2026-03-01"], "note": ["two\nlines \x1b[31m"], "change": [None]})
    assert frame_text(frame, 80).splitlines()[1] == "2026-03-01 two lines [31m      –"
    assert frame_text(frame.head(0), 80) == "no rows\n"
