"""The emulated Cilium 1.18: its agent, its init container and ``cilium-dbg``, run inside its pods.

Standard library only, because it runs under the pod's own interpreter. What is real: the configuration is read
from the API and merged as ``cilium-dbg build-config`` does, at pod creation only; the agent sets the limits of its
node's ``eth0`` and offers the same to the pods created from then on; counters are the devices' own. Everything
else that ``status`` prints is what a real agent said once.

The behaviour with settings that cannot work is that of 1.18 (its ``bigtcp.go``): a setting that contradicts BIG
TCP ends the agent at its start; a kernel or NIC that cannot is a warning, and the status still says ``Enabled``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bigtcp_bench.in_cluster.devices import device_limits, read_devices
from bigtcp_lab.api.selectors import matches_label_selector
from bigtcp_lab.netlink import DEFAULT_SIZE, Limits, set_limits

AGENT_PORT = 9879
"""Where the agent answers, on 127.0.0.1 of its node."""
BIG_SIZE = 196608
"""What Cilium raises the limits to: a constant in its source (192 KiB)."""
CONFIG_DIRECTORY = Path("/tmp/cilium/config-map")
FAULTS_FILE = Path("/.lab/faults/active")
"""Names of this node's faults, one per line; kept up to date by the lab."""
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_STATUS_TEMPLATE = Path(__file__).with_name("cilium-status.json")
_DEVICE = "eth0"
DROP_REASON = "CT: Map insertion failed"
"""Under which the datapath's drops are counted: one of those in Cilium's ``pkg/monitor/api/drop.go``."""
_FAMILIES = {"ipv6": "6", "ipv4": "4"}

Object = dict[str, Any]


def main() -> None:
    """Run the command whose name and arguments are on the command line."""
    program, *arguments = sys.argv[1:]
    match program, *arguments:
        case ["cilium-agent", *_]:
            run_agent()
        case ["cilium-dbg", "build-config", *_]:
            build_config()
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


def _log(message: str, subsystem: str, level: str = "info", **fields: object) -> None:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
    text = json.dumps(message) if " " in message else message
    rest = "".join(f" {key}={value}" for key, value in fields.items())
    print(f"time={stamp} level={level} msg={text} subsys={subsystem}{rest}", file=sys.stderr, flush=True)


# The init container


def _api(path: str) -> Object:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    token = (_ACCOUNT / "token").read_text(encoding="ascii")
    request = urllib.request.Request(f"https://{host}:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    trusted = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:
        document: Object = json.load(answer)
        return document


def build_config() -> None:
    """Merge ``cilium-config`` and the CiliumNodeConfigs of this node into one file per key."""

    def log(message: str, **fields: object) -> None:
        _log(message, "cilium-dbg", "info", **fields)

    namespace = os.environ["CILIUM_K8S_NAMESPACE"]
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    log("Running")
    log("Establishing connection to apiserver", module="k8s-client", ipAddr=f"https://{host}:{port}")
    labels = _api(f"/api/v1/nodes/{os.environ['K8S_NODE_NAME']}")["metadata"].get("labels") or {}
    log("Connected to apiserver", module="k8s-client")
    sources = [
        (
            f'"{{Kind:config-map Namespace:{namespace} Name:cilium-config}}"',
            lambda: [_api(f"/api/v1/namespaces/{namespace}/configmaps/cilium-config").get("data") or {}],
        ),
        (
            f'"{{Kind:cilium-node-config Namespace:{namespace} Name:}}"',
            lambda: _node_overrides(namespace, labels),
        ),
    ]
    merged: dict[str, str] = {}
    for name, read in sources:
        log("Reading configuration from source", module="build-config", configSource=name)
        found: dict[str, str] = {}
        for settings in read():
            found |= settings
        log("Got configuration source", module="build-config", lenConfigPairs=len(found), configSource=name)
        for key in found:
            if key in merged:
                log("Source overrides key", module="build-config", configKey=key, configSource=name)
        merged |= found
    _write_config(merged)


def _write_config(merged: dict[str, str]) -> None:
    """Write a file for each key, as Cilium does, and a kubelet for a ConfigMap: behind two symbolic links."""
    data = CONFIG_DIRECTORY / f"..data_{int(time.time())}"
    data.mkdir(parents=True, exist_ok=True)
    (CONFIG_DIRECTORY / "..data").symlink_to(data.name)
    for key, value in merged.items():
        (data / key).write_text(value, encoding="utf-8")
        (CONFIG_DIRECTORY / key).symlink_to(f"..data/{key}")


def _node_overrides(namespace: str, labels: dict[str, str]) -> list[dict[str, str]]:
    """Return the settings of the CiliumNodeConfigs that select this node, in name order."""
    found = _api(f"/apis/cilium.io/v2/namespaces/{namespace}/ciliumnodeconfigs")["items"]
    found.sort(key=lambda each: each["metadata"]["name"])
    selected = [each for each in found if matches_label_selector(each["spec"].get("nodeSelector"), labels)]
    return [each["spec"].get("defaults") or {} for each in selected]


# The agent


def _read_config() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (CONFIG_DIRECTORY / "..data").iterdir()}


