"""Where the lab's API listens, and the address that others may reach it at (``lab up --listen``)."""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass

from bigtcp_bench.errors import InvalidInput, PreconditionFailed

_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class ListenAddress:
    """A host, by name or address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Return what ``HOST:PORT`` (or ``[IPv6]:PORT``) names; raises InvalidInput for anything else."""
        match = _HOST_AND_PORT.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise InvalidInput(f"lab: --listen {text!r}: it must be HOST:PORT with a port from 1 to 65535")
        return cls(match["ipv6"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bind(self) -> list[socket.socket]:
        """Return a listening socket for each address of the host that is this machine's.

        Raises PreconditionFailed when there is none, or when the port is taken or not allowed.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise PreconditionFailed(f"lab: --listen {self}: nobody knows the host ({error.strerror})") from error
        sockets: list[socket.socket] = []
        for address in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found):
            try:
                sockets.append(listen(address, self.port))
            except OSError as error:
                if error.errno in _NOT_OURS:
                    continue
                for other in sockets:
                    other.close()
                words = os.strerror(error.errno or 0).lower()
                raise PreconditionFailed(f"lab: --listen {self}: {words}") from error
        if not sockets:
            raise PreconditionFailed(f"lab: --listen {self}: no address of the host belongs to this machine")
        return sockets


def listen(host: str, port: int = 0) -> socket.socket:
    """Return a listening socket of the present network namespace; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=512)
    # asyncio does not see that this is TCP and leaves Nagle's algorithm on: 40 ms for every other answer
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
