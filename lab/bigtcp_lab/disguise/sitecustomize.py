"""Makes Python programs in a pod see a kernel or NIC that knows less, or a hypervisor that takes CPU time.

Loaded by the interpreter itself when the lab puts this directory on a pod's ``PYTHONPATH``. ``LAB_DISGUISE`` names
what to change: ``old-kernel`` (no IPv4 BIG TCP attributes) and ``nic-65536`` (``eth0`` with tso_max_size 65536) in
what rtnetlink answers, ``stolen-cpu`` (a share of all time was stolen) in what ``/proc/stat`` says.
"""

from __future__ import annotations

import builtins
import io
import os
import socket
import struct
from typing import Any

_IFLA_IFNAME, _IFLA_TSO_MAX_SIZE = 3, 59
_IPV4_LIMITS = (63, 64)
#: A number that no kernel uses, so that readers skip the attribute and its length stays as it is.
_UNUSED = 0x3FF0
_RTM_NEWLINK = 16
_hidden = set(os.environ.get("LAB_DISGUISE", "").split(","))
_receive = socket.socket.recv
_open = builtins.open


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


def _opened(file: Any, *arguments: Any, **options: Any) -> Any:
    opened = _open(file, *arguments, **options)
    if file != "/proc/stat" or "stolen-cpu" not in _hidden:
        return opened
    with opened:
        return io.StringIO("".join(map(_stolen, opened.read().splitlines(keepends=True))))


def _stolen(line: str) -> str:
    """Return a line of CPU times with a share of every kind (proc(5)) moved to the eighth, stolen time."""
    name, *words = line.split()
    if not name.startswith("cpu"):
        return line
    ticks = [int(word) for word in words]
    share = float(os.environ["LAB_STOLEN_SHARE"])
    moved = [int(share * value) for value in ticks[:7]]
    kept = [value - part for value, part in zip(ticks, moved, strict=False)]
    return " ".join(map(str, [name, *kept, ticks[7] + sum(moved), *ticks[8:]])) + "\n"


socket.socket.recv = _filtered  # type: ignore[method-assign,assignment]
builtins.open = _opened
