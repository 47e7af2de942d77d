"""The objects of the lab's cluster, in memory: versions, conflicts, selectors, patches, deletions, watches.

Every method runs to its end without waiting, so within one asyncio loop each call is atomic. What goes in and what
comes out are copies: nobody can change a stored object but through the store.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from . import addresses, admission, apply, patch, status
from .copies import copied
from .discovery import (
    DAEMONSETS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    PRIORITYCLASSES,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
    resource_of_kind,
    stored_resources,
)
from .selectors import Matcher, object_matcher
from .status import ApiError

__all__ = ["ApiError", "Store", "Watch", "now", "seconds_since", "timestamp"]

Object = dict[str, Any]

#: Changes remembered per resource; a watch from an older version gets 410, as from a real API server.
HISTORY_LENGTH = 2000
#: Seconds a pod gets between SIGTERM and SIGKILL when neither it nor the deletion says otherwise.
DEFAULT_GRACE_S = 30
#: The annotation with the number of a DaemonSet's pod template.
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
#: Kinds whose deletion answers with the object; for all others it is a Status.
_ANSWERED_WITH_OBJECT = (PODS, SERVICES, SERVICEACCOUNTS)


def timestamp(when: datetime) -> str:
    """Return a time in UTC as Kubernetes writes it, in whole seconds."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> str:
    """Return the present time as Kubernetes writes it."""
    return timestamp(datetime.now(UTC))


def seconds_since(stamp: str) -> float:
    """Return how many seconds ago ``stamp``, of Kubernetes, was."""
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


@dataclass(frozen=True)
class _Change:
    version: int
    kind: str  # ADDED, MODIFIED or DELETED
    new: Object
    old: Object | None


