"""What a window is made of: what runs, restores and the guardian in the cluster agree on.

Names, times, the Lease's annotations, the saved state, and Cilium's own names for what is switched. The guardian
mounts this file into any image with python3: standard library only, no syntax newer than Python 3.9.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from bigtcp_bench.in_cluster.treatment import KEYS

Json = dict[str, Any]

#: The namespace of every object of the benchmark but the CiliumNodeConfig.
NAMESPACE = "bigtcp-bench"
LABELS = {"app.kubernetes.io/name": "bigtcp-bench"}
LEASE_NAME = "bigtcp-bench"
STATE_NAME = "bigtcp-bench-saved-state"
STATE_KEY = "state.json"
NODE_CONFIG_NAME = "zz-bigtcp-bench"
#: An agent that ended this often since it was created (about a minute) will not start.
CRASHES = 3
#: The guardian's CronJob, its ConfigMap, its service account and its roles.
GUARDIAN_NAME = "bigtcp-bench-guardian"
#: On the saved state, and on the Lease while somebody holds it: a namespace that is deleted waits for the restore.
FINALIZER = "bigtcp-bench/restore"
#: On the nodes (a label), on the Lease, the CiliumNodeConfig and ``cilium-config`` (an annotation): the window id.
WINDOW = "bigtcp-bench/window"
#: On the objects that a run changes: who did it.
HOLDER = "bigtcp-bench/holder"
#: On the Lease: what a task is changing right now.
IN_FLIGHT = "bigtcp-bench/in-flight"
#: On the Lease: the nodes of the window, for a restore that has no saved state any more.
NODES = "bigtcp-bench/nodes"
#: On the Lease: the window that has written, or is about to write, ``cilium-config``.
WROTE = "bigtcp-bench/wrote"
#: On the Lease: node → how often restores have restarted its agent, as JSON.
RESTARTS = "bigtcp-bench/restarts"
#: On the Lease: whose window has been put back and by whom, until the next one is opened.
RESTORED = "bigtcp-bench/restored"
#: On the Lease: the window whose settings a restore has undone, and when. An agent created later has the old
#: settings, so a second attempt need not restart it again.
UNDONE = "bigtcp-bench/undone"
#: On ``cilium-config`` (scope cluster): the arm that this package wrote.
ARM = "bigtcp-bench/arm"
#: Beside it: what ``cilium-config`` said before, as JSON, for a restore that has no saved state any more.
PRIOR = "bigtcp-bench/prior"
#: On the DaemonSet's pod template (scope cluster): window, arm and time of the last restart of all agents.
#: Changing it restarts them; removing it, again.
RESTARTED = "bigtcp-bench/restarted"
REVOKED = "revoked:"

#: A lease that is not renewed this long is over. Nobody renews between two tasks of a run, so this must be longer
#: than a busy scheduler takes from one task to the next, and than the API server is away in an upgrade.
LEASE_S = 600.0
RENEW_S = 20.0
#: A restore has no such gaps, and whoever takes over from a killed one should not wait long. But it must be longer
#: than a request of its is repeated while the API server is away (180 s), after the last renewal before that.
RESTORE_LEASE_S = 240.0
#: A killed Airflow task was seen to go on for up to 6 s; a request of its may be on its way for 10 s.
SETTLE_S = 12.0
#: How long a restore waits for another one that is under way.
OTHER_RESTORE_S = 300.0
#: How often the restores of one window restart the agent of one node: that often an agent may be killed or start
#: badly, more restarts do not mend it. The last one waits until the agent is so old.
MAX_RESTARTS = 3
LAST_RESTART_S = 1800.0

#: What Cilium calls things.
CONFIGMAP_NAME = "cilium-config"
AGENT_LABELS = "k8s-app=cilium"
#: As Cilium's chart names it; others may name it otherwise.
DAEMONSET_NAME = "cilium"


# --- The saved state -------------------------------------------------------------------------------------------

#: Raised whenever a field changes. What version 1 lacks is not known then, and nothing else is different.
STATE_VERSION = 2


class Unreadable(Exception):
    """The saved state is not one that this version of the package can go by; the text says why."""


@dataclasses.dataclass(frozen=True)
class SavedNode:
    """One node before the first change.

    ``machine`` and ``boot`` are what the kubelet tells of the hardware and of its last start (empty: not told).
    ``merged`` is IP family → whether its agent had been told BIG TCP, None where nobody knows; ``limits`` is
    device → limit → bytes, of the devices that Cilium selects.
    """

    role: str
    machine: str
    boot: str
    agent_pod: str
    agent_uid: str
    merged: dict[str, bool] | None
    limits: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class SavedState:
    """Everything that is needed to put the cluster back, as it was before a run's first change.

    ``node_config`` is a CiliumNodeConfig of our name that was there before (labels, annotations, spec), or None.
    ``config_map`` is what the two keys of ``cilium-config`` said (None: not set); it is None itself where nobody
    knows. A restore that finds changes but no saved state writes one of what it found, before it undoes anything:
    ``plan`` is empty then.
    """

    package_version: str
    holder: str
    window: str
    saved_at: str
    plan: str
    scope: str
    image: str
    cilium_namespace: str
    cilium_daemonset: str
    cilium_image: str
    node_config: Json | None
    config_map: dict[str, str | None] | None
    nodes: dict[str, SavedNode]
    image_pull_secrets: tuple[str, ...] = ()
    version: int = STATE_VERSION

    def to_dict(self) -> Json:
        """Return plain data, as it is saved."""
        return dataclasses.asdict(self)


def read_saved(config_map: Mapping[str, Any]) -> SavedState:
    """Return the state in the ConfigMap that holds it; of version 1, too.

    Every user, the guardian included, reads it here: what one of them refuses, all refuse. Raises Unreadable.
    """
    try:
        return _read((config_map.get("data") or {})[STATE_KEY])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"it has no {STATE_KEY} in JSON ({error!r})") from error


#: Before each change it is read again, and has not changed.
@functools.lru_cache(maxsize=8)
def _read(text: str) -> SavedState:
    document = json.loads(text)
    version = document.get("version") if isinstance(document, dict) else None
    if version not in (1, STATE_VERSION) or isinstance(version, bool):
        raise Unreadable(f"version = {version!r}: must be 1 or {STATE_VERSION}")
    if version == 1:
        document = _of_version_1(document)
    _check_fields(document, SavedState, "the document")
    nodes = {}
    for name, node in document["nodes"].items():
        _check_fields(node, SavedNode, f"nodes.{name}")
        nodes[name] = SavedNode(**node)
    secrets = tuple(document["image_pull_secrets"])
    return SavedState(**{**document, "nodes": nodes, "image_pull_secrets": secrets, "version": STATE_VERSION})


def _of_version_1(document: Json) -> Json:
    nodes = document.get("nodes")
    if not isinstance(nodes, dict):
        return document
    later = {"machine": "", "boot": ""}
    told = {
        # What the configuration said was what the agent had been told, or no window was opened.
        name: {**later, **{key: value for key, value in node.items() if key != "expected"}}
        for name, node in nodes.items()
        if isinstance(node, dict)
    }
    return {**document, "nodes": {**nodes, **told}}


def _check_fields(document: Any, form: type, where: str) -> None:
    """Raise Unreadable unless ``document`` has exactly the fields of the dataclass ``form``, each of its kind."""
    if not isinstance(document, dict):
        raise Unreadable(f"{where} = {document!r:.80}: must be an object")
    known = {one.name for one in dataclasses.fields(form)}
    unknown = sorted(set(document) - known) + sorted(known - set(document))
    if unknown:
        lacking = "is missing" if unknown[0] in known else "is not a known field"
        raise Unreadable(f"{where}: {unknown[0]} {lacking}")
    for field, value in document.items():
        kind, fits = _KINDS.get(field, ("a text", _is_text))
        if not fits(value):
            raise Unreadable(f"{where}: {field} = {value!r:.80}: must be {kind}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_map(value: Any, fits: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and fits(one) for key, one in value.items())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, tuple[str, Any]] = {
    "version": ("a whole number", _is_whole),
    "scope": ("nodes or cluster", lambda value: value in ("nodes", "cluster")),
    "image_pull_secrets": (
        "a list of texts",
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value),
    ),
    "node_config": (
        "null, or labels, annotations and spec",
        lambda value: (
            value is None
            or (
                isinstance(value, dict)
                and set(value) == {"labels", "annotations", "spec"}
                and _is_map(value["labels"], _is_text)
                and _is_map(value["annotations"], _is_text)
                and isinstance(value["spec"], dict)
            )
        ),
    ),
    "config_map": (
        f"null, or a text or null for each of {', '.join(KEYS.values())}",
        lambda value: (
            value is None
            or (_is_map(value, lambda one: one is None or _is_text(one)) and set(value) == set(KEYS.values()))
        ),
    ),
    "merged": (
        f"null, or true or false for each of {', '.join(KEYS)}",
        lambda value: (
            value is None or (_is_map(value, lambda one: isinstance(one, bool)) and set(value) == set(KEYS))
        ),
    ),
    "limits": ("device → limit → bytes", lambda value: _is_map(value, lambda one: _is_map(one, _is_whole))),
    "nodes": ("name → node", lambda value: _is_map(value, lambda one: isinstance(one, dict))),
}


def state_object(state: SavedState) -> Json:
    """Return the ConfigMap that holds ``state``: written once, and held by our finalizer until it is restored."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": STATE_NAME,
            "namespace": NAMESPACE,
            "labels": dict(LABELS),
            "annotations": {HOLDER: state.holder, WINDOW: state.window},
            "finalizers": [FINALIZER],
        },
        # Written once; only deleting it ends a window.
        "immutable": True,
        "data": {STATE_KEY: json.dumps(state.to_dict(), indent=1)},
    }


