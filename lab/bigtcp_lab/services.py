"""Leads connections to the addresses of Services to their pods, as Cilium or kube-proxy would.

Emulated is who does it, not what is done: the kernel rewrites the destination where a pod or a node sends (as
Cilium does for a pod's sockets), so what is on the cables is addressed to the pod behind. One ready endpoint is
enough here: a Service with several always leads to the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from bigtcp_lab.api.discovery import ENDPOINTSLICES, SERVICES
from bigtcp_lab.api.store import Store
from bigtcp_lab.controllers.loop import run_loop
from bigtcp_lab.namespaces import NetworkNamespace
from bigtcp_lab.nat import Forward, set_forwards

Object = dict[str, Any]
log = logging.getLogger(__name__)


class ServiceProxy:
    """Keeps every network namespace's forwards as Services and their endpoints are."""

    def __init__(self, networks: Iterable[NetworkNamespace]) -> None:
        self._networks = list(networks)
        self._forwards: list[Forward] = []

    async def run(self, store: Store) -> None:
        """Follow Services and endpoints, for ever."""
        await run_loop(store, "service proxy", (SERVICES, ENDPOINTSLICES), self._reconcile)

    async def _reconcile(self, store: Store) -> None:
        found = sorted(forwards(await store.list(SERVICES), await store.list(ENDPOINTSLICES)))
        if found != self._forwards:
            self._forwards = found
            for network in list(self._networks):
                self._write(network)

    def add(self, network: NetworkNamespace) -> None:
        """Serve a new pod's network, too."""
        self._networks.append(network)
        # Where there is no Service, connections are not tracked either.
        if self._forwards:
            self._write(network)

    def remove(self, network: NetworkNamespace) -> None:
        """Forget a network that is going away."""
        if network in self._networks:
            self._networks.remove(network)

    def _write(self, network: NetworkNamespace) -> None:
        try:
            network.run(lambda: set_forwards(self._forwards))
        except OSError as error:  # one that is just being closed, or a kernel without nf_tables
            log.warning("Services are not reached from a namespace: %s", error)


def forwards(services: Iterable[Object], slices: Iterable[Object]) -> Iterator[Forward]:
    """Yield where the TCP ports of ``services`` lead, by the first ready endpoint of each family."""
    endpoints: dict[tuple[str, str], list[Object]] = {}
    for one in slices:
        metadata = one["metadata"]
        name = (metadata.get("labels") or {}).get("kubernetes.io/service-name", "")
        endpoints.setdefault((metadata["namespace"], name), []).append(one)
    for service in services:
        place = (service["metadata"]["namespace"], service["metadata"]["name"])
        for address in service["spec"].get("clusterIPs") or []:
            family = "IPv6" if ":" in address else "IPv4"
            for one in endpoints.get(place, []):
                ready = [end["addresses"][0] for end in one["endpoints"] if end["conditions"]["ready"]]
                if one["addressType"] == family and ready:
                    targets = {port["name"]: port["port"] for port in one["ports"]}
                    for port in service["spec"]["ports"]:
                        if port["protocol"] == "TCP":
                            yield Forward(address, port["port"], ready[0], targets[port.get("name", "")])
