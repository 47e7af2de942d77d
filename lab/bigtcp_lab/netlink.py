"""Sets the BIG TCP limits of network devices through rtnetlink (standard library only).

Own code, because iproute2 before 6.3 does not know the IPv4 limits. Everything acts in the network namespace of
the calling thread. Reading them back is the pod agent's ``device_limits``.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

# Numbers from include/uapi/linux/if_link.h and rtnetlink.h.
_ATTRIBUTES = {"gso_max_size": 41, "gro_max_size": 58, "gso_ipv4_max_size": 63, "gro_ipv4_max_size": 64}
_RTM_SETLINK = 19
_REQUEST_WITH_ACK = 5

DEFAULT_SIZE = 65536
"""Every limit of a device without BIG TCP, in bytes."""
LARGEST_SIZE = 524280
"""What veth, loopback and the kernel's GRO allow at most (8 × 65535), in bytes."""


@dataclass(frozen=True)
class Limits:
    """The four settable limits of a device, in bytes; the two without a family in their name are those of IPv6."""

    gso_max_size: int = DEFAULT_SIZE
    gro_max_size: int = DEFAULT_SIZE
    gso_ipv4_max_size: int = DEFAULT_SIZE
    gro_ipv4_max_size: int = DEFAULT_SIZE

    @classmethod
    def all_at(cls, size: int) -> Limits:
        """Return limits that are ``size`` bytes for both families and both directions."""
        return cls(size, size, size, size)


def set_limits(device: str, limits: Limits) -> None:
    """Set all four limits of ``device``; raises OSError when the kernel refuses one (EINVAL above the ceiling).

    IPv6 first: writing it at or below 65536 may overwrite the IPv4 value. IPv4 always and explicitly: writing
    65536 where 65536 already stands changes nothing, and would leave a raised IPv4 value in place.
    """
    index = socket.if_nametoindex(device)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as connection:
        for name in ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"):
            value = getattr(limits, name)
            body = struct.pack("=BxHiIIHHI", 0, 0, index, 0, 0, 8, _ATTRIBUTES[name], value)
            connection.send(struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _REQUEST_WITH_ACK, 1, 0) + body)
            (error,) = struct.unpack_from("=i", connection.recv(1 << 12), 16)
            if error:
                raise OSError(-error, f"{name}={value} on {device}: {os.strerror(-error)}")
