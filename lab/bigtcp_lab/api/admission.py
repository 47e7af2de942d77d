"""What the API fills in and checks before an object is stored: defaults of pods, names, required fields."""

from __future__ import annotations

import re
import secrets
from typing import Any

from .discovery import CONFIGMAPS, DAEMONSETS, JOBS, NAMESPACES, PODS, SECRETS, Resource
from .status import bad_request, invalid

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
#: Letters Kubernetes puts into generated names: no vowels and nothing that looks like a digit.
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MAX_NAME_LENGTH = 253
_MAX_LABEL_LENGTH = 63
#: Seconds a pod stays on a node that is not ready or not reachable, as Kubernetes' admission adds them.
_NODE_TROUBLE_SECONDS = 300
#: A pod's fields that may still be changed once it exists.
_MUTABLE_POD_FIELDS = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")


def random_suffix(length: int = 5) -> str:
    """Return random letters as Kubernetes appends them to generated names."""
    return "".join(secrets.choice(_NAME_LETTERS) for _ in range(length))


def prepare(resource: Resource, obj: dict[str, Any]) -> None:
    """Fill in the defaults of a new ``obj`` in place, then check it; raises ``ApiError`` 422."""
    _validate(resource, obj)
    if resource == PODS:
        _default_pod(obj)
    elif resource == NAMESPACES:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj["status"] = {"phase": "Active"}
    elif resource == DAEMONSETS:
        spec = obj["spec"]
        default_pod_spec(spec["template"]["spec"])
        spec.setdefault("revisionHistoryLimit", 10)
        strategy = spec.setdefault("updateStrategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxSurge", 0)
            rolling.setdefault("maxUnavailable", 1)
    elif resource == JOBS:
        _default_job(obj)
    elif resource.plural == "cronjobs":
        defaults = {"concurrencyPolicy": "Allow", "suspend": False}
        limits = {"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}
        obj["spec"] = {**defaults, **limits, **obj["spec"]}
    elif resource == SECRETS:
        obj.setdefault("type", "Opaque")


def validate_update(resource: Resource, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Check a changed object against its predecessor; raises ``ApiError`` 422 for fields that must not change."""
    _validate(resource, new)
    if resource != PODS:
        return

    def fixed(spec: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in spec.items() if key not in _MUTABLE_POD_FIELDS}
        for field in ("containers", "initContainers"):
            if field in kept:
                kept[field] = [{k: v for k, v in item.items() if k != "image"} for item in kept[field]]
        return kept

    if fixed(old["spec"]) != fixed(new["spec"]):
        message = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
            "previously negative)"
        )
        raise invalid(resource, new["metadata"]["name"], [("spec", "FieldValueForbidden", message)])


def _validate(resource: Resource, obj: dict[str, Any]) -> None:
    metadata = obj["metadata"]
    name = metadata.get("name", "")
    causes: list[tuple[str, str, str]] = []
    if resource.group != "rbac.authorization.k8s.io" and (
        len(name) > _MAX_NAME_LENGTH or not re.fullmatch(_SUBDOMAIN, name)
    ):
        causes.append(("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {_SUBDOMAIN_MESSAGE}'))
    for value in (metadata.get("labels") or {}).values():
        if not isinstance(value, str) or len(value) > _MAX_LABEL_LENGTH or not _LABEL_VALUE.match(value):
            text = f'Invalid value: "{value}": {_LABEL_MESSAGE}'
            causes.append(("metadata.labels", "FieldValueInvalid", text))
    spec = obj.get("spec") or {}
    if resource == PODS:
        causes += _pod_causes(spec, "spec")
    elif resource in (DAEMONSETS, JOBS):
        causes += _pod_causes((spec.get("template") or {}).get("spec") or {}, "spec.template.spec")
        if resource == DAEMONSETS and not spec.get("selector"):
            causes.append(("spec.selector", "FieldValueRequired", "Required value"))
    elif resource.plural == "cronjobs":
        causes += _cronjob_causes(spec)
    elif resource == CONFIGMAPS:
        _check_strings(obj, "data")
    elif resource.plural == "ciliumnodeconfigs":
        causes += _node_config_causes(spec)
    if causes:
        raise invalid(resource, name, causes)


def _pod_causes(spec: dict[str, Any], path: str) -> list[tuple[str, str, str]]:
    causes: list[tuple[str, str, str]] = []
    if not spec.get("containers"):
        causes.append((f"{path}.containers", "FieldValueRequired", "Required value"))
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or []):
            place = f"{path}.{field}[{index}]"
            for key in ("name", "image"):
                if not container.get(key):
                    causes.append((f"{place}.{key}", "FieldValueRequired", "Required value"))
            name = container.get("name", "")
            if name in seen:
                causes.append((f"{place}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
            seen.add(name)
            for number, mount in enumerate(container.get("volumeMounts") or []):
                if mount.get("name") not in volumes:
                    text = f'Not found: "{mount.get("name")}"'
                    causes.append((f"{place}.volumeMounts[{number}].name", "FieldValueNotFound", text))
    policy = spec.get("restartPolicy")
    if policy not in (None, "Always", "OnFailure", "Never"):
        text = f'Unsupported value: "{policy}": supported values: "Always", "Never", "OnFailure"'
        causes.append((f"{path}.restartPolicy", "FieldValueNotSupported", text))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and deadline < 1:
        text = f"Invalid value: {deadline}: must be between 1 and 2147483647, inclusive"
        causes.append((f"{path}.activeDeadlineSeconds", "FieldValueInvalid", text))
    return causes


def _check_strings(obj: dict[str, Any], field: str) -> None:
    """Refuse anything but text in a map of text, as the API's decoder does."""
    for key, value in (obj.get(field) or {}).items():
        if not isinstance(value, str):
            kind = obj["kind"]
            raise bad_request(
                f"{kind} in version {obj['apiVersion']!r} cannot be handled as a {kind}: json: cannot unmarshal "
                f"{type(value).__name__} into Go struct field {kind}.{field} of type string ({key})"
            )


def _node_config_causes(spec: dict[str, Any]) -> list[tuple[str, str, str]]:
    missing = [name for name in ("defaults", "nodeSelector") if name not in spec]
    causes = [(f"spec.{name}", "FieldValueRequired", "Required value") for name in missing]
    for key, value in (spec.get("defaults") or {}).items():
        if not isinstance(value, str):
            kind = {"bool": "boolean", "int": "integer"}.get(type(value).__name__, "object")
            text = f'Invalid value: "{kind}": spec.defaults.{key} in body must be of type string: "{kind}"'
            causes.append((f"spec.defaults.{key}", "FieldValueTypeInvalid", text))
    return causes


def _cronjob_causes(spec: dict[str, Any]) -> list[tuple[str, str, str]]:
    from croniter import croniter

    schedule = spec.get("schedule", "")
    if not croniter.is_valid(schedule):
        text = f'Invalid value: "{schedule}": expected exactly 5 fields'
        return [("spec.schedule", "FieldValueInvalid", text)]
    template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
    return _pod_causes(template.get("spec") or {}, "spec.jobTemplate.spec.template.spec")


def default_pod_spec(spec: dict[str, Any]) -> None:
    """Fill in the defaults of a pod's specification (or of one in a template) in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or []:
            container.setdefault("resources", {})
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("terminationMessagePolicy", "File")
            latest = container["image"].endswith(":latest") or ":" not in container["image"].rpartition("/")[2]
            container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
            for port in container.get("ports") or []:
                port.setdefault("protocol", "TCP")
            _default_probes(container)
    for volume in spec.get("volumes") or []:
        for kind in ("configMap", "secret", "projected", "downwardAPI"):
            if kind in volume:
                volume[kind].setdefault("defaultMode", 0o644)


def _default_probes(container: dict[str, Any]) -> None:
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if kind in container:
            defaults = {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
            container[kind] = {**defaults, **container[kind]}


def _default_pod(obj: dict[str, Any]) -> None:
    spec = obj["spec"]
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    account = spec.setdefault("serviceAccountName", spec.get("serviceAccount") or "default")
    spec["serviceAccount"] = account
    if spec.get("automountServiceAccountToken", True):
        _mount_token(spec)
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (None, key) and t.get("effect") in (None, "NoExecute") for t in tolerations):
            trouble = {"key": key, "operator": "Exists", "effect": "NoExecute"}
            tolerations.append({**trouble, "tolerationSeconds": _NODE_TROUBLE_SECONDS})
    obj["status"] = {"phase": "Pending", "qosClass": _qos_class(spec)}


def _mount_token(spec: dict[str, Any]) -> None:
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    name = f"kube-api-access-{random_suffix()}"
    containers = [*(spec.get("initContainers") or []), *spec["containers"]]
    without = [c for c in containers if all(m.get("mountPath") != where for m in c.get("volumeMounts") or [])]
    if not without:
        return
    for container in without:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": where})
    ca = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": ca},
        {"downwardAPI": {"items": [namespace]}},
    ]
    spec.setdefault("volumes", []).append({"name": name, "projected": {"defaultMode": 0o644, "sources": sources}})


def _qos_class(spec: dict[str, Any]) -> str:
    resources = [container.get("resources") or {} for container in spec["containers"]]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    full = all({"cpu", "memory"} <= (r.get("limits") or {}).keys() for r in resources)
    same = all(not r.get("requests") or r["requests"] == r.get("limits") for r in resources)
    return "Guaranteed" if full and same else "Burstable"


def _default_job(obj: dict[str, Any]) -> None:
    spec = obj["spec"]
    default_pod_spec(spec["template"]["spec"])
    for key, value in {"backoffLimit": 6, "completions": 1, "parallelism": 1, "suspend": False}.items():
        spec.setdefault(key, value)
    uid = obj["metadata"]["uid"]
    spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = uid
        labels[f"{prefix}job-name"] = obj["metadata"]["name"]
