"""Agent documents and frames made of recordings, for the tests of what reads them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from bigtcp_bench.in_cluster.output import MARKER
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.readings.agent_log import Repetition, parse_log
from bigtcp_bench.readings.orders import MeasureOrders

TOKEN = "0123456789abcdef" * 2
RECORDED = Path(__file__).parent.parent / "recorded"


def recorded_iperf3(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RECORDED / f"iperf3-{name}.json").read_text())
    return document


def recorded_snapshot(name: str, limit: int) -> dict[str, Any]:
    """Return a snapshot of the files of /proc and the interface counters in ``proc-<name>.txt``."""
    parts = re.split(r"^== (.+)\n", (RECORDED / f"proc-{name}.txt").read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    counters = dict(
        re.findall(r"/sys/class/net/eth0/statistics/(\S+) (\d+)", sections["statistics"]),
    )
    limits = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
    device = {"index": 67, "kind": "veth", "mtu": 1500, **{name: int(value) for name, value in counters.items()}}
    return {
        "time_s": 1795394461.0,
        "monotonic_s": 6000.0,
        "user_hz": 100,
        "device": "eth0",
        "devices": {"eth0": {**device, **dict.fromkeys(limits, limit), "tso_max_size": 524_280}},
        **{
            name: sections[path]
            for name, path in {
                "proc_stat": "/proc/stat",
                "snmp": "/proc/net/snmp",
                "snmp6": "/proc/net/snmp6",
                "netstat": "/proc/net/netstat",
                "softnet_stat": "/proc/net/softnet_stat",
            }.items()
        },
    }


def recorded_document(arm: str) -> dict[str, Any]:
    """Return the document of the recorded one-stream run over IPv4 in ``arm``."""
    limit = 196_608 if arm == "on" else 65_536
    return {
        **{
            end: {when: recorded_snapshot(f"{end}-{when}-{arm}", limit) for when in ("before", "after")}
            for end in ("client", "server")
        },
        "iperf3": recorded_iperf3(f"ipv4-p1-{arm}"),
    }


def frame(kind: str, document: dict[str, Any] | None = None, **fields: Any) -> str:
    """Return one frame as the agent prints it, without the newline."""
    content: dict[str, Any] = {"v": 1, "kind": kind, **fields}
    if document is not None:
        content["doc"] = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
    return MARKER + json.dumps(content)


def repetition_frame(
    document: dict[str, Any], scenario: str = "ipv4-stream-1", repetition: int = 1, **fields: Any
) -> str:
    key = {"run_key": "dag/run", "block": 1, "arm": "on", "generation": 1, "repetition": repetition}
    what = SCENARIOS[scenario].model_dump()
    what["scenario"] = what.pop("name")
    return frame(
        "repetition", document, **{**key, **what, "started_s": 1.0, "elapsed_s": 7.0, "error": None, **fields}
    )


def repetition(document: dict[str, Any], scenario: str = "ipv4-stream-1", **fields: Any) -> Repetition:
    log = parse_log(repetition_frame(document, scenario, **fields))
    assert log.damaged == []
    (found,) = log.repetitions
    return found


def orders(**fields: Any) -> MeasureOrders:
    defaults: dict[str, Any] = {
        "token": TOKEN,
        "run_key": "dag/run",
        "block": 1,
        "arm": "on",
        "generation": 1,
        "server": {"ipv4": "10.244.1.208", "ipv6": "fd44:0:0:1::eabb"},
        "scenarios": [SCENARIOS["ipv4-stream-1"]],
        "repetitions": 1,
        "duration_s": 5,
        "omit_s": 1,
        "rate_bps": 1_000_000_000,
        "request_bytes": 80_000,
    }
    return MeasureOrders.model_validate({**defaults, **fields})
