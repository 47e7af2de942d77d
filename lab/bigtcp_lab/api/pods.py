"""Pods as logs, commands and the scheduler see them: which container, can it be done, which node."""

from __future__ import annotations

from typing import Any

from .conditions import set_condition
from .discovery import PODS
from .status import ApiError, bad_request
from .store import Store

#: How the kubelet words why a container has not started, where it is not just the reason.
_WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


def container_name(pod: dict[str, Any], asked: str) -> str:
    """Return the container that a request means; raises ``ApiError`` 400 when it must name one or names none."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    containers = [container["name"] for container in spec["containers"]]
    init_containers = [container["name"] for container in spec.get("initContainers") or []]
    if not asked:
        if len(containers) == 1:
            return containers[0]
        init = f" or one of the init containers: [{' '.join(init_containers)}]" if init_containers else ""
        raise bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]{init}"
        )
    if asked not in containers + init_containers:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    return asked


def _container_status(pod: dict[str, Any], container: str) -> dict[str, Any]:
    status = pod.get("status") or {}
    for field in ("containerStatuses", "initContainerStatuses"):
        for found in status.get(field) or []:
            if found["name"] == container:
                return found
    return {"state": {"waiting": {"reason": "ContainerCreating"}}}


def _check_assigned(pod: dict[str, Any]) -> None:
    if not pod["spec"].get("nodeName"):
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")


def check_log(pod: dict[str, Any], container: str, *, previous: bool) -> None:
    """Raise ``ApiError`` 400 unless ``container`` has (or, with ``previous``, had) a log."""
    _check_assigned(pod)
    name, status = pod["metadata"]["name"], _container_status(pod, container)
    if previous:
        if not (status.get("lastState") or {}).get("terminated"):
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        return
    waiting = (status.get("state") or {}).get("waiting")
    if waiting is not None and not (status.get("lastState") or {}).get("terminated"):
        reason = waiting.get("reason") or "ContainerCreating"
        raise bad_request(
            f'container "{container}" in pod "{name}" is waiting to start: {_WAITING.get(reason, reason)}'
        )


def check_exec(pod: dict[str, Any], container: str) -> None:
    """Raise ``ApiError`` 400 or 500 unless a command can be run in ``container`` now."""
    _check_assigned(pod)
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise ApiError(
            500, "InternalError", f"cannot exec into a container in a completed pod; current phase is {phase}"
        )
    if "running" not in (_container_status(pod, container).get("state") or {}):
        name = pod["metadata"]["name"]
        raise ApiError(500, "InternalError", f'container not found ("{container}") or not running in pod "{name}"')


async def bind(store: Store, pod: dict[str, Any], node: str) -> dict[str, Any]:
    """Assign ``pod`` to ``node`` and return the pod as stored."""
    pod["spec"]["nodeName"] = node
    set_condition(pod, "PodScheduled", "True")
    return await store.update(PODS, pod, "binding")
