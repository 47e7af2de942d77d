"""The emulated Cilium 1.18, run inside its pods: its commands, and what ``cilium-dbg`` prints.

Standard library only, because it runs under the pod's own interpreter, and little of it, because its health checks
and questions are many: ``cilium_agent.py`` has the rest.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

AGENT_PORT = 9879
"""Where the agent answers, on 127.0.0.1 of its node."""
CONFIG_DIRECTORY = "/tmp/cilium/config-map"
DEVICE = "eth0"
DROP_REASON = "CT: Map insertion failed"
"""Under which the datapath's drops are counted: one of those in Cilium's ``pkg/monitor/api/drop.go``."""

Object = dict[str, Any]


def main() -> None:
    """Run the command whose name and arguments are on the command line."""
    program, *arguments = sys.argv[1:]
    if os.environ.get("LAB_DISGUISE"):
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    match program, *arguments:
        case ["cilium-agent", *_]:
            from bigtcp_lab import cilium_agent

            cilium_agent.run()
        case ["cilium-dbg", "build-config", *_]:
            from bigtcp_lab import cilium_agent

            cilium_agent.build_config()
        case ["cilium-dbg", "status", *options]:
            status(options)
        case ["cilium-dbg", "bpf", "metrics", "list", *options]:
            list_metrics(options)
        case ["cilium-dbg", "config", "get", key]:
            get_config(key)
        case ["cilium-dbg", "config"] | ["cilium-dbg", "config", "--all" | "-a"]:
            print_config()
        case ["cilium-dbg", "version"]:
            print("Client: 1.18.3 (emulated)\nDaemon: 1.18.3 (emulated)")
        case _:
            sys.exit(f"Error: the lab's {program} does not know {' '.join(arguments)!r}")


def ask_agent(path: str) -> Object:
    """Return the agent's document at ``path``; raises OSError when it does not run or is not ready."""
    with socket.create_connection(("127.0.0.1", AGENT_PORT), timeout=5) as connection:
        return document_at(path, connection, "the Cilium agent")


def document_at(path: str, connection: socket.socket, who: str, *headers: str) -> Object:
    """Return the document that ``who``, at the other end, has at ``path``; raises OSError for another answer."""
    request = "\r\n".join([f"GET {path} HTTP/1.0", *headers, "", ""])
    connection.sendall(request.encode())
    answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise ConnectionRefusedError(f"{who} answered {b''.join(status).decode() or 'nothing'}")
    document: Object = json.loads(body)
    return document


def status(options: list[str]) -> None:
    """Print the agent's status as text, or as JSON with ``-o json``."""
    try:
        document = ask_agent("/v1/status")
    except OSError as error:
        sys.exit(f'Error: Cannot get status/probe: Get "http://localhost/v1/healthz": {error}')
    if _wants_json(options):
        print(json.dumps(document, indent=2))
        return
    nic = document["kube-proxy-replacement"]["deviceList"][0]
    routing, masquerading = document["routing"], document["masquerading"]
    lines = {
        "KVStore": document["kvstore"]["state"],
        "Kubernetes": f"{document['kubernetes']['state']}         {document['kubernetes']['msg']}",
        "KubeProxyReplacement": f"True   [{nic['name']}    {' '.join(nic['ip'])} (Direct Routing)]",
        "Host firewall": document["host-firewall"]["mode"],
        "SRv6": "Disabled",
        "CNI Chaining": document["cni-chaining"]["mode"],
        "CNI Config file": document["cni-file"]["msg"],
        "Cilium": f"{document['cilium']['state']}   {document['cilium']['msg']}",
        "Cilium health daemon": document["cluster"]["ciliumHealth"]["state"],
        "IPAM": document["ipam"]["status"],
        "IPv4 BIG TCP": _big_tcp_text(document["ipv4-big-tcp"]),
        "IPv6 BIG TCP": _big_tcp_text(document["ipv6-big-tcp"]),
        "BandwidthManager": "Disabled",
        "Routing": f"Network: {routing['inter-host-routing-mode']}   Host: {routing['intra-host-routing-mode']}",
        "Attach Mode": document["attach-mode"].upper(),
        "Device Mode": document["datapath-mode"],
        "Masquerading": f"{masquerading['mode']}   [{nic['name']}]   {masquerading['snat-exclusion-cidr-v4']}",
        "Encryption": document["encryption"]["mode"],
    }
    for name, text in lines.items():
        print(f"{name + ':':<25}{text}")