def machine_of(node: Json) -> str:
    """Return what tells the machine behind a Node from another one of its name; empty if nothing does.

    By its hardware first: the machine id comes from the root file system, which some systems make anew.
    """
    told = (node.get("status") or {}).get("nodeInfo") or {}
    return str(told.get("systemUUID") or told.get("machineID") or "").lower()


def boot_of(node: Json) -> str:
    """Return the kubelet's word for the machine's last start; empty if it has none."""
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("bootID") or "")


# --- The Lease -------------------------------------------------------------------------------------------------


def take(
    seen: Json | None,
    holder: str,
    window: str,
    now: float,
    duration_s: float,
    annotations: Mapping[str, str | None] | None = None,
) -> Json:
    """Return the Lease, ``seen`` in this version or not there yet, as ``holder`` takes it for ``window``.

    A run's concern no window before its own; a restore keeps what is noted, and waits for what is in flight.
    """
    body: Json = (
        copy.deepcopy(seen)
        if seen is not None
        else {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE_NAME, "namespace": NAMESPACE, "labels": dict(LABELS)},
        }
    )
    spec = body.setdefault("spec", {})
    spec.update(
        holderIdentity=holder,
        leaseDurationSeconds=round(duration_s),
        acquireTime=micro_time(now),
        renewTime=micro_time(now),
        leaseTransitions=int(spec.get("leaseTransitions") or 0) + 1,
    )
    if not holder.startswith(REVOKED):
        annotate(body, dict.fromkeys((IN_FLIGHT, RESTORED, UNDONE, NODES, WROTE, RESTARTS)))
    annotate(body, {WINDOW: window, **(annotations or {})})
    held = body["metadata"].get("finalizers") or []
    if FINALIZER not in held and not body["metadata"].get("deletionTimestamp"):
        body["metadata"]["finalizers"] = [*held, FINALIZER]
    return body


