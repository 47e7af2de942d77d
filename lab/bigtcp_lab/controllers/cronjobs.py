"""The CronJob controller: starts jobs when their time has come and clears away the old ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from bigtcp_lab.api.discovery import CRONJOBS, JOBS
from bigtcp_lab.api.events import record_event
from bigtcp_lab.api.store import Store

from ..api.copies import copied
from .jobs import finished
from .owners import controlled, owner_reference

Object = dict[str, Any]

WATCHED = (CRONJOBS, JOBS)
_COMPONENT = "cronjob-controller"
#: Longest sleep of the controller: a suspended laptop's clock jumps.
_LONGEST_SLEEP_S = 30.0


async def reconcile(store: Store) -> float | None:
    """Start what is due, delete what is history; returns the seconds until the next job is due."""
    waits = [
        await _reconcile_one(store, cronjob)
        for cronjob in await store.list(CRONJOBS)
        if "deletionTimestamp" not in cronjob["metadata"]
    ]
    due = [wait for wait in waits if wait is not None]
    return min([*due, _LONGEST_SLEEP_S]) if due else None


async def _reconcile_one(store: Store, cronjob: Object) -> float | None:
    spec, namespace = cronjob["spec"], cronjob["metadata"]["namespace"]
    jobs = controlled(await store.list(JOBS, namespace), cronjob)
    await _clear_history(store, cronjob, jobs)
    active = [job for job in jobs if not finished(job)]
    status = dict(cronjob.get("status") or {})
    if not spec["suspend"] and (due := last_due(cronjob, datetime.now(UTC))) is not None:
        status["lastScheduleTime"] = due.strftime("%Y-%m-%dT%H:%M:%SZ")
        if spec["concurrencyPolicy"] == "Replace":
            for job in active:
                await store.delete(JOBS, job["metadata"]["name"], namespace)
            active = []
        if spec["concurrencyPolicy"] == "Forbid" and active:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            await record_event(store, cronjob, "JobAlreadyActive", message, component=_COMPONENT)
        else:
            job = await store.create(JOBS, _job(cronjob, due), namespace)
            active.append(job)
            message = f"Created job {job['metadata']['name']}"
            await record_event(store, cronjob, "SuccessfulCreate", message, component=_COMPONENT)
    done = [j["status"]["completionTime"] for j in jobs if finished(j) == "Complete"]
    status["lastSuccessfulTime"] = max([*done, status.get("lastSuccessfulTime") or ""])
    status["active"] = [_reference(job) for job in active]
    status = {key: value for key, value in status.items() if value}
    metadata = {key: cronjob["metadata"][key] for key in ("name", "namespace", "uid")}
    await store.update(CRONJOBS, {"metadata": metadata, "status": status}, "status")
    if spec["suspend"]:
        return None
    zone = ZoneInfo(spec.get("timeZone") or "UTC")
    start = datetime.now(zone)
    return max(0.0, (croniter(spec["schedule"], start).get_next(datetime) - start).total_seconds()) + 0.01


def last_due(cronjob: Object, time: datetime) -> datetime | None:
    """Return the latest moment up to ``time`` at which a job should have been started and was not, or ``None``.

    A moment longer ago than ``startingDeadlineSeconds`` is lost.
    """
    spec, zone = cronjob["spec"], ZoneInfo(cronjob["spec"].get("timeZone") or "UTC")
    text = (cronjob.get("status") or {}).get("lastScheduleTime") or cronjob["metadata"]["creationTimestamp"]
    last = datetime.fromisoformat(text)
    local = time.astimezone(zone)
    # croniter's "previous" is strictly before its start: a moment that is exactly now is due, too
    due = croniter(spec["schedule"], local + timedelta(microseconds=1)).get_prev(datetime).astimezone(UTC)
    if due <= last:
        return None
    if (time - due).total_seconds() > spec.get("startingDeadlineSeconds", float("inf")):
        return None
    return due


async def _clear_history(store: Store, cronjob: Object, jobs: list[Object]) -> None:
    limits = {"Complete": "successfulJobsHistoryLimit", "Failed": "failedJobsHistoryLimit"}
    for outcome, field in limits.items():
        ended = sorted(
            (job for job in jobs if finished(job) == outcome), key=lambda job: job["status"].get("startTime", "")
        )
        for job in ended[: max(0, len(ended) - cronjob["spec"][field])]:
            await store.delete(JOBS, job["metadata"]["name"], job["metadata"]["namespace"])


def _job(cronjob: Object, due: datetime) -> Object:
    template = copied(cronjob["spec"]["jobTemplate"])
    metadata = template.get("metadata") or {}
    stamp = {"batch.kubernetes.io/cronjob-scheduled-timestamp": due.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{cronjob['metadata']['name']}-{int(due.timestamp()) // 60}",
            "labels": metadata.get("labels") or {},
            "annotations": {**(metadata.get("annotations") or {}), **stamp},
            "ownerReferences": [owner_reference(cronjob)],
        },
        "spec": template["spec"],
    }


def _reference(job: Object) -> Object:
    metadata = job["metadata"]
    reference = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"apiVersion": "batch/v1", "kind": "Job", **reference}