class Watch(AsyncIterator[tuple[str, Object]]):
    """The changes of one resource from a version on: an async iterator of (type, object)."""

    def __init__(self, store: Store, resource: Resource, namespace: str | None, matches: Matcher) -> None:
        self._store = store
        self._resource = resource
        self._namespace = namespace
        self._matches = matches
        self._pending: deque[tuple[str, Object]] = deque()
        self._wake = asyncio.Event()

    def _offer(self, change: _Change) -> None:
        """Queue what ``change`` means to this watch: an object may enter or leave its selection."""
        if self._namespace and change.new["metadata"].get("namespace") != self._namespace:
            return
        before = change.old is not None and self._matches(change.old)
        after = change.kind != "DELETED" and self._matches(change.new)
        if change.kind == "DELETED":
            before = self._matches(change.new)
        if not before and not after:
            return
        kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        self._pending.append((kind, change.new))
        self._wake.set()

    async def next(self, timeout_s: float | None = None) -> tuple[str, Object] | None:
        """Return the next (type, object), or ``None`` when there is none for ``timeout_s`` seconds."""
        while not self._pending:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return None
        kind, obj = self._pending.popleft()
        return kind, self._store.rendered(self._resource, obj)

    async def any(self) -> None:
        """Wait until there are changes, and drop them: for who then looks at everything that there is."""
        while not self._pending:
            self._wake.clear()
            await self._wake.wait()
        self._pending.clear()

    @property
    def pending_count(self) -> int:
        """Return how many changes are waiting to be taken."""
        return len(self._pending)

    def close(self) -> None:
        """Stop watching; needed when the watch is not used as a context manager."""
        self._store.forget(self._resource, self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> tuple[str, Object]:
        found = await self.next()
        assert found is not None  # without a timeout there is always a next one
        return found


class Store:
    """All objects of the cluster, by resource, namespace and name."""

    def __init__(self) -> None:
        #: The version of the last change; every change of any object takes the next number.
        self.version = 1
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = {
            resource.key: {} for resource in stored_resources()
        }
        self._history: dict[tuple[str, str], deque[_Change]] = {
            key: deque(maxlen=HISTORY_LENGTH) for key in self._objects
        }
        #: Per resource, the version up to which changes are no longer remembered.
        self._forgotten: dict[tuple[str, str], int] = dict.fromkeys(self._objects, 0)
        self._watches: dict[tuple[str, str], list[Watch]] = {key: [] for key in self._objects}

    # Reading

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Return the object; raises ``ApiError`` 404."""
        return self.rendered(resource, self._find(resource, name, namespace))

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """Return the object, or ``None`` when there is none."""
        found = self._objects[resource.key].get((namespace or "", name))
        return None if found is None else self.rendered(resource, found)

    def look(self, resource: Resource) -> Iterable[Object]:
        """Return the stored objects themselves, for who looks at all of them and changes none."""
        return tuple(self._objects[resource.key].values())

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[Object]:
        """Return the objects that match, of one namespace or of all (``None``), by namespace and name."""
        matches = object_matcher(resource, label_selector, field_selector)
        return [
            self.rendered(resource, obj)
            for (place, _), obj in sorted(self._objects[resource.key].items())
            if (not namespace or place == namespace) and matches(obj)
        ]

    def watch(
        self,
        resource: Resource,
        since_version: int | None = None,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Watch:
        """Return a watch on the changes after ``since_version``; close it, or use it in a ``with`` block.

        Without a version it starts with the present objects as ``ADDED``. Raises ``ApiError`` 410 when the changes
        since that version are no longer remembered.
        """
        matches = object_matcher(resource, label_selector, field_selector)
        watch = Watch(self, resource, namespace, matches)
        if since_version is None:
            for (place, _), obj in sorted(self._objects[resource.key].items()):
                if not namespace or place == namespace:
                    watch._offer(_Change(0, "ADDED", obj, None))
        else:
            oldest = self._forgotten[resource.key]
            if since_version < oldest:
                raise status.gone(f"too old resource version: {since_version} ({oldest})")
            for change in self._history[resource.key]:
                if change.version > since_version:
                    watch._offer(change)
        self._watches[resource.key].append(watch)
        return watch

    def forget(self, resource: Resource, watch: Watch) -> None:
        """Offer no more changes to ``watch``."""
        if watch in self._watches[resource.key]:
            self._watches[resource.key].remove(watch)

    def rendered(self, resource: Resource, obj: Object) -> Object:
        """Return a copy of a stored ``obj`` in the version that ``resource`` names."""
        result = copied(obj)
        result["apiVersion"] = resource.api_version
        return result

    # Writing

    async def create(
        self, resource: Resource, obj: Object, namespace: str | None = None, *, dry_run: bool = False
    ) -> Object:
        """Store a new object with defaults filled in and return it.

        Raises ``ApiError`` 404 (no such namespace), 403 (namespace is going), 409 (name taken), 400, 422.
        """
        obj = copied(obj)
        metadata = self._checked_metadata(resource, obj, namespace)
        if metadata.get("resourceVersion"):
            raise status.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + admission.random_suffix()
        name, place = metadata.get("name") or "", metadata.get("namespace", "")
        if not name:
            text = "Required value: name or generateName is required"
            raise status.invalid(resource, "", [("metadata.name", "FieldValueRequired", text)])
        self._check_namespace(resource, name, place)
        if (place, name) in self._objects[resource.key]:
            raise status.already_exists(resource, name)
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(field, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if resource.has_generation:
            metadata["generation"] = 1
        if resource.has_status and resource != NODES:  # a kubelet creates its node with the status filled in
            obj.pop("status", None)
        if resource == PODS:
            self._set_priority(obj)
        if resource == DAEMONSETS:
            _count_templates(obj, None)
        if resource == SERVICES:
            addresses.default_service(obj, self._objects[SERVICES.key].values())
        admission.prepare(resource, obj)
        return self._commit(resource, "ADDED", obj, None, dry_run=dry_run)

    async def update(
        self, resource: Resource, obj: Object, subresource: str | None = None, *, dry_run: bool = False
    ) -> Object:
        """Replace an object, or with ``subresource="status"`` only its status, and return the result.

        A ``metadata.resourceVersion`` or ``uid`` in ``obj`` must be the present one; without it the write is
        unconditional. Raises ``ApiError`` 404, 409, 422.
        """
        metadata = obj.get("metadata") or {}
        old = self._find(resource, metadata.get("name", ""), metadata.get("namespace"))
        return self._replace(resource, old, copied(obj), subresource, dry_run=dry_run)

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        content_type: str,
        body: Any,
        *,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Change an object by a JSON, merge or strategic merge patch (``patch.py`` names the formats)."""
        old = self._find(resource, name, namespace)
        new = patch.apply_patch(self.rendered(resource, old), content_type, body, custom=resource.custom)
        return self._replace(resource, old, copied(new), subresource, dry_run=dry_run)

    async def apply(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        body: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """Server-side apply: create or merge the fields of ``body`` as ``field_manager``'s own.

        Returns the object and whether it was created. Raises ``ApiError`` 409 when another manager applied a
        different value and ``force`` is not given.
        """
        old = await self.find(resource, name, namespace)
        if (body.get("metadata") or {}).get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        if old is None:
            new = apply.applied(resource, {}, body, field_manager, force=force, time=now())
            new["metadata"]["name"] = name
            return await self.create(resource, new, namespace, dry_run=dry_run), True
        new = apply.applied(resource, old, body, field_manager, force=force, time=now())
        current = self._find(resource, name, namespace)
        return self._replace(resource, current, new, subresource, dry_run=dry_run), False

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Delete an object, or mark it for deletion while a grace period, finalizer or content holds it.

        Returns the body a client gets: the object, or a Status of success. A pod on a node stays, marked, until
        its kubelet deletes it with ``grace_period_seconds=0``. Raises ``ApiError`` 404, 409 (preconditions).
        """
        old = self._find(resource, name, namespace)
        metadata = old["metadata"]
        for field, wanted in (("UID", uid), ("ResourceVersion", resource_version)):
            found = metadata["uid" if field == "UID" else "resourceVersion"]
            if wanted is not None and wanted != found:
                raise status.precondition_failed(resource, name, field, wanted, found)
        new = copied(old)
        if propagation == "Foreground":
            _add_finalizer(new, "foregroundDeletion")
        elif propagation == "Orphan":
            _add_finalizer(new, "orphan")
        grace_s = _grace_s(resource, old, grace_period_seconds)
        held = bool(new["metadata"].get("finalizers")) or (resource == NAMESPACES and _has_finalizers(new))
        if grace_s == 0 and not held:
            self._commit(resource, "DELETED", new, old, dry_run=dry_run)
            return (
                self.rendered(resource, new)
                if resource in _ANSWERED_WITH_OBJECT
                else status.success(resource, old)
            )
        already_s = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and (already_s is None or grace_s >= already_s) and new == old:
            return self.rendered(resource, old)
        self._mark_deleted(resource, new, grace_s)
        return self._commit(resource, "MODIFIED", new, old, dry_run=dry_run)

    async def finish_namespace(self, name: str) -> None:
        """Remove a namespace whose content is gone, as its controller does."""
        old = self._find(NAMESPACES, name, None)
        self._commit(NAMESPACES, "DELETED", copied(old), old, dry_run=False)

    # Inside

    def _find(self, resource: Resource, name: str, namespace: str | None) -> Object:
        found = self._objects[resource.key].get((namespace or "", name))
        if found is None:
            raise status.not_found(resource, name)
        return found

    def _checked_metadata(self, resource: Resource, obj: Object, namespace: str | None) -> Object:
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        known = resource_of_kind(obj["apiVersion"], obj["kind"])
        if known is None or known.key != resource.key:
            raise status.bad_request(
                f"{obj['kind']} in version {obj['apiVersion']!r} cannot be handled as a {resource.kind}"
            )
        metadata = obj.setdefault("metadata", {})
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return metadata
        if namespace and metadata.get("namespace", namespace) != namespace:
            raise status.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request "
                f"({metadata['namespace']} is not {namespace})"
            )
        metadata["namespace"] = namespace or metadata.get("namespace") or "default"
        return metadata

    def _check_namespace(self, resource: Resource, name: str, namespace: str) -> None:
        if not resource.namespaced:
            return
        found = self._objects[NAMESPACES.key].get(("", namespace))
        if found is None:
            raise status.not_found(NAMESPACES, namespace)
        if "deletionTimestamp" in found["metadata"] and resource != EVENTS:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise status.forbidden(resource, name, why)

    def _set_priority(self, pod: Object) -> None:
        """Give ``pod`` the priority of the class that it names."""
        spec = pod.get("spec") or {}
        if name := spec.get("priorityClassName"):
            found = self._objects[PRIORITYCLASSES.key].get(("", name))
            if found is None:
                why = f"no PriorityClass with name {name} was found"
                raise status.forbidden(PODS, pod["metadata"]["name"], why)
            spec["priority"] = found["value"]
            spec.setdefault("preemptionPolicy", found.get("preemptionPolicy", "PreemptLowerPriority"))

    def _replace(
        self, resource: Resource, old: Object, new: Object, subresource: str | None, *, dry_run: bool
    ) -> Object:
        """Store ``new`` in place of ``old``, keeping what clients cannot change."""
        metadata, before = new.setdefault("metadata", {}), old["metadata"]
        name = before["name"]
        if metadata.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            raise status.conflict(resource, name)
        if metadata.get("uid") not in (None, "", before["uid"]):
            raise status.precondition_failed(resource, name, "UID", metadata["uid"], before["uid"])
        if subresource == "status":
            new = {**copied(old), "status": new.get("status") or {}}
        elif subresource != "binding":  # the scheduler sets a pod's node and its condition in one go
            if resource.has_status:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = copied(old["status"])
            admission.validate_update(resource, old, new)
        metadata = new["metadata"]
        kept = ("uid", "name", "namespace", "creationTimestamp", "generation", "deletionTimestamp")
        for field in (*kept, "deletionGracePeriodSeconds", "generateName", "resourceVersion"):
            metadata.pop(field, None)
            if field in before:
                metadata[field] = before[field]
        new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]
        if resource == DAEMONSETS:
            _count_templates(new, old)
        if new == old:  # nothing changed: no new version, no event, as in Kubernetes
            return self.rendered(resource, old)
        if resource.has_generation and subresource is None and _specified(new) != _specified(old):
            metadata["generation"] = before.get("generation", 1) + 1
        gone = "deletionTimestamp" in metadata and before.get("finalizers") and not metadata.get("finalizers")
        if gone and not metadata.get("deletionGracePeriodSeconds"):
            return self._commit(resource, "DELETED", new, old, dry_run=dry_run)
        return self._commit(resource, "MODIFIED", new, old, dry_run=dry_run)

    def _mark_deleted(self, resource: Resource, obj: Object, grace_s: int) -> None:
        metadata = obj["metadata"]
        first_time = "deletionTimestamp" not in metadata
        deadline = datetime.now(UTC) + timedelta(seconds=grace_s)
        metadata["deletionTimestamp"] = timestamp(deadline)
        metadata["deletionGracePeriodSeconds"] = grace_s
        if first_time and resource.has_generation:
            metadata["generation"] = metadata.get("generation", 1) + 1
        if resource == NAMESPACES:
            obj["status"] = {"phase": "Terminating"}

    def _commit(self, resource: Resource, kind: str, new: Object, old: Object | None, *, dry_run: bool) -> Object:
        if dry_run:
            return self.rendered(resource, new)
        self.version += 1
        metadata = new["metadata"]
        metadata["resourceVersion"] = str(self.version)
        place = (metadata.get("namespace", ""), metadata["name"])
        if kind == "DELETED":
            del self._objects[resource.key][place]
        else:
            self._objects[resource.key][place] = new
        change = _Change(self.version, kind, new, old)
        history = self._history[resource.key]
        if len(history) == history.maxlen:
            self._forgotten[resource.key] = history[0].version
        history.append(change)
        for watch in self._watches[resource.key]:
            watch._offer(change)
        return self.rendered(resource, new)


def _count_templates(new: Object, old: Object | None) -> None:
    """Write the number of a DaemonSet's pod template, which nobody but the API server can change."""
    number = 1
    if old is not None:
        number = int(old["metadata"]["annotations"][TEMPLATE_GENERATION])
        number += new["spec"]["template"] != old["spec"]["template"]
    metadata = new["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_GENERATION: str(number)}


def _specified(obj: Object) -> Object:
    """Return the part of an object whose changes make a new generation."""
    return {key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")}


def _add_finalizer(obj: Object, name: str) -> None:
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if name not in finalizers:
        finalizers.append(name)


def _has_finalizers(namespace: Object) -> bool:
    return bool((namespace.get("spec") or {}).get("finalizers"))


def _grace_s(resource: Resource, obj: Object, asked_s: int | None) -> int:
    """Return how long a deletion waits for the kubelet: only a pod that is on a node and has not ended waits."""
    if resource != PODS:
        return 0
    ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if ended or not obj["spec"].get("nodeName"):
        return 0
    own_s = obj["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    grace_s = own_s if asked_s is None else max(0, asked_s)
    already_s = obj["metadata"].get("deletionGracePeriodSeconds")
    return grace_s if already_s is None else min(grace_s, already_s)
