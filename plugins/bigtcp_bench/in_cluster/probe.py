"""What a node is: devices with drivers, kernel, tools, counters."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import time

from bigtcp_bench.in_cluster.devices import c_string
from bigtcp_bench.in_cluster.output import Json, print_frame
from bigtcp_bench.in_cluster.snapshot import describe, snapshot

SIOCETHTOOL = 0x8946
ETHTOOL_GSET, ETHTOOL_GDRVINFO = 0x1, 0x3
ETHTOOL_GSTRINGS, ETHTOOL_GSTATS, ETHTOOL_GSSET_INFO = 0x1B, 0x1D, 0x37
ETH_SS_STATS = 1
ETH_GSTRING_LEN = 32
#: How Cilium names a pod's end of its cable.
POD_CABLE = "lxc"
SPEED_UNKNOWN = 0xFFFFFFFF
#: Of the first reading of a load: what load is told by.
EARLIER = ("time_s", "monotonic_s", "user_hz", "devices", "proc_stat")


def probe(orders: Json) -> int:
    """Print one frame that describes this node: devices with drivers, kernel, tools, counters.

    With ``sample_s`` a first reading of what is counted is taken that many seconds before, to tell the load.
    """
    seen = describe()
    if orders.get("sample_s"):
        first = snapshot()
        seen["earlier"] = {name: first[name] for name in EARLIER}
        time.sleep(orders["sample_s"])
    seen["snapshot"] = snapshot()
    for name, device in seen["snapshot"]["devices"].items():
        device.update(_driver(name))
        # A node has hundreds of pods.
        if not name.startswith(POD_CABLE):
            device["ethtool"] = _statistics(name)
    fields = {name: seen[name] for name in ("hostname", "kernel_release", "capabilities")}
    print_frame("probe", fields, seen)
    return 0


def _driver(device: str) -> Json:
    """Return driver, firmware, bus and speed (Mbit/s); None where the device has none.

    Both come by ioctl, which answers for this network namespace: /sys may be another one's.
    """
    drvinfo = _ethtool(device, struct.pack("=I", ETHTOOL_GDRVINFO), 196)
    # struct ethtool_cmd: the low and the high half of the speed are two fields, 12 and 28 bytes in.
    settings = _ethtool(device, struct.pack("=I", ETHTOOL_GSET), 44)
    speed = SPEED_UNKNOWN
    if settings:
        speed = struct.unpack_from("=H", settings, 12)[0] | struct.unpack_from("=H", settings, 28)[0] << 16
    return {
        "driver": c_string(drvinfo[4:36]) or None,
        "firmware": c_string(drvinfo[68:100]) or None,
        "bus": c_string(drvinfo[100:132]) or None,
        "speed_mbps": None if speed in (0, 0xFFFF, SPEED_UNKNOWN) else speed,
    }


def _statistics(device: str) -> dict[str, int]:
    """Return what the driver counts, by its own names (``ethtool -S``); empty if it counts nothing."""
    # struct ethtool_sset_info: command, reserved, mask of sets (64 bits); then the size of each set that there is.
    info = _ethtool(device, struct.pack("=IIQ", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS), 20)
    if not info or not struct.unpack_from("=Q", info, 8)[0]:
        return {}
    count = struct.unpack_from("=I", info, 16)[0]
    # The kernel writes as many as there are by then, whatever room was announced: twice as much is offered.
    wanted = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_STATS, count)
    names = _ethtool(device, wanted, 12 + 2 * count * ETH_GSTRING_LEN)
    values = _ethtool(device, struct.pack("=II", ETHTOOL_GSTATS, count), 8 + 2 * count * 8)
    if not names or not values:
        return {}
    if {struct.unpack_from("=I", names, 8)[0], struct.unpack_from("=I", values, 4)[0]} != {count}:
        return {}  # queues came or went meanwhile
    found: dict[str, int] = {}
    for at, value in enumerate(struct.unpack_from(f"={count}Q", values, 8)):
        name = c_string(names[12 + at * ETH_GSTRING_LEN :][:ETH_GSTRING_LEN])
        # vmxnet3 has the same names for every queue; the counter of a card is the sum of them.
        found[name] = found.get(name, 0) + value
    return found


def _ethtool(device: str, command: bytes, size: int) -> bytes:
    """Return the answer of ``size`` bytes to one ethtool command, empty if the device does not know it."""
    answer = array.array("B", command.ljust(size, b"\0"))
    # struct ifreq: the name, then a pointer to the command's structure; the kernel copies 40 bytes.
    request = struct.pack("16sP", device.encode(), answer.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anchor:
        try:
            fcntl.ioctl(anchor, SIOCETHTOOL, request)
        except OSError:
            return b""
    return answer.tobytes()
