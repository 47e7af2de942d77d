"""The guardian's objects in the cluster: its CronJob and its script, there for as long as a window is open.

What the guardian does is in ``in_cluster/guardian.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from bigtcp_bench.cluster import pods, rights
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    ApiProblem,
    ApiUnreachable,
    Before,
    ClusterApi,
    Conflict,
    Forbidden,
    JsonObject,
    Kind,
)
from bigtcp_bench.cluster.cilium import AGENT_READY_S, find_cilium
from bigtcp_bench.cluster.hands import means_of
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.cluster.rights import Right
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.in_cluster import guardian as script
from bigtcp_bench.in_cluster import hold, objects, output, protocol, treatment
from bigtcp_bench.in_cluster import restore as core
from bigtcp_bench.resources import load_manifest

CRONJOB = Kind("batch", "v1", "cronjobs")
SERVICEACCOUNT = Kind("", "v1", "serviceaccounts")

#: What the guardian mounts, as the package that these files are of.
FILES = [Path(str(module.__file__)) for module in (script, core, objects, hold, protocol, treatment)]
ORDERS_FILE = "orders.json"
#: Of CronJob, ConfigMap and service account.
NAME, NAMESPACE = protocol.GUARDIAN_NAME, protocol.NAMESPACE
#: How often it looks, in minutes: a dead run's changes stay for the time of the Lease, and up to so much more.
EVERY_MIN = 5
#: What its first look may take beyond that, with an image that has to be pulled.
FIRST_LOOK_S = 180.0
#: Beyond this the CronJob's next look is the better retry.
AWAY_S = 60.0

REMEDY = "an administrator can change that: kubectl apply -f include/manifests/rbac.yaml"

#: What becomes of the guardian's Jobs: gone with it, or cut loose, so that a log can be read.
Jobs = Literal["Background", "Orphan"]


def cronjob(image: str, now: float, pair: NodePair, pull_secrets: Iterable[str] = ()) -> JsonObject:
    """Return the CronJob, whose first look is ``EVERY_MIN`` minutes after ``now`` (seconds since the epoch).

    It runs on nodes of the architecture of ``pair``, which is known to be one that the image is made for.
    """
    body = load_manifest("guardian.yaml")
    body["spec"]["schedule"] = f"{int(now // 60) % EVERY_MIN}-59/{EVERY_MIN} * * * *"
    pod = body["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = image
    architectures = {node.architecture for node in pair.nodes if node.architecture}
    if len(architectures) == 1:
        pod["nodeSelector"]["kubernetes.io/arch"] = architectures.pop()
    secrets = [{"name": name} for name in pull_secrets]
    if secrets:
        pod["imagePullSecrets"] = secrets
    return body


def config_map(image: str, pull_secrets: Iterable[str] = (), agent_ready_s: float = AGENT_READY_S) -> JsonObject:
    """Return the ConfigMap with the guardian's files and what it is told."""
    told = {
        "away_s": AWAY_S,
        "marker": output.MARKER,
        "means": dataclasses.asdict(means_of(image, pull_secrets, agent_ready_s)),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": dict(protocol.LABELS),
        },
        "data": {
            **{file.name: file.read_text(encoding="utf-8") for file in FILES},
            ORDERS_FILE: json.dumps(told, indent=1),
        },
    }


def obstacle(api: ClusterApi) -> str:
    """Return why no guardian can be had here; empty if one can. ``REMEDY`` helps."""
    try:
        if api.find(SERVICEACCOUNT, NAME, NAMESPACE) is None:
            return f"namespace {NAMESPACE} has no ServiceAccount {NAME}"
    except Forbidden:
        return f"the account in use may not look for ServiceAccount {NAMESPACE}/{NAME}"
    wanted = [
        Right("create", CRONJOB.group, CRONJOB.plural, NAMESPACE),
        Right("delete", CRONJOB.group, CRONJOB.plural, NAMESPACE, NAME),
    ]
    lacking = rights.missing(api, wanted)
    return f"the account in use may not {lacking[0]}" if lacking else ""


def install(
    api: ClusterApi,
    image: str,
    pair: NodePair,
    *,
    pull_secrets: Iterable[str] = (),
    before: Before,
) -> str:
    """Write script and CronJob, in place of what there may be; return why that cannot be, or an empty string.

    ``before`` is the fence. Raises FenceLost, and ApiUnreachable.
    """
    secrets = list(pull_secrets)
    try:
        reason = obstacle(api)
        if reason:
            return f"{reason}; {REMEDY}"
        remove(api, jobs="Orphan", before=before)
        _create(api, CONFIGMAP, config_map(image, secrets, find_cilium(api).agent_ready_s), before)
        _create(api, CRONJOB, cronjob(image, api.now(), pair, secrets), before)
    except ApiUnreachable:
        raise
    except (ApiProblem, PreconditionFailed) as error:
        return str(error)
    return ""


def _create(api: ClusterApi, kind: Kind, body: Mapping[str, Any], before: Before) -> None:
    """Create an object whose predecessor may be still going away."""
    for _ in api.poll(30, 0.2):
        try:
            api.create(kind, body, NAMESPACE, before=before)
            return
        except Conflict:
            found = api.find(kind, body["metadata"]["name"], NAMESPACE)
            if found is not None and not found["metadata"].get("deletionTimestamp"):
                return  # our own, by an attempt whose answer was lost: nobody else holds the cluster
    name = body["metadata"]["name"]
    raise PreconditionFailed(f"{body['kind']} {NAMESPACE}/{name} is still there 30 s after it was deleted")


def is_there(api: ClusterApi) -> bool:
    """Return whether there is a guardian, or half of one; False if the account in use may not look.

    One that is about to go does not count: it stays until its Jobs are cut loose.
    """
    with contextlib.suppress(Forbidden):
        found = [api.find(CRONJOB, NAME, NAMESPACE), api.find(CONFIGMAP, NAME, NAMESPACE)]
        return any(item is not None and not item["metadata"].get("deletionTimestamp") for item in found)
    return False


def silence(api: ClusterApi) -> str:
    """Return what is wrong if the guardian should have looked by now and never has; empty if nothing is.

    Its image may not be there for it, or no node may want it; a run would learn of neither before it needs it.
    """
    with contextlib.suppress(Forbidden):
        found = api.find(CRONJOB, NAME, NAMESPACE) or {}
        created = (found.get("metadata") or {}).get("creationTimestamp")
        if not created or (found.get("status") or {}).get("lastSuccessfulTime"):
            return ""
        age_s = api.now() - datetime.fromisoformat(created).timestamp()
        if age_s > EVERY_MIN * 60 + FIRST_LOOK_S:
            return (
                f"the guardian {NAMESPACE}/{NAME} has not looked in {age_s / 60:.0f} minutes, so the cluster may "
                f"stay as it is if Airflow never comes back; kubectl -n {NAMESPACE} get jobs,pods -l "
                f"{pods.ROLE_LABEL}=guardian tells why"
            )
    return ""


def remove(api: ClusterApi, *, jobs: Jobs, before: Before) -> bool:
    """Delete CronJob and script; return whether there was a guardian. ``before`` is the fence."""
    there = False
    for kind in (CRONJOB, CONFIGMAP):
        found = api.find(kind, NAME, NAMESPACE)
        if found is not None:
            # The uid, so that a restore which was overtaken cannot delete the guardian of the next window.
            uid, propagation = found["metadata"]["uid"], jobs if kind is CRONJOB else None
            there |= api.delete(kind, NAME, NAMESPACE, uid=uid, propagation=propagation, before=before)
    return there
