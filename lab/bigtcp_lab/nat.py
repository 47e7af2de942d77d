"""Rewrites the destination of new connections in a network namespace, through nf_tables (standard library only).

Own code, because ``nft`` is on few machines and the kernel takes the same few messages without it. The rules are
those that ``nft list table ip services`` shows as ``ip daddr A tcp dport P dnat to B:T``, on what this namespace
itself sends.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

# Numbers from include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h, nf_nat.h and netfilter.h.
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NLMSG_ERROR = 2
_NESTED = 0x8000
_LOCAL_OUT = 3
_DNAT = 1
_ADDRESS_REGISTER, _PORT_REGISTER = 1, 2
_META_L4PROTO = 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
#: Where a packet's destination is: in its IP header by family, and in that of TCP.
_DESTINATION = {socket.AF_INET: (16, 4), socket.AF_INET6: (24, 16)}
_PORT = (2, 2)
#: Before routing's own hooks, where destinations are rewritten (NF_IP_PRI_NAT_DST).
_PRIORITY = -100
_TABLE = "services"


class Forward(NamedTuple):
    """Where TCP connections to one address and port really go."""

    address: str
    port: int
    backend: str
    target: int

    @property
    def family(self) -> socket.AddressFamily:
        """Return AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


def set_forwards(forwards: Iterable[Forward]) -> None:
    """Replace all forwards of this namespace at once; raises OSError when the kernel refuses."""
    wanted = list(forwards)
    messages = [_message(_BATCH_BEGIN, 0, 0, socket.AF_UNSPEC, resource=_SUBSYSTEM)]

    def add(kind: int, flags: int, family: int, *attributes: bytes) -> None:
        number = len(messages)
        messages.append(_message(_SUBSYSTEM << 8 | kind, flags | _ACK, number, family, *attributes))

    for family in _DESTINATION:
        table = _text(1, _TABLE)
        # A table that is not there cannot be deleted, so it is made first.
        add(_NEWTABLE, _CREATE, family, table)
        add(_DELTABLE, 0, family, table)
        of_family = [one for one in wanted if one.family == family]
        if not of_family:
            continue
        add(_NEWTABLE, _CREATE, family, table)
        hook = _nest(4, _number(1, _LOCAL_OUT), _number(2, _PRIORITY & 0xFFFFFFFF))
        add(_NEWCHAIN, _CREATE, family, table, _text(3, "output"), hook, _text(7, "nat"))
        for one in of_family:
            add(_NEWRULE, _CREATE | _APPEND, family, table, _text(2, "output"), _expressions(one))
    messages.append(_message(_BATCH_END, 0, len(messages), socket.AF_UNSPEC, resource=_SUBSYSTEM))
    _send(messages)


def _send(messages: list[bytes]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as connection:
        connection.bind((0, 0))
        connection.send(b"".join(messages))
        waiting = len(messages) - 2
        while waiting:
            data = connection.recv(1 << 16)
            while data:
                length, kind, _, number = struct.unpack_from("=IHHI", data)
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", data, 16)[0]
                    if error:
                        raise OSError(error, f"nf_tables, message {number}: {os.strerror(error)}")
                    waiting -= 1
                data = data[(length + 3) & ~3 :]


def _expressions(one: Forward) -> bytes:
    address, backend = (socket.inet_pton(one.family, text) for text in (one.address, one.backend))
    return _nest(
        4,
        _expression("meta", _number(2, _META_L4PROTO), _number(1, 1)),
        _equal(bytes([socket.IPPROTO_TCP])),
        _payload(_NETWORK_HEADER, *_DESTINATION[one.family]),
        _equal(address),
        _payload(_TRANSPORT_HEADER, *_PORT),
        _equal(struct.pack("!H", one.port)),
        _immediate(_ADDRESS_REGISTER, backend),
        _immediate(_PORT_REGISTER, struct.pack("!H", one.target)),
        _expression(
            "nat",
            _number(1, _DNAT),
            _number(2, one.family),
            _number(3, _ADDRESS_REGISTER),
            _number(5, _PORT_REGISTER),
        ),
    )


def _payload(header: int, offset: int, size: int) -> bytes:
    return _expression("payload", _number(1, 1), _number(2, header), _number(3, offset), _number(4, size))


def _equal(value: bytes) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, 0), _nest(3, _attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register), _nest(2, _attribute(1, value)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nest(1, _text(1, name), _nest(2, *attributes))


def _message(kind: int, flags: int, number: int, family: int, *attributes: bytes, resource: int = 0) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, number, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nest(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(attributes))


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")
