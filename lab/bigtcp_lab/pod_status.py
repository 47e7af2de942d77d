"""The status of a pod as a kubelet words it: from the states of its containers to phase and conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bigtcp_lab.api.store import now
from bigtcp_lab.images import full_name, image_id

Object = dict[str, Any]

CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
"""A pod's conditions in the order in which a kubelet lists them."""
DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


@dataclass
class ContainerState:
    """What is known of one container: its present state, its last one, how often it was restarted."""

    spec: Object
    #: One of {"waiting": …}, {"running": …}, {"terminated": …}, as in the API.
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Object = field(default_factory=dict)
    restart_count: int = 0
    #: Empty until a container was created for the first time.
    container_id: str = ""
    #: Whether its readiness probe (if any) has passed, and its startup probe (if any).
    ready: bool = False
    started: bool = False

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it has not ended."""
        terminated = self.state.get("terminated")
        return None if terminated is None else int(terminated["exitCode"])

    def status(self) -> Object:
        """Return the entry of ``containerStatuses``."""
        image = self.spec["image"]
        resources = self.spec.get("resources") or {}
        status: Object = {}
        if self.container_id and resources.get("requests"):
            status["allocatedResources"] = resources["requests"]
        if self.container_id:
            status["containerID"] = f"containerd://{self.container_id}"
        status |= {
            "image": full_name(image) if self.container_id else image,
            "imageID": image_id(image) if self.container_id else "",
            "lastState": self.last_state,
            "name": self.spec["name"],
            "ready": self.ready,
        }
        if self.container_id:
            status["resources"] = resources
        status |= {"restartCount": self.restart_count, "started": self.started, "state": self.state}
        if self.container_id:
            status["user"] = {"linux": self._user()}
        if self.spec.get("volumeMounts"):
            status["volumeMounts"] = [_mount(mount) for mount in self.spec["volumeMounts"]]
        return status

    def _user(self) -> Object:
        security = self.spec.get("securityContext") or {}
        user, group = security.get("runAsUser", 0), security.get("runAsGroup", 0)
        return {"gid": group, "supplementalGroups": [group], "uid": user}


def _mount(mount: Object) -> Object:
    entry = {key: mount[key] for key in ("mountPath", "name", "readOnly") if key in mount}
    return entry | ({"recursiveReadOnly": "Disabled"} if mount.get("readOnly") else {})


def phase_of(restart_policy: str, init: list[ContainerState], containers: list[ContainerState]) -> str:
    """Return the phase that follows from the containers' states."""
    codes = [container.exit_code for container in containers]
    if any(container.exit_code not in (None, 0) for container in init) and restart_policy == "Never":
        return "Failed"
    if any(container.exit_code != 0 for container in init):
        return "Pending"
    if all(code is not None for code in codes) and restart_policy != "Always":
        if all(code == 0 for code in codes):
            return "Succeeded"
        if restart_policy == "Never":
            return "Failed"
    if all("waiting" in container.state and not container.last_state for container in containers):
        return "Pending"
    return "Running"


@dataclass
class PodFacts:
    """What else the status of a pod says."""

    host_ips: list[str]
    pod_ips: list[str]
    start_time: str
    #: Whether the pod's network and volumes are there.
    sandbox_ready: bool = False
    #: (reason, message) of a pod that was ended from outside, such as by its deadline.
    verdict: tuple[str, str] | None = None
    #: Whether the pod was ended, so that it is Succeeded or Failed whatever its restart policy.
    ended: bool = False


def status_of(
    pod: Object, facts: PodFacts, init: list[ContainerState], containers: list[ContainerState]
) -> Object:
    """Return the whole status of ``pod``; times of unchanged conditions are kept from its present status."""
    policy = pod["spec"].get("restartPolicy", "Always")
    phase = phase_of("Never" if facts.ended else policy, init, containers)
    if facts.verdict:
        phase = "Failed"
    status: Object = {}
    requests = _sum_of_requests(pod)
    if requests and any(container.container_id for container in containers):
        status["allocatedResources"] = requests
    status |= {
        "conditions": _conditions(pod, facts, phase, init, containers),
        "containerStatuses": [container.status() for container in containers],
        "hostIP": facts.host_ips[0],
        "hostIPs": [{"ip": address} for address in facts.host_ips],
    }
    if init:
        status["initContainerStatuses"] = [container.status() for container in init]
    if facts.verdict:
        status["reason"], status["message"] = facts.verdict
    status |= {"observedGeneration": pod["metadata"].get("generation", 1), "phase": phase}
    if facts.pod_ips:
        status["podIP"] = facts.pod_ips[0]
        status["podIPs"] = [{"ip": address} for address in facts.pod_ips]
    status["qosClass"] = (pod.get("status") or {}).get("qosClass", "BestEffort")
    status["resources"] = {"requests": requests} if requests else {}
    status["startTime"] = facts.start_time
    return status


def _sum_of_requests(pod: Object) -> Object:
    """Return the requests of a pod with a single container that has any (the lab adds no quantities up)."""
    resources = [container.get("resources") or {} for container in pod["spec"]["containers"]]
    found: list[Object] = [each["requests"] for each in resources if each.get("requests")]
    return found[0] if len(found) == 1 else {}


def _conditions(
    pod: Object, facts: PodFacts, phase: str, init: list[ContainerState], containers: list[ContainerState]
) -> list[Object]:
    unready = [container.spec["name"] for container in containers if not container.ready]
    incomplete = [container.spec["name"] for container in init if container.exit_code != 0]
    not_ready: Object = {}
    if phase in ("Succeeded", "Failed"):
        not_ready = {"reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
    elif unready:
        names = " ".join(unready)
        not_ready = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{names}]"}
    initialized: Object = {}
    if incomplete:
        names = " ".join(incomplete)
        initialized = {
            "reason": "ContainersNotInitialized",
            "message": f"containers with incomplete status: [{names}]",
        }
    details = {"Ready": not_ready, "ContainersReady": not_ready, "Initialized": initialized}
    values = {
        "PodReadyToStartContainers": facts.sandbox_ready and phase not in ("Succeeded", "Failed"),
        "Initialized": not incomplete,
        "Ready": not not_ready,
        "ContainersReady": not not_ready,
        "PodScheduled": True,
    }
    if phase == "Succeeded":
        details["Initialized"] = {"reason": "PodCompleted"}
    before = {each["type"]: each for each in (pod.get("status") or {}).get("conditions") or []}
    conditions = []
    for kind in CONDITIONS:
        value = "True" if values[kind] else "False"
        old = before.get(kind) or {}
        since = old["lastTransitionTime"] if old.get("status") == value else now()
        conditions.append(
            {
                "lastProbeTime": None,
                "lastTransitionTime": since,
                **details.get(kind, {}),
                "observedGeneration": pod["metadata"].get("generation", 1),
                "status": value,
                "type": kind,
            }
        )
    return conditions
