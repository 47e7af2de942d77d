"""Makes Python programs in a pod see a kernel or NIC that knows less: filters what rtnetlink answers.

Loaded by the interpreter itself when the lab puts this directory on a pod's ``PYTHONPATH``. ``LAB_DISGUISE`` names
what to hide: ``old-kernel`` (no IPv4 BIG TCP attributes) and ``nic-65536`` (``eth0`` with tso_max_size 65536).
"""

from __future__ import annotations

import os
import socket
import struct

_IFLA_IFNAME, _IFLA_TSO_MAX_SIZE = 3, 59
_IPV4_LIMITS = (63, 64)
#: A number that no kernel uses, so that readers skip the attribute and its length stays as it is.
_UNUSED = 0x3FF0
_RTM_NEWLINK = 16
_hidden = set(os.environ.get("LAB_DISGUISE", "").split(","))
_receive = socket.socket.recv


def _filtered(self: socket.socket, size: int, flags: int = 0) -> bytes:
    data = _receive(self, size, flags)
    if self.family != socket.AF_NETLINK:
        return data
    answer = bytearray(data)
    start = 0
    while start + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, start)
        if length < 16:
            break
        if kind == _RTM_NEWLINK:
            _disguise(answer, start + 32, min(start + length, len(answer)))
        start += (length + 3) & ~3
    return bytes(answer)


def _disguise(answer: bytearray, start: int, end: int) -> None:
    name = b""
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", answer, start)
        if length < 4:
            return
        if kind == _IFLA_IFNAME:
            name = bytes(answer[start + 4 : start + length]).rstrip(b"\0")
        elif kind in _IPV4_LIMITS and "old-kernel" in _hidden:
            struct.pack_into("=H", answer, start + 2, _UNUSED)
        elif kind == _IFLA_TSO_MAX_SIZE and name == b"eth0" and "nic-65536" in _hidden:
            struct.pack_into("=I", answer, start + 4, 65536)
        start += (length + 3) & ~3


socket.socket.recv = _filtered  # type: ignore[method-assign,assignment]