def _big_tcp_text(state: Object) -> str:
    if not state.get("enabled"):
        return "Disabled"
    sizes = [state["maxGRO"]] if state["maxGRO"] == state["maxGSO"] else [state["maxGRO"], state["maxGSO"]]
    return f"Enabled   [{', '.join(map(str, sizes))}]"


def _wants_json(options: list[str]) -> bool:
    return "json" in options or "--output=json" in options or "-ojson" in options


def list_metrics(options: list[str]) -> None:
    """Print the datapath's counters: packets and bytes of the node's NIC, in the real map's form."""
    from bigtcp_bench.in_cluster.devices import read_devices

    nic = read_devices()[DEVICE]
    entries = [
        _metric("Interface", "ingress", nic["rx_packets"], nic["rx_bytes"], 1113, "bpf_host.c"),
        _metric("Success", "egress", nic["tx_packets"], nic["tx_bytes"], 1314, "bpf_lxc.c"),
        _metric("Success", "ingress", nic["rx_packets"], nic["rx_bytes"], 2039, "bpf_lxc.c"),
    ]
    drops = dropped()
    if lost := drops.pop(DEVICE, 0):
        entries.append(_metric(DROP_REASON, "ingress", lost, 0, 2270, "bpf_lxc.c"))
    if denied := sum(drops.values()):
        entries.append(_metric("Policy denied", "ingress", denied, 0, 2082, "bpf_lxc.c"))
    if _wants_json(options):
        print(json.dumps(entries, indent=2))
        return
    print(f"{'REASON':<28}{'DIRECTION':<12}{'PACKETS':<10}{'BYTES':<15}{'LINE':<7}FILE")
    for entry in entries:
        print(
            f"{entry['reason']:<28}{entry['direction'].upper():<12}{entry['packets']:<10}{entry['bytes']:<15}"
            f"{entry['line']:<7}{entry['file']}"
        )


def dropped() -> dict[str, int]:
    """Return how many packets faults have really dropped, by device; nobody knows their bytes.

    Those that arrived on the NIC by ``cilium-drops``, those on their way to a pod by ``policy-within-node``.
    """
    import subprocess

    argv = ["tc", "-s", "-j", "qdisc", "show"]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    return {qdisc["dev"]: qdisc["drops"] for qdisc in found if qdisc["kind"] == "clsact"}


def _metric(reason: str, direction: str, packets: int, size: int, line: int, file: str) -> Object:
    return {
        "reason": reason,
        "direction": direction,
        "packets": packets,
        "bytes": size,
        "line": line,
        "file": file,
    }


def read_config() -> dict[str, str]:
    """Return the merged configuration, as the init container has left it."""
    found = {}
    for key in os.listdir(f"{CONFIG_DIRECTORY}/..data"):
        with open(f"{CONFIG_DIRECTORY}/..data/{key}", encoding="utf-8") as file:
            found[key] = file.read()
    return found


def get_config(key: str) -> None:
    """Print one value of the merged configuration."""
    try:
        print(read_config()[key])
    except KeyError:
        sys.exit(f"Error: Value not found for key {key}")


def print_config() -> None:
    """Print the whole merged configuration."""
    print("#### Read-only configurations ####")
    for key, value in sorted(read_config().items()):
        print(f"{key:<50}: {value}")
