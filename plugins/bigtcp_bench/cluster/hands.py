"""What a restore does in a cluster through this package's own client: for teardown, command and next run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from bigtcp_bench.cluster import agent_settings, pods, probe
from bigtcp_bench.cluster.api import ApiProblem, ClusterApi, NotFound
from bigtcp_bench.cluster.cilium import Cilium
from bigtcp_bench.errors import SwitchFailed
from bigtcp_bench.in_cluster.hold import Check, Means, NotRestored, Refused
from bigtcp_bench.in_cluster.protocol import Json
from bigtcp_bench.in_cluster.treatment import settings_of
from bigtcp_bench.readings.orders import ProbeOrders


def means_of(image: str, pull_secrets: Iterable[str], agent_ready_s: float) -> Means:
    """Return what a restore is told: which pods are ours, what looks at a node, and how long things take."""
    probing = pods.build_pod("probe", image=image, orders=ProbeOrders().to_argument(), pull_secrets=pull_secrets)
    return Means(
        traffic_pods=pods.selector(pods.TRAFFIC_ROLES),
        all_pods=pods.selector(pods.ALL_ROLES),
        probe_pod=probing,
        agent_ready_s=agent_ready_s,
        pod_start_s=pods.POD_START_S,
    )


class ClusterHands:
    """``hold.Hands`` with a ClusterApi."""

    sees_all = True

    def __init__(self, api: ClusterApi, cilium: Cilium) -> None:
        self.api = api
        self.cilium = cilium

    def now(self) -> float:
        """Return the time by the API server's clock, in seconds since the epoch."""
        return self.api.now()

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self.api.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.api.sleep(seconds)

    def get(self, path: str) -> Json | None:
        """Return the object at ``path``, or None if it does not exist."""
        with _refusing():
            try:
                return self.api.request("GET", path)
            except NotFound:
                return None

    def select(self, path: str, labels: str = "", fields: str = "") -> list[Json]:
        """Return the objects below ``path`` that match both selectors."""
        query = [("labelSelector", labels)] * bool(labels) + [("fieldSelector", fields)] * bool(fields)
        with _refusing():
            return list(self.api.request("GET", path, query=query).get("items") or [])

    def change(self, method: str, path: str, body: Json, before: Check | None = None) -> Json:
        """POST, PUT or PATCH (a merge patch) and return the object as stored."""
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        with _refusing():
            return self.api.request(method, path, body=body, headers=headers, before=before)

    def delete(self, path: str, *, uid: str | None = None, before: Check | None = None, **options: Any) -> bool:
        """Delete an object; False if it was gone already."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        with _refusing():
            try:
                self.api.request("DELETE", path, body=body, before=before)
            except NotFound:
                return False
        return True

    def told(self, agent: Json) -> dict[str, str]:
        """Return key → value as this agent was told when it started; those of BIG TCP at least."""
        pod = agent["metadata"]["name"]
        with _refusing():
            try:
                settings, merged = agent_settings.read_told(self.api, self.cilium, pod)
            except SwitchFailed as error:
                raise NotRestored(str(error)) from error
        return {**(settings or {}), **settings_of(merged)}

    def devices(self, node: str, pod: str) -> dict[str, dict[str, Any]]:
        """Return device → limit → bytes from the log of a probe pod."""
        with _refusing():
            try:
                seen = probe.probe_of_log(node, pods.log_of(self.api, pod))
            except pods.PodFailed as error:
                raise NotRestored(str(error)) from error
        return {name: dict(device.limits) for name, device in seen.devices.items()}


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Say in the words of ``hold`` what the API refuses."""
    try:
        yield
    except ApiProblem as error:
        raise Refused(str(error), error.status) from error
