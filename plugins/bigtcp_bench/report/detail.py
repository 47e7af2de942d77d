"""What a run's page shows beyond its RunView: blocks, settings, conditions, checks, counters, repetitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bigtcp_bench.in_cluster.treatment import ALL_LIMITS, FAMILIES
from bigtcp_bench.planning.thresholds import thresholds_of
from bigtcp_bench.report import units
from bigtcp_bench.report.preflight import stored_checks

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.cluster.checks import Check
    from bigtcp_bench.report.stored import StoredRun

#: Counters that a reader looks at first; the others are behind a fold.
FIRST_COUNTERS = (
    "snmp/TcpRetransSegs",
    "netstat/TcpExtTCPTimeouts",
    "netstat/TcpExtTCPLostRetransmit",
    "snmp6/Ip6InTooBigErrors",
    "snmp6/Ip6OutFragFails",
    "snmp/IpFragFails",
    "softnet/dropped",
    "softnet/time_squeeze",
    "cpu/user_s",
    "cpu/system_s",
    "cpu/softirq_s",
    "cpu/steal_s",
)


@dataclass(frozen=True)
class BlockView:
    """A block as it was carried out; ``restarted`` says whether an agent was restarted for it."""

    number: int
    arm: str
    purpose: str
    started: datetime | None
    finished: datetime | None
    restarted: bool | None

    @property
    def duration_s(self) -> float | None:
        """Return the seconds from begin to end, or None while either is unknown."""
        if self.started is None or self.finished is None:
            return None
        return (self.finished - self.started).total_seconds()


@dataclass(frozen=True)
class Setting:
    """What was in force on one node at one time: BIG TCP by family, and the limits of one device in bytes.

    None stands for what nobody read.
    """

    when: str
    node: str
    enabled: Mapping[str, bool | None]
    device: str | None
    limits: Mapping[str, int | None]


@dataclass(frozen=True)
class CounterView:
    """How much one counter of one node grew in each block, by block; None where it was not read."""

    node: str
    counter: str
    grown: tuple[float | None, ...]


@dataclass(frozen=True)
class RunDetail:
    """The details of one run. ``results`` and ``packet_sizes`` are frames as ``Warehouse`` returns them."""

    blocks: tuple[BlockView, ...]
    settings: tuple[Setting, ...]
    conditions: tuple[tuple[str, str], ...]
    cilium_config: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    checks: tuple[Check, ...]
    failures: tuple[Mapping[str, Any], ...]
    counters: tuple[CounterView, ...]
    results: pd.DataFrame
    packet_sizes: pd.DataFrame

    @classmethod
    def of(cls, stored: StoredRun) -> RunDetail:
        """Return the details of the run ``stored``."""
        warehouse, number, row = stored.warehouse, stored.number, stored.row
        blocks = stored.blocks.to_dict("records")
        failures: Any = warehouse.failures_frame(number).to_dict("records")
        return cls(
            blocks=tuple(map(_block, blocks)),
            settings=tuple(_settings(row["restore_result"] or {}, blocks)),
            conditions=tuple((label, str(text)) for label, text in _conditions(row) if text not in (None, "")),
            cilium_config=row["cilium_config"] or {},
            thresholds=thresholds_of(row["plan"]).model_dump() if (row["plan"] or {}).get("thresholds") else {},
            checks=tuple(stored_checks(row)),
            failures=tuple(dict(failure) for failure in failures),
            counters=tuple(_counters(warehouse.counters_frame(number), [block["block"] for block in blocks])),
            results=stored.results,
            packet_sizes=stored.packet_sizes,
        )

    @property
    def first_counters(self) -> tuple[CounterView, ...]:
        """Return those counters that a reader looks at first, and every one that counts drops or errors."""
        return tuple(
            one
            for one in self.counters
            if one.counter in FIRST_COUNTERS or one.counter.endswith(("_dropped", "_errors"))
        )


def _block(row: Mapping[Any, Any]) -> BlockView:
    report = row["switch_report"] or {}
    return BlockView(
        number=row["block"],
        arm=row["arm"],
        purpose=row["purpose"],
        started=_moment(row["started_at"]),
        finished=_moment(row["finished_at"]),
        restarted=report.get("restarted"),
    )


def _moment(value: Any) -> datetime | None:
    import pandas as pd

    return None if pd.isna(value) else value.to_pydatetime()


def _settings(restore: Mapping[str, Any], blocks: list[dict[Any, Any]]) -> list[Setting]:
    """Return what was in force before the run, in each block and after the restore, node by node."""
    restored: Mapping[str, Any] = restore.get("nodes") or {}
    times: list[tuple[str, Mapping[str, Any], str]] = [("before the run", restored, "wanted")]
    for block in blocks:
        nodes = (block["switch_report"] or {}).get("nodes") or {}
        times.append((f"block {block['block']}, {block['arm']}", nodes, "merged"))
    times.append(("after the restore", restored, "merged"))
    found = []
    for when, nodes, name in times:
        for node, proof in nodes.items():
            merged = proof.get(name) or {}
            # What the devices said before the run is not kept: only what was wanted back.
            limits = {} if name == "wanted" else proof.get("limits") or {}
            device = next(iter(limits), None)
            found.append(
                Setting(
                    when=when,
                    node=node,
                    enabled={family: merged.get(family) for family in FAMILIES},
                    device=device,
                    limits={limit: (limits[device] if device else {}).get(limit) for limit in ALL_LIMITS},
                )
            )
    return found


def _conditions(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    environment, plan = row["environment"] or {}, row["plan"] or {}
    images, tools = row["images"] or {}, row["tool_versions"] or {}
    tso = row["nic_tso_max_size"]
    pair = environment.get("pair") or {}
    nodes = [
        (f"{role} node", ", ".join(filter(None, (row[f"{role}_node"], _node_text(pair.get(role) or {})))))
        for role in ("client", "server")
        if row[f"{role}_node"]
    ]
    return [
        *nodes,
        ("kernel", " and ".join(dict.fromkeys(filter(None, (row["client_kernel"], row["server_kernel"]))))),
        ("NIC driver", row["nic_driver"]),
        ("NIC's largest segment", units.byte_count(tso) if tso else None),
        ("MTU", units.byte_count(row["mtu"]) if row["mtu"] else None),
        ("Cilium", row["cilium_version"]),
        ("Cilium image", images.get("cilium")),
        ("Kubernetes", environment.get("kubernetes_version")),
        ("benchmark image", plan.get("image")),
        ("iperf3", row["iperf3_version"]),
        ("other tools", _tools_text({name: text for name, text in tools.items() if name != "iperf3"})),
        ("bigtcp-bench", row["package_version"]),
    ]


def _tools_text(tools: Mapping[str, str | None]) -> str:
    """Return what the tools that are there say of their versions, each with its name."""
    return "; ".join(text if name in text else f"{name} {text}" for name, text in tools.items() if text)


def _node_text(node: Mapping[str, Any]) -> str:
    memory = node.get("memory_bytes")
    parts = (
        node.get("os_image"),
        node.get("architecture"),
        f"{node['cpu']:g} CPUs" if node.get("cpu") else None,
        f"{memory / 2**30:.1f} GiB" if memory else None,
        f"kubelet {node['kubelet_version']}" if node.get("kubelet_version") else None,
        f"zone {node['zone']}" if node.get("zone") else None,
    )
    return ", ".join(filter(None, parts))


def _counters(frame: pd.DataFrame, blocks: list[int]) -> list[CounterView]:
    wide = frame.pivot_table(index=["node", "counter"], columns="block", values="value").reindex(columns=blocks)
    return [
        CounterView(str(node), str(counter), tuple(None if value != value else float(value) for value in values))
        for (node, counter), values in zip(wide.index, wide.to_numpy(dtype=float), strict=True)
    ]
