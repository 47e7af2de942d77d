"""The emulated Cilium 1.18's agent and its init container, run inside its pods (standard library only).

What is real: the configuration is read from the API and merged as ``cilium-dbg build-config`` does, at pod
creation only; the agent sets the limits of its node's ``eth0`` and offers the same to the pods created from then
on; counters are the devices' own. Everything else that ``status`` prints is what a real agent said once.

The behaviour with settings that cannot work is that of 1.18 (its ``bigtcp.go``): a setting that contradicts BIG
TCP ends the agent at its start; a kernel or NIC that cannot is a warning, and the status still says ``Enabled``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bigtcp_bench.in_cluster.devices import device_limits, read_devices
from bigtcp_lab.api.selectors import matches_label_selector
from bigtcp_lab.cilium import AGENT_PORT, CONFIG_DIRECTORY, DEVICE, Object, document_at, read_config
from bigtcp_lab.netlink import DEFAULT_SIZE, Limits, set_limits

BIG_SIZE = 196608
"""What Cilium raises the limits to: a constant in its source (192 KiB)."""
FAULTS_FILE = Path("/.lab/faults/active")
"""Names of this node's faults, one per line; kept up to date by the lab."""
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Read at once: in its container the agent has another folder than the one that this was imported from.
_STATUS_TEMPLATE = Path(__file__).with_name("cilium-status.json").read_text(encoding="utf-8")
_FAMILIES = {"ipv6": "6", "ipv4": "4"}


def _log(message: str, subsystem: str, level: str = "info", **fields: object) -> None:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
    text = json.dumps(message) if " " in message else message
    rest = "".join(f" {key}={value}" for key, value in fields.items())
    print(f"time={stamp} level={level} msg={text} subsys={subsystem}{rest}", file=sys.stderr, flush=True)


# The init container


def _api(path: str) -> Object:
    # The agent itself has no use for it.
    import ssl

    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    token = (_ACCOUNT / "token").read_text(encoding="ascii")
    trusted = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        trusted.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return document_at(path, connection, "the API", f"Host: {host}:{port}", f"Authorization: Bearer {token}")


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
    directory = Path(CONFIG_DIRECTORY)
    data = directory / f"..data_{int(time.time())}"
    data.mkdir(parents=True, exist_ok=True)
    (directory / "..data").symlink_to(data.name)
    for key, value in merged.items():
        (data / key).write_text(value, encoding="utf-8")
        (directory / key).symlink_to(f"..data/{key}")


def _node_overrides(namespace: str, labels: dict[str, str]) -> list[dict[str, str]]:
    """Return the settings of the CiliumNodeConfigs that select this node, in name order."""
    found = _api(f"/apis/cilium.io/v2/namespaces/{namespace}/ciliumnodeconfigs")["items"]
    found.sort(key=lambda each: each["metadata"]["name"])
    selected = [each for each in found if matches_label_selector(each["spec"].get("nodeSelector"), labels)]
    return [each["spec"].get("defaults") or {} for each in selected]


# The agent


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
    ceiling = found[DEVICE].get("tso_max_size", DEFAULT_SIZE)
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


def run() -> None:
    """Set the node's limits as configured, then answer on ``AGENT_PORT`` until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    config = read_config()
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
        set_limits(DEVICE, limits)
    for family, digit in _FAMILIES.items():
        if family in wanted:
            size = limits.gso_max_size if family == "ipv6" else limits.gso_ipv4_max_size
            _log(f"Setting IPv{digit}", "big-tcp", device=DEVICE, gsoMaxSize=size, groMaxSize=size)
    state = {
        "/healthz": {"status": "ok"},
        "/v1/config": vars(offered),
        "/v1/status": _status_document(config, limits),
    }
    server = _Server(("127.0.0.1", AGENT_PORT), _handler(state))
    _log("Daemon initialization completed", "daemon")
    server.serve_forever()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _handler(state: dict[str, Object]) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """Answers GET requests from ``state``; one that never gets ready answers 503 to all but its status.

        ``http.server`` would take longer to import than an agent lives in most tests.
        """

        timeout = 5

        def handle(self) -> None:
            """Send the document of the path that is asked for, and hang up."""
            _, _, rest = self.rfile.readline().decode(errors="replace").partition(" ")
            path = rest.partition(" ")[0]
            while self.rfile.readline().strip():
                pass
            document = state.get(path)
            unready = path != "/v1/status" and _has_fault("agent-never-ready")
            code = "404 Not Found" if document is None else "503 Service Unavailable" if unready else "200 OK"
            body = json.dumps(document or {})
            head = f"HTTP/1.0 {code}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write((head + body).encode())

    return Handler


def _status_document(config: dict[str, str], limits: Limits) -> Object:
    """Return what ``cilium-dbg status -o json`` prints; ``enabled`` is the request, absent when there is none."""
    document: Object = json.loads(_STATUS_TEMPLATE)
    devices = read_devices()
    addresses = devices["br0"]["addresses"]  # the lab's eth0 is a port of this bridge
    document["cluster"]["self"] = f"{config.get('cluster-name', 'lab')}/{os.environ['K8S_NODE_NAME']}"
    document["kube-proxy-replacement"]["deviceList"] = [{"ip": addresses, "name": DEVICE}]
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