def _has_fault(name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return name in FAULTS_FILE.read_text(encoding="ascii").split()
    return False


def contradictions(config: dict[str, str]) -> str:
    """Return why BIG TCP cannot be enabled with this configuration, or an empty string."""
    if config.get("routing-mode") == "tunnel":
        return "BIG TCP is not supported in tunneling mode"
    if config.get("enable-ipsec") == "true":
        return "BIG TCP is not supported with encryption enabled"
    if config.get("enable-host-legacy-routing") == "true":
        return "BIG TCP is not supported with legacy host routing"
    return ""


def big_tcp_limits(config: dict[str, str], found: dict[str, dict[str, int]]) -> tuple[Limits, list[str]]:
    """Return the limits for this configuration on devices as ``found``, and the warnings that explain them.

    ``found`` is device → limits as the kernel reports them, with ``lo`` and the node's NIC.
    """
    warnings = []
    sizes = {}
    ceiling = found[_DEVICE].get("tso_max_size", DEFAULT_SIZE)
    for family, digit in _FAMILIES.items():
        marker = "gso_ipv4_max_size" if family == "ipv4" else "tso_max_size"
        sizes[family] = DEFAULT_SIZE
        if config.get(f"enable-{family}-big-tcp") != "true":
            continue
        if not found["lo"].get(marker):
            needed = {"ipv4": "6.3", "ipv6": "5.19"}[family]
            warnings.append(f"Cannot enable --enable-{family}-big-tcp, needs kernel {needed} or newer")
        elif ceiling <= DEFAULT_SIZE:
            warnings.append(f"Could not modify IPv{digit} gro_max_size and gso_max_size, disabling BIG TCP")
        else:
            sizes[family] = min(BIG_SIZE, ceiling)
    return Limits(sizes["ipv6"], sizes["ipv6"], sizes["ipv4"], sizes["ipv4"]), warnings


def run_agent() -> None:
    """Set the node's limits as configured, then answer on ``AGENT_PORT`` until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    config = _read_config()
    wanted = [family for family in _FAMILIES if config.get(f"enable-{family}-big-tcp") == "true"]
    if wanted and (problem := contradictions(config)):
        _log(f"failed to start: {problem}", "daemon", "fatal")
        sys.exit(1)
    limits, warnings = big_tcp_limits(config, device_limits())
    for warning in warnings:
        _log(warning, "big-tcp", "warn")
    offered = limits
    if _has_fault("setting-ignored"):
        offered = Limits()
    else:
        set_limits(_DEVICE, limits)
    for family, digit in _FAMILIES.items():
        if family in wanted:
            size = limits.gso_max_size if family == "ipv6" else limits.gso_ipv4_max_size
            _log(f"Setting IPv{digit}", "big-tcp", device=_DEVICE, gsoMaxSize=size, groMaxSize=size)
    state = {
        "/healthz": {"status": "ok"},
        "/v1/config": vars(offered),
        "/v1/status": _status_document(config, limits),
    }
    server = ThreadingHTTPServer(("127.0.0.1", AGENT_PORT), _handler(state))
    _log("Daemon initialization completed", "daemon")
    server.serve_forever()


def _handler(state: dict[str, Object]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET requests from ``state``; one that never gets ready answers 503 to all but its status."""

        def do_GET(self) -> None:
            """Send the document of this path."""
            document = state.get(self.path)
            unready = self.path != "/v1/status" and _has_fault("agent-never-ready")
            body = json.dumps(document or {}).encode()
            self.send_response(404 if document is None else 503 if unready else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log no requests: probes would fill the agent's log."""

    return Handler


def _status_document(config: dict[str, str], limits: Limits) -> Object:
    """Return what ``cilium-dbg status -o json`` prints; ``enabled`` is the request, absent when there is none."""
    document: Object = json.loads(_STATUS_TEMPLATE.read_text(encoding="utf-8"))
    devices = read_devices()
    addresses = devices["br0"]["addresses"]  # the lab's eth0 is a port of this bridge
    document["cluster"]["self"] = f"{config.get('cluster-name', 'lab')}/{os.environ['K8S_NODE_NAME']}"
    document["kube-proxy-replacement"]["deviceList"] = [{"ip": addresses, "name": _DEVICE}]
    document["routing"] = {
        "inter-host-routing-mode": "Tunnel" if config.get("routing-mode") == "tunnel" else "Native",
        "intra-host-routing-mode": "BPF" if config.get("enable-bpf-masquerade") == "true" else "Legacy",
    }
    for family in _FAMILIES:
        size = limits.gso_max_size if family == "ipv6" else limits.gso_ipv4_max_size
        enabled = config.get(f"enable-{family}-big-tcp") == "true"
        sizes = {"maxGRO": size, "maxGSO": size}
        document[f"{family}-big-tcp"] = {"enabled": True, **sizes} if enabled else sizes
    return document


def ask_agent(path: str) -> Object:
    """Return the agent's document at ``path``; raises OSError when it does not run or is not ready."""
    connection = http.client.HTTPConnection("127.0.0.1", AGENT_PORT, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ConnectionRefusedError(f"the Cilium agent answered {answer.status}")
        document: Object = json.load(answer)
        return document
    finally:
        connection.close()


# cilium-dbg


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
    nic = read_devices()[_DEVICE]
    entries = [
        _metric("Interface", "ingress", nic["rx_packets"], nic["rx_bytes"], 1113, "bpf_host.c"),
        _metric("Success", "egress", nic["tx_packets"], nic["tx_bytes"], 1314, "bpf_lxc.c"),
        _metric("Success", "ingress", nic["rx_packets"], nic["rx_bytes"], 2039, "bpf_lxc.c"),
    ]
    drops = dropped()
    if lost := drops.pop(_DEVICE, 0):
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


def get_config(key: str) -> None:
    """Print one value of the merged configuration."""
    try:
        print((CONFIG_DIRECTORY / Path(key).name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"Error: Value not found for key {key}")


def print_config() -> None:
    """Print the whole merged configuration."""
    print("#### Read-only configurations ####")
    for key, value in sorted(_read_config().items()):
        print(f"{key:<50}: {value}")


if __name__ == "__main__":
    main()
