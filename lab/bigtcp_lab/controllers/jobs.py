"""The Job controller: runs a job's pods until enough have succeeded or too many have failed."""

from __future__ import annotations

from typing import Any

from bigtcp_lab.api.conditions import condition, is_ready
from bigtcp_lab.api.discovery import JOBS, PODS
from bigtcp_lab.api.events import record_event
from bigtcp_lab.api.store import Store, now, seconds_since

from .owners import controlled, pod_of

Object = dict[str, Any]

WATCHED = (JOBS, PODS)
_COMPONENT = "job-controller"
#: Seconds between two looks at jobs that have a deadline or a time to live.
_TIMED_S = 1.0


async def reconcile(store: Store) -> float | None:
    """Bring the pods and the status of every job up to date; a failed pod is replaced at once."""
    timed = False
    for job in await store.list(JOBS):
        if "deletionTimestamp" in job["metadata"]:
            continue
        if finished(job):
            timed |= await _expire(store, job)
        else:
            await _run(store, job)
            timed |= "activeDeadlineSeconds" in job["spec"]
    return _TIMED_S if timed else None


def finished(job: Object) -> str | None:
    """Return ``Complete`` or ``Failed`` for a job that has ended, else ``None``."""
    return next((kind for kind in ("Complete", "Failed") if condition(job, kind) == "True"), None)


async def _run(store: Store, job: Object) -> None:
    spec, namespace = job["spec"], job["metadata"]["namespace"]
    pods = controlled(await store.list(PODS, namespace), job)
    phases = [pod["status"].get("phase") for pod in pods]
    active = [p for p in pods if p["status"].get("phase") not in ("Succeeded", "Failed")]
    succeeded, failed = phases.count("Succeeded"), phases.count("Failed")
    old = job.get("status") or {}
    status: Object = {"startTime": old.get("startTime") or now(), "uncountedTerminatedPods": {}}
    overdue = seconds_since(status["startTime"]) > spec.get("activeDeadlineSeconds", float("inf"))
    if succeeded >= spec["completions"]:
        status["completionTime"] = now()
        status["conditions"] = [_condition("SuccessCriteriaMet"), _condition("Complete")]
        await record_event(store, job, "Completed", "Job completed", component=_COMPONENT)
    elif failed > spec["backoffLimit"]:
        text = "Job has reached the specified backoff limit"
        status["conditions"] = _failure("BackoffLimitExceeded", text)
        await record_event(store, job, "BackoffLimitExceeded", text, warning=True, component=_COMPONENT)
    elif overdue:
        text = "Job was active longer than specified deadline"
        status["conditions"] = _failure("DeadlineExceeded", text)
        await record_event(store, job, "DeadlineExceeded", text, warning=True, component=_COMPONENT)
    elif spec.get("suspend"):
        status.pop("startTime")
        status["conditions"] = [_condition("Suspended", "JobSuspended", "Job suspended")]
    if "conditions" in status:
        for pod in active:
            await store.delete(PODS, pod["metadata"]["name"], namespace)
        active = []
    else:
        missing = min(spec["parallelism"], spec["completions"] - succeeded) - len(active)
        for _ in range(missing):
            pod = await store.create(PODS, pod_of(job), namespace)
            active.append(pod)
            message = f"Created pod: {pod['metadata']['name']}"
            await record_event(store, job, "SuccessfulCreate", message, component=_COMPONENT)
        status["ready"] = sum(is_ready(pod) for pod in active)
    counts = {"active": len(active), "succeeded": succeeded, "failed": failed}
    status.update({key: value for key, value in counts.items() if value})
    metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid")}
    await store.update(JOBS, {"metadata": metadata, "status": status}, "status")


async def _expire(store: Store, job: Object) -> bool:
    """Delete a finished job whose time to live is over; returns whether it has one."""
    ttl_s = job["spec"].get("ttlSecondsAfterFinished")
    if ttl_s is None:
        return False
    ended = [c["lastTransitionTime"] for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed")]
    if seconds_since(ended[0]) >= ttl_s:
        await store.delete(JOBS, job["metadata"]["name"], job["metadata"]["namespace"])
    return True


def _failure(reason: str, message: str) -> list[Object]:
    return [_condition("FailureTarget", reason, message), _condition("Failed", reason, message)]


def _condition(
    kind: str, reason: str = "CompletionsReached", message: str = "Reached expected number of succeeded pods"
) -> Object:
    time = now()
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": time,
        "lastTransitionTime": time,
    }
