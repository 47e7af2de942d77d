from __future__ import annotations

from bigtcp_bench.report.verdict import verdict_lines
from bigtcp_bench.report.view import Proof, RestoreView
from tests.report.views import CAUSES, run_view


def test_a_run_is_told_in_ten_lines_headline_first():
    lines = verdict_lines(run_view(emulated=True))
    assert len(lines) <= 10
    assert lines[0].startswith("lab: VALID · helps 1, worse 1")
    figures = [line for line in lines if " → " in line]
    one = " ".join(figures[0].split())
    assert one == "ipv4-stream-1 throughput 14.2 Gbit/s → 24.1 Gbit/s +69.7 % [+65.7, +73.7] better"
    assert len({line.index(" → ") for line in figures}) == 1
    assert (
        "proof of effect: packets of 149,876 B or more on the average with BIG TCP on, of at most 59,012 B"
        in (lines[-3])
    )
    assert lines[-2].startswith("restore: verified; the run took 3 min 48 s, 2 min 24 s of it traffic")
    assert "emulated Kubernetes and Cilium" in lines[-1]


def test_what_is_wrong_is_told_first():
    lines = verdict_lines(
        run_view(
            status="invalid",
            reasons=("packets stayed below 65,536 B",),
            causes=CAUSES,
            comparisons=(),
            proofs=(Proof("ipv4-stream-1", "on", 60_000.0, 60_000.0, 4, required=True),),
            restore=RestoreView("not_verified", "eth0 of node2"),
        )
    )
    assert lines[0].startswith("lab: RESTORE NOT VERIFIED · eth0 of node2 · first run the DAG bigtcp_restore")
    assert [line.split(": ")[1] for line in lines if line.startswith("likely cause")] == [
        "cilium-drops",
        "receiver-cpu",
        "steal",
    ]
    assert "proof of effect: NOT PROVEN: ipv4-stream-1, arm on" in lines
    assert "restore: NOT VERIFIED" in lines[-1]
