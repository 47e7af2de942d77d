"""The addresses that the API gives to Services, one of each IP family that a Service asks for."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from typing import Any

from .discovery import SERVICES
from .status import invalid

Object = dict[str, Any]

#: As kind's default; the lab's network leads both to whatever the Services' endpoints are.
SERVICE_NETWORKS = {"IPv4": "10.96.0.0/16", "IPv6": "fd00:10:96::/112"}


def default_service(service: Object, others: Iterable[Object]) -> None:
    """Fill in the defaults of a new Service and give it addresses that none of ``others`` has, in place."""
    spec = service.setdefault("spec", {})
    for key, value in {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}.items():
        spec.setdefault(key, value)
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    if spec["type"] == "ExternalName":
        return
    policy = spec.setdefault("ipFamilyPolicy", "SingleStack")
    if policy not in ("SingleStack", "PreferDualStack", "RequireDualStack"):
        known = '"PreferDualStack", "RequireDualStack", "SingleStack"'
        text = f'Unsupported value: "{policy}": supported values: {known}'
        cause = ("spec.ipFamilyPolicy", "FieldValueNotSupported", text)
        raise invalid(SERVICES, service["metadata"]["name"], [cause])
    families = list(spec.get("ipFamilies") or ["IPv4"])
    if policy != "SingleStack":
        families += [family for family in SERVICE_NETWORKS if family not in families]
    spec["ipFamilies"] = families
    if spec.get("clusterIP") == "None":
        spec["clusterIPs"] = ["None"]
        return
    taken = {address for other in others for address in other["spec"].get("clusterIPs") or []}
    spec["clusterIPs"] = [_free(SERVICE_NETWORKS[family], taken) for family in families]
    spec["clusterIP"] = spec["clusterIPs"][0]


def _free(network: str, taken: set[str]) -> str:
    hosts = ipaddress.ip_network(network)
    while True:
        # Neither the network's own address nor the last one.
        address = str(hosts[1 + secrets.randbelow(hosts.num_addresses - 2)])
        if address not in taken:
            return address
