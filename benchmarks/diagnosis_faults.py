"""Which cause a diagnosis names for each fault of the lab, and that it names no other.

Usage: ``python -m benchmarks.diagnosis_faults [--record FOLDER] [FAULT …]``. Starts one lab and runs the DAG on it
once without a fault and once with each, as the end-to-end tests do; prints two Markdown tables, of faults and
causes and of what was said. ``--record`` keeps the evidence of each run as JSON. A machine that has other work is
a noisy neighbour too, but none of the lab's: what it does is measured just before and after each run, and marked.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

# Airflow reads its settings when it is first imported, so its home is chosen before anything imports it.
_FOLDER = Path(tempfile.mkdtemp(prefix="bigtcp-diagnosis-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": str(_FOLDER / "airflow"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).resolve().parent.parent / "dags"),
}

from tests.e2e.runs import Finished, Installation, impatient_sleep, install  # noqa: E402

from bigtcp_bench.analysis.diagnosis import CAUSES, Cause, Evidence, diagnose  # noqa: E402
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S  # noqa: E402
from bigtcp_bench.judging.causes import evidence_of  # noqa: E402
from bigtcp_bench.readings.cpu import busy_share  # noqa: E402
from bigtcp_lab import administrator, daemon  # noqa: E402

#: Fault → the cause that it produces.
WANTED = {
    "": None,
    "nic-65536:node2": "nic-limit",
    "setting-ignored:node2": "setting-not-effective",
    "ip-forwarding-hop": "too-big-at-a-hop",
    "outer-veth-64k:node2": "segmented-on-the-way",
    "cilium-drops:node2": "cilium-drops",
    "cpu-limit:node2": "throttled",
    "stolen-cpu:node2": "steal",
    "noisy-neighbour": "noisy-neighbour",
    "crowded-cpu:node2": "receiver-cpu",
    "lossy-path:node2": "retransmits",
}
#: What the tests' own plan is changed in: streams alone, for long enough to be seen half-way.
PARAMS = {"scenarios": ["ipv4-stream-1", "ipv6-stream-1"], "duration_s": 2}
#: A fault that is switched while the lab runs takes this long to act at most.
_SETTLE_S = 1.0

#: From when on other work counts: where the cause is named.
BUSY_SHARE = 0.5

_sleep = time.sleep


@dataclass(frozen=True)
class Said:
    """What came of one run: its status, its causes, and the share of CPU time that other work used."""

    status: str
    causes: Sequence[Cause]
    other_work: float


def run_with(installation: Installation, lab: Path, fault: str) -> tuple[Finished, Evidence]:
    """Run the DAG to its end with one fault switched on, or none; return its row and the evidence of it."""
    if fault:
        daemon.set_fault(lab, fault, True)
        _sleep(_SETTLE_S)
    try:
        finished = installation.run(**PARAMS)
    finally:
        if fault:
            daemon.set_fault(lab, fault, False)
            _sleep(_SETTLE_S)
    return finished, evidence_of(installation.warehouse, finished.number)


def other_work() -> float:
    """Return the share of this machine's CPU time that is used while no fault is on and nothing is measured."""
    stat = Path("/proc/stat")
    before = stat.read_text(encoding="ascii")
    _sleep(LOAD_SAMPLE_S)
    return busy_share(before, stat.read_text(encoding="ascii")) or 0.0


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="folder for the evidence, one JSON file for each fault")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="only these (default: all, and none)")
    options = parser.parse_args()
    time.sleep = impatient_sleep
    lab = _FOLDER / "lab"
    info = daemon.up(lab, owner=os.getpid())
    said: dict[str, Said] = {}
    try:
        administrator.apply_manifests(info.kubeconfig)
        installation = install(_FOLDER, info.kubeconfig)
        for fault in options.faults or WANTED:
            load = other_work()
            finished, evidence = run_with(installation, lab, fault)
            said[fault] = Said(finished.row["status"], diagnose(evidence), max(load, other_work()))
            names = ", ".join(cause.name for cause in said[fault].causes) or "no cause"
            print(f"{fault or 'no fault'}: {said[fault].status}, {names}", file=sys.stderr, flush=True)
            if options.record:
                options.record.mkdir(parents=True, exist_ok=True)
                name = fault.partition(":")[0] or "no-fault"
                text = TypeAdapter(Evidence).dump_json(evidence, indent=1, exclude_none=True)
                (options.record / f"{name}.json").write_bytes(text + b"\n")
    finally:
        daemon.down(lab)
    print_matrix(said)
    print("\n| fault | the run is | other work | what the diagnosis says |\n|---|---|---|---|")
    for fault, one in said.items():
        lines = "<br>".join(f"**{cause.name}**: {cause.sentence}" for cause in one.causes) or "no cause"
        print(f"| {_name(fault)} | {one.status} | {one.other_work:.0%} | {lines} |")


def print_matrix(said: Mapping[str, Said]) -> None:
    """Print which causes were named: ● the wanted one, ○ the machine's other work, ✗ one that is not there."""
    print(f"| fault | {' | '.join(CAUSES)} |\n|---|{'---|' * len(CAUSES)}")
    for fault, one in said.items():
        names = {cause.name for cause in one.causes}
        cells = [_mark(cause, fault, one) if cause in names else " " for cause in CAUSES]
        print(f"| {_name(fault)} | {' | '.join(cells)} |")


def _mark(cause: str, fault: str, one: Said) -> str:
    if cause == WANTED.get(fault):
        return "●"
    return "○" if cause == "noisy-neighbour" and one.other_work > BUSY_SHARE else "✗"


def _name(fault: str) -> str:
    return f"`{fault}`" if fault else "none"


if __name__ == "__main__":
    main()
