"""Reading request bodies in Kubernetes' protobuf format, as kubectl from 1.32 on sends for ``kubectl create``.

Only the messages and fields that the lab has a use for; an unknown one is refused, not dropped. Answers are JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from .status import ApiError

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
#: What each body starts with, before a message ``Unknown`` that names the kind and holds the object.
_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: Message: "number name type" of its fields, numbered as in Kubernetes' own ``generated.proto`` files. The types:
#: ``s`` text, ``i`` number and ``b`` boolean (left out when empty, 0 or false, as in JSON), ``I`` and ``B`` these
#: but kept (optional ones), ``ms`` and ``mb`` maps to text and to bytes, else a message; ``-`` is read over (a
#: status: nobody may set it), ``*`` means a list and ``^`` that the message's fields stand in for it, as in JSON.
_TABLE = """
TypeMeta: 1 apiVersion s, 2 kind s
Unknown: 1 typeMeta TypeMeta, 2 raw bytes, 3 contentEncoding s, 4 contentType s
ObjectMeta: 1 name s, 2 generateName s, 3 namespace s, 4 selfLink s, 5 uid s, 6 resourceVersion s, 7
  generation i, 8 creationTimestamp Time, 9 deletionTimestamp Time, 10 deletionGracePeriodSeconds I, 11 labels
  ms, 12 annotations ms, 13 ownerReferences *OwnerReference, 14 finalizers *s
Time: 1 seconds i, 2 nanos i
OwnerReference: 1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller B, 7 blockOwnerDeletion B
LabelSelector: 1 matchLabels ms, 2 matchExpressions *Requirement
Requirement: 1 key s, 2 operator s, 3 values *s
DeleteOptions: 1 gracePeriodSeconds I, 2 preconditions Preconditions, 3 orphanDependents B, 4
  propagationPolicy s, 5 dryRun *s
Preconditions: 1 uid s, 2 resourceVersion s
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status -
NamespaceSpec: 1 finalizers *s
ConfigMap: 1 metadata ObjectMeta, 2 data ms, 3 binaryData mb, 4 immutable B
Secret: 1 metadata ObjectMeta, 2 data mb, 3 type s, 4 stringData ms, 5 immutable B
ServiceAccount: 1 metadata ObjectMeta, 4 automountServiceAccountToken B
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
TokenRequest: 1 metadata ObjectMeta, 2 spec TokenRequestSpec, 3 status -
TokenRequestSpec: 1 audiences *s, 4 expirationSeconds I
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec ReviewSpec, 3 status -
ReviewSpec: 1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes
ResourceAttributes: 1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name s
NonResourceAttributes: 1 path s, 2 verb s
Role: 1 metadata ObjectMeta, 2 rules *PolicyRule
ClusterRole: 1 metadata ObjectMeta, 2 rules *PolicyRule
PolicyRule: 1 verbs *s, 2 apiGroups *s, 3 resources *s, 4 resourceNames *s, 5 nonResourceURLs *s
RoleBinding: 1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef
ClusterRoleBinding: 1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef
Subject: 1 kind s, 2 apiGroup s, 3 name s, 4 namespace s
RoleRef: 1 apiGroup s, 2 kind s, 3 name s
Job: 1 metadata ObjectMeta, 2 spec JobSpec, 3 status -
JobSpec: 1 parallelism I, 2 completions I, 3 activeDeadlineSeconds I, 4 selector LabelSelector, 5
  manualSelector B, 6 template PodTemplate, 7 backoffLimit I, 8 ttlSecondsAfterFinished I, 9 completionMode s,
  10 suspend B, 14 podReplacementPolicy s
CronJob: 1 metadata ObjectMeta, 2 spec CronJobSpec, 3 status -
CronJobSpec: 1 schedule s, 2 startingDeadlineSeconds I, 3 concurrencyPolicy s, 4 suspend B, 5 jobTemplate
  JobTemplate, 6 successfulJobsHistoryLimit I, 7 failedJobsHistoryLimit I, 8 timeZone s
JobTemplate: 1 metadata ObjectMeta, 2 spec JobSpec
PodTemplate: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 1 volumes *Volume, 2 containers *Container, 3 restartPolicy s, 4 terminationGracePeriodSeconds I, 5
  activeDeadlineSeconds I, 6 dnsPolicy s, 7 nodeSelector ms, 8 serviceAccountName s, 9 serviceAccount s, 10
  nodeName s, 11 hostNetwork b, 12 hostPID b, 13 hostIPC b, 14 securityContext PodSecurityContext, 16 hostname
  s, 17 subdomain s, 18 affinity Affinity, 19 schedulerName s, 20 initContainers *Container, 21
  automountServiceAccountToken B, 22 tolerations *Toleration, 24 priorityClassName s, 25 priority I, 30
  enableServiceLinks B, 31 preemptionPolicy s
Affinity: 1 nodeAffinity NodeAffinity
NodeAffinity: 1 requiredDuringSchedulingIgnoredDuringExecution NodeSelector, 2
  preferredDuringSchedulingIgnoredDuringExecution *PreferredTerm
NodeSelector: 1 nodeSelectorTerms *NodeSelectorTerm
NodeSelectorTerm: 1 matchExpressions *Requirement, 2 matchFields *Requirement
PreferredTerm: 1 weight i, 2 preference NodeSelectorTerm
PodSecurityContext: 2 runAsUser I, 3 runAsNonRoot B, 4 supplementalGroups *i, 5 fsGroup I, 6 runAsGroup I, 7
  sysctls *NameValue, 10 seccompProfile SeccompProfile
