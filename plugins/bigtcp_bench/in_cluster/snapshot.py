"""What one end counts and is: raw, never interpreted."""

from __future__ import annotations

import os
import platform
import socket
import time

from bigtcp_bench.in_cluster.children import output_of
from bigtcp_bench.in_cluster.devices import device_limits, read_devices
from bigtcp_bench.in_cluster.output import Json

TEXT_FILES = {
    "proc_stat": "/proc/stat",
    "snmp": "/proc/net/snmp",
    "snmp6": "/proc/net/snmp6",
    "netstat": "/proc/net/netstat",
    "softnet_stat": "/proc/net/softnet_stat",
    "sockstat": "/proc/net/sockstat",
    "sockstat6": "/proc/net/sockstat6",
    "meminfo": "/proc/meminfo",
    "loadavg": "/proc/loadavg",
    "cpu_pressure": "/proc/pressure/cpu",
    "cgroup_cpu_stat": "/sys/fs/cgroup/cpu.stat",
    "conntrack_count": "/proc/sys/net/netfilter/nf_conntrack_count",
    "conntrack_max": "/proc/sys/net/netfilter/nf_conntrack_max",
}


def snapshot(address: str | None = None) -> Json:
    """Return everything that is counted here, as it is now; a file that does not exist is ``None``.

    ``device`` is the name of the device that has ``address``, the one the traffic of this end goes through.
    """
    devices = read_devices()
    wanted = _canonical(address) if address else None
    carriers = [name for name, device in devices.items() if wanted in device["addresses"]]
    return {
        "time_s": time.time(),
        "monotonic_s": time.monotonic(),
        "machine": platform.machine(),
        "user_hz": os.sysconf("SC_CLK_TCK"),
        "device": carriers[0] if carriers else None,
        "devices": devices,
        **{name: read_file(path) for name, path in TEXT_FILES.items()},
    }


def _canonical(address: str) -> str:
    """Return an address as the kernel's are written here: orders may say ``fd00:0::5`` for ``fd00::5``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def read_file(path: str) -> str | None:
    """Return a file's text, None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def describe() -> Json:
    """Return what this machine and image are: names, kernel, tools, and what the kernel can do."""
    return {
        "hostname": socket.gethostname(),
        "kernel_release": platform.release(),
        "machine": platform.machine(),
        "boot_id": (read_file("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        "cpu_count": os.cpu_count(),
        "tools": {
            "python": platform.python_version(),
            "iperf3": _first_line("iperf3", "--version"),
            "ip": _first_line("ip", "-V"),
            "ss": _first_line("ss", "-V"),
            "ethtool": _first_line("ethtool", "--version"),
            "tcpdump": _first_line("tcpdump", "--version"),
        },
        "tcp_congestion_control": (read_file("/proc/sys/net/ipv4/tcp_congestion_control") or "").strip() or None,
        "capabilities": capabilities(),
    }


def capabilities() -> dict[str, bool]:
    """Return which families' BIG TCP the kernel has, by the attributes of ``lo``: distributions backport it."""
    loopback = device_limits().get("lo", {})
    return {
        "ipv4_big_tcp": bool(loopback.get("gso_ipv4_max_size")),
        "ipv6_big_tcp": bool(loopback.get("tso_max_size")),
    }


def _first_line(*command: str) -> str | None:
    """Return the first line a command prints, or None if it is not there."""
    output = output_of(*command)
    return output.splitlines()[0].strip() if output and output.strip() else None
