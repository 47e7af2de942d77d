"""The objects that a run writes, put back: the label of its nodes, the CiliumNodeConfig, Cilium's ConfigMap.

Part of ``restore.py``. Standard library only, no syntax newer than Python 3.9: the guardian mounts this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bigtcp_bench.in_cluster.hold import NODES, Hands, Hold, NotRestored, Refused, Report
from bigtcp_bench.in_cluster.protocol import (
    ARM,
    CONFIGMAP_NAME,
    NODE_CONFIG_NAME,
    WINDOW,
    WROTE,
    Json,
    SavedState,
    annotate,
    annotations_of,
    as_saved,
    is_ours,
    node_config_as_before,
    undo_config_map,
)
from bigtcp_bench.in_cluster.treatment import KEYS


class Objects:
    """The objects of one restore; what could not be put back is in ``problems``, one sentence each."""

    def __init__(self, hands: Hands, hold: Hold, state: SavedState, report: Report, problems: list[str]) -> None:
        self.hands = hands
        self.hold = hold
        self.state = state
        self.report = report
        self.problems = problems
        #: Whether a request of the run may be still on its way, even after the time that it was waited for.
        self.in_flight = False
        #: The path of the CiliumNodeConfigs; None before they were put back, and where the cluster serves none.
        self.node_configs: str | None = None
        self._cilium = f"/namespaces/{state.cilium_namespace}"
        self._config_map = f"/api/v1{self._cilium}/configmaps/{CONFIGMAP_NAME}"

    def put_back(self) -> None:
        """Undo what the run has written, whoever has changed it since."""
        for name in self._labelled():
            self._remove_label(name)
        self.node_configs = self._node_configs_path()
        if self.node_configs is not None:
            self._undo_node_config(self.node_configs)
        if self.state.scope == "cluster":
            self._undo_config_map()

    def until_written(self, attempt: Callable[[], object], problem: str) -> None:
        """Repeat ``attempt`` while somebody else changes the object; note ``problem`` if that does not end."""
        for _ in self.hold.waiting(30, 0.2):
            try:
                attempt()
                return
            except Refused as error:
                if error.status == 409:
                    continue
                if error.status == 0:
                    raise
                self.problems.append(f"{problem}: {error}")
                return
        self.problems.append(f"{problem}: it is being changed by somebody else all the time")

    def _labelled(self) -> Iterable[str]:
        """Return the nodes of the window, and whichever others have its label."""
        others = self.hands.select(NODES, WINDOW) if self.hands.sees_all else []
        return dict.fromkeys([*self.state.nodes, *(node["metadata"]["name"] for node in others)])

    def _remove_label(self, node: str) -> None:
        def attempt() -> None:
            found = self.hands.get(f"{NODES}/{node}")
            if found is None:
                self.report.note(f"node {node} no longer exists")
            elif WINDOW in (found["metadata"].get("labels") or {}):
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version, "labels": {WINDOW: None}}}
                self.hands.change("PATCH", f"{NODES}/{node}", body, self.hold.check)
                self.report.did(f"removed label {WINDOW} from node {node}")

        self.until_written(attempt, f"the label {WINDOW} could not be removed from node {node}")

    def _node_configs_path(self) -> str | None:
        """Return the path of the CiliumNodeConfigs, or None if the cluster serves none."""
        for version in ("v2", "v2alpha1"):
            resources = (self.hands.get(f"/apis/cilium.io/{version}") or {}).get("resources") or []
            if any(resource["name"] == "ciliumnodeconfigs" for resource in resources):
                return f"/apis/cilium.io/{version}{self._cilium}/ciliumnodeconfigs"
        return None

    def _undo_node_config(self, path: str) -> None:
        name, prior = NODE_CONFIG_NAME, self.state.node_config

        def attempt() -> None:
            found = self.hands.get(f"{path}/{name}")
            if (found and as_saved(found)) == prior:
                if found is not None and self.in_flight:
                    self.age(f"{path}/{name}", found, patch=False)
            elif found is not None and not is_ours(found):
                self.report.note(f"the CiliumNodeConfig {name} is somebody else's; it stays")
            elif prior is None:
                assert found is not None
                if self.hands.delete(f"{path}/{name}", uid=found["metadata"]["uid"], before=self.hold.check):
                    self.report.did(f"deleted CiliumNodeConfig {name}")
            else:
                api_version = "/".join(path.split("/")[2:4])
                body = node_config_as_before(found, prior, self.state.cilium_namespace, api_version)
                method, where = ("POST", path) if found is None else ("PUT", f"{path}/{name}")
                written = self.hands.change(method, where, body, self.hold.check)
                self.report.did(f"put back CiliumNodeConfig {name}")
                if as_saved(written) != prior:
                    self.problems.append(f"the CiliumNodeConfig {name} differs from the one saved")

        self.until_written(attempt, f"the CiliumNodeConfig {name} could not be put back")

    def age(self, path: str, found: Json, *, patch: bool) -> None:
        """Give an object that is as it was another version, so that a late write of the run does not fit it."""
        for value in (self.hold.window, None):
            body = found
            if patch:
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version, "annotations": {WINDOW: value}}}
            else:
                annotate(body, {WINDOW: value})
            found = self.hands.change("PATCH" if patch else "PUT", path, body, self.hold.check)

    def _undo_config_map(self) -> None:
        keys = " and ".join(KEYS.values())

        def attempt() -> None:
            found = self.cilium_config()
            wrote = annotations_of(self.hold.check()).get(WROTE) == self.state.window
            undoing = undo_config_map(found, self.state.config_map, wrote)
            if undoing.unknown:
                self.problems.append(
                    f"{CONFIGMAP_NAME} was changed by a run and nothing tells what it said before; give {keys} "
                    f"their values by hand and remove the annotation {ARM}"
                )
                return
            for key in undoing.theirs:
                self.report.note(f"somebody else changed {key} in {CONFIGMAP_NAME} during the run; that stays")
            if undoing.patch is not None:
                self.hands.change("PATCH", self._config_map, undoing.patch, self.hold.check)
                back = " and ".join(undoing.patch.get("data") or [])
                self.report.did(f"put back {back or 'the annotations'} in {CONFIGMAP_NAME}")
            elif self.in_flight:
                self.age(self._config_map, found, patch=True)

        self.until_written(attempt, f"{CONFIGMAP_NAME} could not be put back")

    def cilium_config(self) -> Json:
        """Return Cilium's ConfigMap. Raises NotRestored if there is none."""
        found = self.hands.get(self._config_map)
        if found is None:
            raise NotRestored(f"namespace {self.state.cilium_namespace} has no ConfigMap {CONFIGMAP_NAME}")
        return found
