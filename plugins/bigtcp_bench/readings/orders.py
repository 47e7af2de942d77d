"""What a pod is told to do: the agent's five orders, validated here, handed over as its one argument."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bigtcp_bench.in_cluster.exchange import MAX_REQUEST_BYTES
from bigtcp_bench.in_cluster.iperf3 import GRACE_S
from bigtcp_bench.in_cluster.partner import CONNECT_DEADLINE_S, CONNECT_TIMEOUT_S, SERVICE_DEADLINE_S
from bigtcp_bench.planning.plan import Arm, Family, Scenario, Way

Port = Annotated[int, Field(ge=1, le=65_535)]
#: What a server's partner knows and nobody else; shown nowhere.
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]


def new_token() -> str:
    """Return a token for one server pod and its partner."""
    return secrets.token_hex(16)


class Orders(BaseModel):
    """What a pod is told to do."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1

    def to_argument(self) -> str:
        """Return the orders as the one JSON argument that the agent takes."""
        return self.model_dump_json()


class _Ports(Orders):
    iperf_port: Port = 5201
    rr_port: Port = 5202
    control_port: Port = 5203

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = (self.iperf_port, self.rr_port, self.control_port)
        if len(set(ports)) < len(ports):
            raise ValueError(
                f"iperf_port, rr_port and control_port are {ports}; they must be three different ports"
            )
        return self


class ServeOrders(_Ports):
    """The server pod: iperf3, request/response and the control server, until ``lifetime_s`` is over.

    It listens on ``addresses``; without any, on those that Kubernetes gives to the pod.
    """

    do: Literal["serve"] = "serve"
    token: Token = Field(default_factory=new_token)
    addresses: tuple[str, ...] = ()
    families: tuple[Family, ...] = Field(default=("ipv4", "ipv6"), min_length=1)
    lifetime_s: int = Field(default=600, ge=1, le=86_400)


class _Partner(Orders):
    """Whom a pod connects to: the server pod, and that pod through the addresses of its Service."""

    server: dict[Family, str] = Field(min_length=1, description="the server pod's address in each family it has")
    service: dict[Family, str] = Field(default={}, description="its Service's, where something goes through it")

    @model_validator(mode="after")
    def _addresses_fit(self) -> Self:
        for family, address in (*self.server.items(), *self.service.items()):
            try:
                version = ipaddress.ip_address(address).version
            except ValueError:
                version = None
            if family != f"ipv{version}":
                raise ValueError(f"server address {address!r} is not an {family} address")
        return self

    def _contact_s(self, times: int) -> int:
        """Return how long it can take to connect to each address ``times`` times, and to wait for them all."""
        each = times * CONNECT_TIMEOUT_S * (len(self.server) + len(self.service))
        return CONNECT_DEADLINE_S + each + (SERVICE_DEADLINE_S if self.service else 0)


class MeasureOrders(_Ports, _Partner):
    """The client pod: each scenario, in this order, ``repetitions`` times against one server."""

    do: Literal["measure"] = "measure"
    token: Token
    run_key: str = Field(min_length=1)
    block: int = Field(ge=1)
    arm: Arm
    generation: int = Field(ge=1)
    scenarios: tuple[Scenario, ...] = Field(min_length=1)
    repetitions: int = Field(ge=1)
    duration_s: int = Field(ge=1)
    omit_s: int = Field(ge=0)
    rate_bps: int = Field(ge=1)
    request_bytes: int = Field(ge=1, le=MAX_REQUEST_BYTES)

    @property
    def time_limit_s(self) -> int:
        """Return the longest time the client can take: every repetition hangs to its own limit.

        Server and client pods may live this long and no longer. Within a repetition the agent connects once
        and asks the server up to three times, twice each when the connection was lost.
        """
        contact_s = 7 * CONNECT_TIMEOUT_S * len(self.server)
        repetition_s = self.omit_s + self.duration_s + GRACE_S + contact_s
        return self._contact_s(7) + len(self.scenarios) * self.repetitions * repetition_s


class CaptureOrders(_Ports, _Partner):
    """A pod that sends a stream of ``duration_s`` seconds on each way and captures it, as its server does."""

    do: Literal["capture"] = "capture"
    token: Token
    run_key: str = Field(min_length=1)
    block: int = Field(ge=1)
    arm: Arm
    ways: tuple[Way, ...] = Field(min_length=1)
    duration_s: int = Field(ge=1)

    @property
    def time_limit_s(self) -> int:
        """Return the longest time the client can take, as that of MeasureOrders."""
        contact_s = 5 * CONNECT_TIMEOUT_S * len(self.server)
        stream_s = self.duration_s + GRACE_S + contact_s
        return self._contact_s(5) + len(self.ways) * stream_s


class ReachOrders(_Partner):
    """A pod that connects to a server's control port once over each family, and says what came of it."""

    do: Literal["reach"] = "reach"
    control_port: Port = 5203

    @property
    def time_limit_s(self) -> int:
        """Return the longest time it can take: every connection hangs to its own limit."""
        return self._contact_s(1)


class ProbeOrders(Orders):
    """A pod in the node's own network namespace: describe the node, and its load over ``sample_s`` seconds."""

    do: Literal["probe"] = "probe"
    sample_s: float = Field(default=0, ge=0, le=60)