def give_back(body: Json) -> None:
    """Let nobody hold the Lease ``body`` any more."""
    body["spec"]["holderIdentity"] = ""
    annotate(body, dict.fromkeys((WINDOW, IN_FLIGHT, UNDONE, NODES, WROTE, RESTARTS)))
    release_finalizer(body)


def release_finalizer(body: Json) -> None:
    """Take our finalizer off an object, so that its deletion, or its namespace's, need not wait any more."""
    body["metadata"]["finalizers"] = [one for one in body["metadata"].get("finalizers") or [] if one != FINALIZER]


def is_live(lease: Json | None, now: float) -> bool:
    """Return whether somebody holds the Lease and has renewed it in time."""
    spec = (lease or {}).get("spec") or {}
    until = epoch(spec.get("renewTime")) + float(spec.get("leaseDurationSeconds") or 0)
    return bool(spec.get("holderIdentity")) and now < until


def annotations_of(body: Json | None) -> dict[str, str]:
    """Return an object's annotations; none of an object that is not there."""
    return ((body or {}).get("metadata") or {}).get("annotations") or {}


def annotate(body: Json, changes: Mapping[str, str | None]) -> None:
    """Set annotations of ``body``; None removes one."""
    annotations = {**annotations_of(body), **changes}
    body["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}


def micro_time(seconds: float) -> str:
    """Return a time in seconds since the epoch as Kubernetes writes it in a Lease."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: UP017


def epoch(text: str | None) -> float:
    """Return a time as Kubernetes writes it in seconds since the epoch, 0 for none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


# --- Cilium's rules, and what is ours --------------------------------------------------------------------------


def merged_settings(
    keys: Mapping[Any, str], data: Mapping[str, str], configs: list[Json], labels: Mapping[str, str]
) -> dict[Any, bool]:
    """Return family → what an agent started now would be told, by Cilium's own rules.

    ``data`` is that of ``cilium-config``; over it go the CiliumNodeConfigs that select a node with ``labels``, in
    the order of their names. ``keys`` is family → configuration key.
    """
    values = {key: data.get(key) for key in keys.values()}
    for config in sorted(configs, key=lambda item: str(item["metadata"]["name"])):
        spec = config.get("spec") or {}
        if selects(spec.get("nodeSelector"), labels):
            defaults = spec.get("defaults") or {}
            values.update({key: defaults[key] for key in values if key in defaults})
    return {family: (values[key] or "").strip().lower() == "true" for family, key in keys.items()}


def changed_keys(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the keys, but those of BIG TCP, that one agent was told otherwise than the next; empty if none.

    Nobody knows of an agent that told no other key.
    """
    # The last two the init container adds about itself.
    but = {*KEYS.values(), "config-sources", "config-sources-overrides"}
    if not (before.keys() - but and after.keys() - but):
        return ""
    keys = sorted(before.keys() | after.keys())
    return ", ".join(key for key in keys if key not in but and before.get(key, "") != after.get(key, ""))


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects ``labels``; an absent selector selects nothing, an empty one all."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        matched = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not matched:
            return False
    return True


def is_ours(node_config: Json) -> bool:
    """Return whether a CiliumNodeConfig of our name was written by a run: it says so, or selects a window."""
    selector = (node_config.get("spec") or {}).get("nodeSelector") or {}
    return WINDOW in annotations_of(node_config) or WINDOW in (selector.get("matchLabels") or {})


def as_saved(node_config: Json) -> Json:
    """Return what is saved of a CiliumNodeConfig."""
    meta = node_config["metadata"]
    return {
        "labels": meta.get("labels") or {},
        "annotations": meta.get("annotations") or {},
        "spec": node_config.get("spec") or {},
    }


def node_config_as_before(found: Json | None, prior: Json, namespace: str, api_version: str) -> Json:
    """Return the CiliumNodeConfig of our name as it was before the run."""
    body = found or {"kind": "CiliumNodeConfig", "metadata": {"name": NODE_CONFIG_NAME, "namespace": namespace}}
    body["apiVersion"] = api_version
    body["metadata"].update(labels=dict(prior["labels"]), annotations=dict(prior["annotations"]))
    body["spec"] = prior["spec"]
    return body


@dataclasses.dataclass(frozen=True)
class ConfigMapUndoing:
    """What becomes of ``cilium-config``: the merge patch (None: it stays), and keys by whose value they keep.

    ``theirs`` were changed by somebody else during the run; of ``unknown`` nothing tells what they said before.
    """

    patch: Json | None
    theirs: list[str]
    unknown: list[str]


def undo_config_map(found: Json, prior: Mapping[str, str | None] | None, wrote: bool) -> ConfigMapUndoing:
    """Return how the ``cilium-config`` ``found`` becomes what it was before a run, key by key.

    Which values are the run's its annotation tells. If that is gone although the window has written them
    (``wrote``), nothing tells ours from theirs, and the saved ``prior`` says what is right.
    """
    data, arm = found.get("data") or {}, annotations_of(found).get(ARM)
    values: dict[str, str | None] = {}
    theirs, unknown = [], []
    for key in KEYS.values():
        if arm is not None and data.get(key) != ("true" if arm == "on" else "false"):
            if prior is None or data.get(key) != prior[key]:
                theirs.append(key)
        elif prior is None:
            unknown += [key] * (arm is not None)
        elif (arm is not None or wrote) and data.get(key) != prior[key]:
            values[key] = prior[key]
    annotations = dict.fromkeys((ARM, PRIOR, WINDOW, HOLDER))
    marked = arm is not None or (wrote and bool(annotations.keys() & annotations_of(found).keys()))
    if unknown or not (marked or values):
        return ConfigMapUndoing(None, theirs, unknown)
    metadata = {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": annotations}
    return ConfigMapUndoing({"metadata": metadata, **({"data": values} if values else {})}, theirs, [])


def prior_values(config_map: Json) -> dict[str, str | None] | None:
    """Return what ``cilium-config`` said before a run, as it noted beside its change; None if it did not."""
    try:
        values = json.loads(annotations_of(config_map).get(PRIOR, ""))
    except ValueError:
        return None
    return values if isinstance(values, dict) and set(values) == set(KEYS.values()) else None


def template_annotation(found: Json, value: str | None) -> Json:
    """Return the merge patch that sets (None: removes) what restarts all agents of the DaemonSet ``found``."""
    return {
        "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
        "spec": {"template": {"metadata": {"annotations": {RESTARTED: value}}}},
    }


def restarted_by(daemonset: Json | None) -> str | None:
    """Return what a run has written into the pod template to restart the agents, or None."""
    template = ((daemonset or {}).get("spec") or {}).get("template") or {}
    return ((template.get("metadata") or {}).get("annotations") or {}).get(RESTARTED)


def rollout_state(daemonset: Json) -> str:
    """Return how far a DaemonSet's rollout is, or nothing when every agent runs its template and is available."""
    status = daemonset.get("status") or {}
    desired = status.get("desiredNumberScheduled", 0)
    updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
    if is_observed(daemonset) and desired and updated == desired == available:
        return ""
    return f"{updated} of {desired} agents are updated, {available} available"


def is_observed(daemonset: Json) -> bool:
    """Return whether a DaemonSet's status is about its present spec."""
    status = daemonset.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= daemonset["metadata"]["generation"])


def present_agent(pods: Iterable[Json], daemonset: str) -> Json | None:
    """Return the newest of ``pods`` that is Cilium's and is not being deleted, or None."""
    ours = [pod for pod in pods if is_agent(pod, daemonset) and not pod["metadata"].get("deletionTimestamp")]
    return max(ours, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def is_agent(pod: Json, daemonset: str) -> bool:
    """Return whether a pod is of Cilium's DaemonSet: the label alone anybody may have."""
    owners = pod["metadata"].get("ownerReferences") or []
    return any(one.get("kind") == "DaemonSet" and one.get("name") == daemonset for one in owners)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod, or a node, has the condition Ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def node_trouble(node: Json | None) -> str:
    """Return what is wrong with a node, in words that fit after what was waited for; empty if it is Ready."""
    if node is None:
        return "; the node no longer exists"
    return "" if is_ready(node) else "; the node is not Ready"


def waiting_reason(pod: Mapping[str, Any]) -> str:
    """Return why a pod is not ready, in words that fit after its name."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"cannot be scheduled: {condition.get('message', 'no reason given')}"
    for item in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        state = item.get("state") or {}
        last = (item.get("lastState") or {}).get("terminated")
        if "waiting" in state:
            reason = state["waiting"].get("reason", "unknown")
            waits = f"container {item['name']} waits: {reason}"
            if last is not None and reason == "CrashLoopBackOff":
                # The kubelet's own words then say no more than that it ended again and again.
                return _words(f"{waits}, after it ended with {_exit(last)}", last.get("message"))
            return _words(waits, state["waiting"].get("message"))
        ended = state.get("terminated") or {}
        if ended and ended.get("exitCode") != 0:
            reason = ended.get("reason", ended.get("exitCode"))
            return _words(f"container {item['name']} ended: {reason}", ended.get("message"))
        if "running" in state and last is not None and not item.get("ready", False):
            again = f"container {item['name']} was started again after it ended with {_exit(last)}"
            return _words(again, last.get("message"))
        if "running" in state and not item.get("ready", False):
            return f"container {item['name']} runs but is not ready"
    if status.get("message"):
        return f"is {status.get('phase', 'Pending')}: {status['message']}"
    return f"is {status.get('phase', 'Pending')}"


#: The line of a log that says why a program has ended (Cilium's loggers, and Go).
_FATAL = re.compile(r"\blevel\W{1,3}(fatal|panic)\b|^panic: |^fatal error: ")


def _exit(ended: Mapping[str, Any]) -> str:
    return f"{ended.get('reason', 'Error')} {ended.get('exitCode', '')}".rstrip()


def _words(text: str, said: str | None) -> str:
    lines = (said or "").splitlines()
    # A log that ends in what was stopped, or in a stack, tells why before that.
    why = [line for line in lines if _FATAL.search(line)]
    told = " ".join(" ".join(why[-1:] or lines).split())
    return f"{text} ({told[-200:]})" if told else text


def crashes(pod: Mapping[str, Any]) -> bool:
    """Return whether the agent itself ends again and again; its init containers may just lack the API server."""
    for item in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (item.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") == "CrashLoopBackOff" and item.get("restartCount", 0) >= CRASHES:
            return True
    return False


def words(merged: Mapping[Any, bool]) -> str:
    """Return settings in words."""
    return " and ".join(f"{'on' if value else 'off'} for {family}" for family, value in merged.items())
