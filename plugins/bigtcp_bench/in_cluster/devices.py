"""Network devices as the kernel tells them through rtnetlink: iproute2 before 6.3 cannot show the IPv4 limits."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

RTM_GETLINK, RTM_GETADDR = 18, 22
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
ATTRIBUTE_TYPE_MASK = 0x3FFF

# Numbers from include/uapi/linux/if_link.h and if_addr.h.
IFLA_IFNAME, IFLA_QDISC, IFLA_LINKINFO, IFLA_STATS64 = 3, 6, 18, 23
IFLA_INFO_KIND = 1
IFLA_OPERSTATE = 16
IFA_ADDRESS, IFA_LOCAL = 1, 2
LINK_NUMBERS = {4: "mtu", 5: "peer_index", 10: "master_index", 31: "tx_queues", 32: "rx_queues"}
LIMITS = {
    41: "gso_max_size",
    58: "gro_max_size",
    59: "tso_max_size",
    63: "gso_ipv4_max_size",
    64: "gro_ipv4_max_size",
}
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
#: The beginning of struct rtnl_link_stats64; every kernel since 4.6 has these.
COUNTERS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
)


def device_limits() -> dict[str, dict[str, int]]:
    """Return device name → BIG TCP limits (bytes) of the current network namespace.

    A limit that the kernel does not know is absent.
    """
    return {
        name: {limit: device[limit] for limit in LIMITS.values() if limit in device}
        for name, device in read_devices().items()
    }


def read_devices() -> dict[str, dict[str, Any]]:
    """Return device name → what the kernel says of it: limits, MTU, state, counters, addresses.

    A dump during which devices came or went (nodes create pods all the time) may lack one, so it is repeated.
    """
    devices: dict[str, dict[str, Any]] = {}
    for _ in range(5):
        links, complete = _dump(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
        devices = dict(_device(message) for message in links)
        if complete:
            break
    names = {device["index"]: name for name, device in devices.items()}
    for device in devices.values():
        device["master"] = names.get(device.pop("master_index", None))
        device["addresses"] = []
    for message in _dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0))[0]:
        family, index = struct.unpack_from("=B3xI", message)
        attributes = _attributes(message[8:])
        # IFA_LOCAL is the own address where IFA_ADDRESS is the other end's; IPv6 has IFA_ADDRESS only.
        packed = attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS))
        if packed and index in names and family in (socket.AF_INET, socket.AF_INET6):
            devices[names[index]]["addresses"].append(socket.inet_ntop(family, packed))
    return devices


def _device(message: bytes) -> tuple[str, dict[str, Any]]:
    attributes = _attributes(message[16:])
    device: dict[str, Any] = {"index": struct.unpack_from("=i", message, 4)[0]}
    for number, name in {**LINK_NUMBERS, **LIMITS}.items():
        if number in attributes:
            device[name] = struct.unpack_from("=I", attributes[number])[0]
    kind = _attributes(attributes.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)
    device["kind"] = c_string(kind) if kind else None
    device["qdisc"] = c_string(attributes.get(IFLA_QDISC, b""))
    state = attributes.get(IFLA_OPERSTATE, b"\0")[0]
    device["operstate"] = OPERSTATES[state] if state < len(OPERSTATES) else "unknown"
    statistics = attributes.get(IFLA_STATS64, b"")
    if len(statistics) >= 8 * len(COUNTERS):
        values = struct.unpack_from(f"={len(COUNTERS)}Q", statistics)
        device.update({name: values[position] for position, name in enumerate(COUNTERS)})
    return c_string(attributes[IFLA_IFNAME]), device


def _dump(kind: int, header: bytes) -> tuple[list[bytes], bool]:
    """Return the messages of one rtnetlink dump, and whether nothing changed during it."""
    messages: list[bytes] = []
    complete = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        size = 16 + len(header)
        netlink.send(struct.pack("=IHHII", size, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + header)
        while True:
            data = netlink.recv(1 << 17)
            while data:
                length, found, flags = struct.unpack_from("=IHH", data)
                if flags & NLM_F_DUMP_INTR:
                    complete = False
                if found == NLMSG_DONE:
                    return messages, complete
                if found == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, 16)[0]
                    raise OSError(number, os.strerror(number))
                messages.append(data[16:length])
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & ATTRIBUTE_TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def c_string(data: bytes) -> str:
    """Return what a field of fixed length holds up to its first zero byte."""
    return data.split(b"\0", 1)[0].decode(errors="replace")
