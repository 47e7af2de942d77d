"""The server pod as its client sees it."""

from __future__ import annotations

import contextlib
import json
import socket
import time

from bigtcp_bench.in_cluster.output import CannotStart, Failed, Json, reason

#: How long a client waits for its server: a pod of a cached image starts within a few seconds, but right after an
#: outage of the API server fresh pods may not reach each other for a minute.
CONNECT_DEADLINE_S = 75
#: A Service whose pod has answered and whose endpoints the API has: its node knows it a moment later.
SERVICE_DEADLINE_S = 15
#: Wait for one TCP connection, and for one answer of the control server.
CONNECT_TIMEOUT_S = 5


class Partner:
    """The server pod as its client sees it: one address for each family, and the control connection.

    ``behind`` are the pod's own addresses, where the others are those of a Service.
    """

    def __init__(
        self, addresses: dict[str, str], control_port: int, token: str = "", behind: dict[str, str] | None = None
    ) -> None:
        self.addresses = addresses
        self._behind = behind or addresses
        self._token = token.encode()
        self.control_port = control_port
        self._connection: socket.socket | None = None

    def wait(self) -> dict[str, str]:
        """Wait until the server answers; return family → reason for each family that it cannot be reached over.

        One family is enough to go on. Raises CannotStart when no family answers within CONNECT_DEADLINE_S.
        """
        pending = self.try_all()
        if len(pending) == len(self.addresses):
            reasons = "; ".join(pending.values()) or "the orders name no address"
            raise CannotStart(f"the server did not answer within {CONNECT_DEADLINE_S} s: {reasons}")
        return pending

    def try_all(self, deadline_s: float | None = None) -> dict[str, str]:
        """Return family → reason for each family that the server cannot be reached over.

        Tries for up to ``deadline_s``, or CONNECT_DEADLINE_S. Once one family has answered the others get
        CONNECT_TIMEOUT_S more: a fresh IPv6 address is unusable for a second or two, but a family that stays
        broken must not hold up the other.
        """
        deadline = time.monotonic() + (deadline_s or CONNECT_DEADLINE_S)
        pending = dict.fromkeys(self.addresses, "not tried")
        while pending and time.monotonic() < deadline:
            for family in list(pending):
                try:
                    self.reach(family)
                except Failed as failure:
                    pending[family] = str(failure)
                    continue
                if len(pending) == len(self.addresses):
                    deadline = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
                del pending[family]
            if pending:
                time.sleep(0.2)
        return pending

    def reach(self, family: str) -> None:
        """Connect once over ``family`` and hang up. Raises Failed."""
        self._connect(family).close()

    def ask(self, do: str, family: str) -> Json:
        """Return the control server's answer, over any family that works. Raises Failed.

        ``family`` says through which of the server's addresses the traffic goes, not how to ask.
        """
        line = json.dumps({"do": do, "address": self._behind.get(family)}).encode() + b"\n"
        for attempt in (1, 2):
            try:
                connection = self._connection or self._connect_any()
                self._connection = connection
                connection.sendall(line)
                with connection.makefile("rb") as answers:
                    text = answers.readline()
                if not text:
                    raise ConnectionResetError("the connection was closed")
                answer = json.loads(text)
                if "error" in answer:
                    raise Failed(f"the server answered {do!r} with: {answer['error']}")
                return dict(answer)
            except (OSError, ValueError) as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if attempt == 2:
                    raise Failed(f"the server did not answer {do!r}: {reason(error)}") from error
        raise AssertionError("unreachable")

    def _connect_any(self) -> socket.socket:
        failures = []
        for family in self.addresses:
            try:
                return self._connect(family)
            except Failed as failure:
                failures.append(str(failure))
        raise Failed("; ".join(failures))

    def _connect(self, family: str) -> socket.socket:
        address = self.addresses.get(family)
        if not address:
            raise Failed(f"the server has no {family} address")
        try:
            connection = socket.create_connection((address, self.control_port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise Failed(
                f"cannot reach {address} port {self.control_port} over {family}: {reason(error)}"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # whoever asks something notices
            connection.sendall(self._token)
        return connection

    def own_address(self, family: str) -> str:
        """Return the own address that packets to the server carry. Sends nothing. Raises Failed."""
        kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
        try:
            with socket.socket(kind, socket.SOCK_DGRAM) as probe:
                probe.connect((self._behind[family], self.control_port))
                return str(probe.getsockname()[0])
        except OSError as error:
            raise Failed(f"no route to {self._behind[family]} over {family}: {reason(error)}") from error