NameValue: 1 name s, 2 value s
SeccompProfile: 1 type s, 2 localhostProfile s
Toleration: 1 key s, 2 operator s, 3 value s, 4 effect s, 5 tolerationSeconds I
Container: 1 name s, 2 image s, 3 command *s, 4 args *s, 5 workingDir s, 6 ports *Port, 7 env *EnvVar, 8
  resources Resources, 9 volumeMounts *VolumeMount, 13 terminationMessagePath s, 14 imagePullPolicy s, 15
  securityContext SecurityContext, 16 stdin b, 17 stdinOnce b, 18 tty b, 20 terminationMessagePolicy s
Port: 1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s, 5 hostIP s
EnvVar: 1 name s, 2 value s, 3 valueFrom EnvVarSource
EnvVarSource: 1 fieldRef FieldRef, 3 configMapKeyRef KeyRef, 4 secretKeyRef KeyRef
FieldRef: 1 apiVersion s, 2 fieldPath s
KeyRef: 1 localObjectReference ^LocalReference, 2 key s, 3 optional B
LocalReference: 1 name s
Resources: 1 limits mQuantity, 2 requests mQuantity
Quantity: 1 string s
VolumeMount: 1 name s, 2 readOnly b, 3 mountPath s, 4 subPath s, 5 mountPropagation s, 6 subPathExpr s
SecurityContext: 1 capabilities Capabilities, 2 privileged B, 4 runAsUser I, 5 runAsNonRoot B, 6
  readOnlyRootFilesystem B, 7 allowPrivilegeEscalation B, 8 runAsGroup I, 11 seccompProfile SeccompProfile
Capabilities: 1 add *s, 2 drop *s
Volume: 1 name s, 2 volumeSource ^VolumeSource
VolumeSource: 1 hostPath HostPath, 2 emptyDir EmptyDir, 6 secret SecretVolume, 19 configMap ConfigMapVolume
HostPath: 1 path s, 2 type s
EmptyDir: 1 medium s, 2 sizeLimit Quantity
SecretVolume: 1 secretName s, 2 items *KeyToPath, 3 defaultMode I, 4 optional B
ConfigMapVolume: 1 localObjectReference ^LocalReference, 2 items *KeyToPath, 3 defaultMode I, 4 optional B
KeyToPath: 1 key s, 2 path s, 3 mode I
"""
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    name: {int(number): (field, kind) for number, field, kind in map(str.split, fields.split(","))}
    for name, _, fields in (line.partition(":") for line in re.sub(r"\n +", " ", _TABLE).strip().splitlines())
}


class _Unreadable(Exception):
    """The body is no protobuf, or has something that the tables do not know."""


def decode(body: bytes) -> dict[str, Any]:
    """Return the object in a protobuf ``body`` as JSON would have it; raises ``ApiError`` 415."""
    try:
        if not body.startswith(_MAGIC):
            raise _Unreadable("it does not start as one")
        envelope = _message("Unknown", body[len(_MAGIC) :])
        kind = envelope["typeMeta"]["kind"]
        if kind not in _MESSAGES:
            raise _Unreadable(f"{kind} is not known")
        return {**envelope["typeMeta"], **_message(kind, envelope["raw"])}
    except (_Unreadable, KeyError, IndexError, UnicodeDecodeError) as error:
        message = f"the lab cannot read this protobuf body ({error}); send JSON: kubectl apply does"
        raise ApiError(415, "UnsupportedMediaType", message, {}) from None


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the (number, raw value) of each field in an encoded message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            yield number, varint()
        elif wire in (_BYTES, _FIXED32, _FIXED64):
            size = varint() if wire == _BYTES else 4 if wire == _FIXED32 else 8
            yield number, data[position : position + size]
            position += size
        else:
            raise _Unreadable(f"wire type {wire}")


def _message(name: str, data: bytes) -> dict[str, Any]:
    known = _MESSAGES[name]
    result: dict[str, Any] = {}
    for number, raw in _fields(data):
        if number not in known:
            raise _Unreadable(f"field {number} of {name} is not known")
        field, kind = known[number]
        if kind == "-":
            continue
        if kind.startswith("*"):
            result.setdefault(field, []).append(_value(kind[1:], raw))
        elif kind.startswith("^"):
            result |= _message(kind[1:], raw)
        elif kind in ("ms", "mb", "mQuantity"):
            key, value = _entry(kind[1:], raw)
            result.setdefault(field, {})[key] = value
        else:
            value = _value(kind, raw)
            if not (kind in ("s", "i", "b") and not value) and value is not None:
                result[field] = value
    return result


def _entry(kind: str, raw: bytes) -> tuple[str, Any]:
    parts = dict(_fields(raw))
    value = parts.get(2, b"")
    key: bytes = parts.get(1, b"")
    return key.decode(), base64.b64encode(value).decode() if kind == "b" else _value(kind, value)


def _value(kind: str, raw: Any) -> Any:
    match kind:
        case "s":
            return raw.decode()
        case "i" | "I":
            return raw - (1 << 64) if raw >= 1 << 63 else raw
        case "b" | "B":
            return bool(raw)
        case "bytes":
            return raw
    inner = _message(kind, raw)
    if kind == "Quantity":
        return inner.get("string", "0")
    if kind == "Time":
        return datetime.fromtimestamp(inner["seconds"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if inner else None
    return inner
