"""What a restore would do, found out without doing it: hands that write changes down instead of making them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bigtcp_bench.cluster.api import CONFIGMAP
from bigtcp_bench.cluster.cilium import Cilium
from bigtcp_bench.in_cluster.hold import LEASE, Check, Hands
from bigtcp_bench.in_cluster.protocol import AGENT_LABELS, CONFIGMAP_NAME, Json, is_agent, merged_settings
from bigtcp_bench.in_cluster.treatment import KEYS, settings_of


@dataclass
class Change:
    """One change that would be made: method, path of the object, what is sent, and what a restore says of it."""

    method: str
    path: str
    body: Json
    said: str = ""


@dataclass
class Rehearsal:
    """``hold.Hands`` on a cluster as ``real`` reads it, with the changes so far on top; it makes none there.

    Every agent that is restarted starts, and has been told what its configuration says then. ``pretended`` is
    node → what its agent has been told by then, for a restore at the end of a run that is not made yet. Devices
    are as they were saved: ``limits`` is node → device → limit. Time passes by itself.
    """

    real: Hands
    cilium: Cilium
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretended: Mapping[str, Mapping[Any, bool]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    sees_all = True
    _objects: dict[str, Json | None] = field(default_factory=dict)
    #: Node (empty: all of them) → how often its agent was restarted.
    _restarted: dict[str, int] = field(default_factory=dict)
    _passed_s: float = 0.0

    def say(self, text: str) -> None:
        """Take what a restore says as what it did last."""
        told = [change for change in self.changes if change.path != LEASE]
        if told and not told[-1].said:
            told[-1].said = text

    def put(self, path: str, body: Json) -> None:
        """Let an object be there, as a run would have written it before."""
        self._objects[path] = copy.deepcopy(body)

    def now(self) -> float:
        """Return the time by the API server's clock, and what has passed since."""
        return self.real.now() + self._passed_s

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self.real.monotonic() + self._passed_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds

    def get(self, path: str) -> Json | None:
        """Return the object at ``path`` as it would be by now."""
        return copy.deepcopy(self._objects[path]) if path in self._objects else self.real.get(path)

    def select(self, path: str, labels: str = "", fields: str = "") -> list[Json]:
        """Return the objects below ``path`` as they would be by now; what was made or changed always matches."""
        found = {f"{path}/{one['metadata']['name']}": one for one in self.real.select(path, labels, fields)}
        for name, body in self._objects.items():
            if body is None:
                found.pop(name, None)
            elif name in found or (not labels and name.rpartition("/")[0] == path):
                found[name] = copy.deepcopy(body)
        return [self._as_restarted(one) if labels == AGENT_LABELS else one for one in found.values()]

    def change(self, method: str, path: str, body: Json, before: Check | None = None) -> Json:
        """Write the change down and return the object as it would be stored."""
        del before
        if method == "POST":
            meta = body["metadata"]
            name = meta.get("name") or f"{meta['generateName']}{len(self.changes)}"
            known = {"uid": f"rehearsed-{name}", "resourceVersion": "1"}
            stored = {**copy.deepcopy(body), "metadata": {**known, **meta, "name": name}}
            if path.endswith("/pods"):
                stored["status"] = {"phase": "Succeeded"}
            path = f"{path}/{name}"
        elif method == "PUT":
            stored = copy.deepcopy(body)
        else:
            stored = merge_patch(self.get(path) or {}, body)
        self.changes.append(Change(method, path, copy.deepcopy(body)))
        self._objects[path] = stored
        if path.endswith(f"/daemonsets/{self.cilium.daemonset}"):
            self._restarted[""] = self._restarted.get("", 0) + 1
        return copy.deepcopy(stored)

    def delete(self, path: str, *, uid: str | None = None, before: Check | None = None, **options: Any) -> bool:
        """Write the deletion down; a new agent follows on one that is deleted."""
        del uid, before, options
        found = self.get(path)
        if found is None:
            return False
        self.changes.append(Change("DELETE", path, found))
        if is_agent(found, self.cilium.daemonset):
            node = found["spec"]["nodeName"]
            self._restarted[node] = self._restarted.get(node, 0) + 1
        else:
            self._objects[path] = None
        return True

    def told(self, agent: Json) -> dict[str, str]:
        """Return what an agent has been told by then."""
        node = agent["spec"]["nodeName"]
        if self._restarts(node):
            told: Mapping[Any, bool] = self._by_rules(node)
        elif node in self.pretended:
            told = self.pretended[node]
        else:
            return self.real.told(agent)
        return settings_of(told)

    def devices(self, node: str, pod: str) -> dict[str, dict[str, Any]]:
        """Return the limits that the devices of ``node`` are to have."""
        del pod
        return {device: dict(limits) for device, limits in self.limits.get(node, {}).items()}

    def _by_rules(self, node: str) -> dict[Any, bool]:
        data = (self.get(CONFIGMAP.path(self.cilium.namespace, CONFIGMAP_NAME)) or {}).get("data") or {}
        kind = self.cilium.node_config
        configs = self.select(kind.path(self.cilium.namespace)) if kind is not None else []
        labels = ((self.get(f"/api/v1/nodes/{node}") or {}).get("metadata") or {}).get("labels") or {}
        return merged_settings(KEYS, data, configs, labels)

    def _restarts(self, node: str) -> int:
        return self._restarted.get("", 0) + self._restarted.get(node, 0)

    def _as_restarted(self, agent: Json) -> Json:
        count = self._restarts(agent["spec"].get("nodeName", ""))
        if not count:
            return agent
        uid = f"{agent['metadata']['uid']}, restarted {count} times"
        meta = {**agent["metadata"], "uid": uid, "creationTimestamp": "9999-12-31T23:59:59Z"}
        meta.pop("deletionTimestamp", None)
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return {**agent, "metadata": meta, "status": ready}


def merge_patch(body: Json, patch: Mapping[str, Any]) -> Json:
    """Return ``body`` after a JSON merge patch (RFC 7386)."""
    merged = copy.deepcopy(body)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge_patch(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged
