"""Puts a pod's volumes and environment together from the objects they come from, as a kubelet does.

Volumes are directories under the pod's own; they are written once, so a ConfigMap that changes later reaches new
pods only. A node's ``hostPath`` is a directory of that node in the lab's state, never the machine's. An emptyDir
in memory is each container's own, not shared within the pod.
"""

from __future__ import annotations

import base64
import functools
import marshal
import re
import shutil
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import Any

from bigtcp_lab.api.discovery import CONFIGMAPS, SECRETS
from bigtcp_lab.api.store import Store
from bigtcp_lab.launch import Bind

Object = dict[str, Any]
TokenFor = Callable[[str, str], str]
_REFERENCE = re.compile(r"\$\$|\$\(([^()]+)\)")


class NotThere(Exception):
    """Something a pod needs does not exist (yet); the text says what, as a kubelet words it."""


class Sources:
    """Reads what one pod refers to: ConfigMaps, Secrets, its own fields, its service account's token."""

    def __init__(self, store: Store, token_for: TokenFor) -> None:
        self._store = store
        self._token_for = token_for

    async def _data(self, kind: str, namespace: str, name: str, optional: bool) -> dict[str, bytes]:
        resource = CONFIGMAPS if kind == "configMap" else SECRETS
        found = await self._store.find(resource, name, namespace)
        if found is None:
            if optional:
                return {}
            raise NotThere(f'{kind.lower()} "{name}" not found')
        data = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        if kind == "secret":
            data = {key: base64.b64decode(value) for key, value in data.items()}
        binary = found.get("binaryData") or {}
        return data | {key: base64.b64decode(value) for key, value in binary.items()}

    async def _selected(self, kind: str, pod: Object, source: Object) -> dict[str, bytes]:
        """Return path → content of a ConfigMap or Secret source: all keys, or those in ``items``."""
        name = source.get("name") or source.get("secretName") or ""
        optional = bool(source.get("optional"))
        data = await self._data(kind, pod["metadata"]["namespace"], name, optional)
        if not source.get("items"):
            return data
        selected = {}
        for item in source["items"]:
            if item["key"] in data:
                selected[item["path"]] = data[item["key"]]
            elif not optional:
                raise NotThere(f"references non-existent {kind.lower()} key: {item['key']}")
        return selected

    async def _source_files(self, pod: Object, source: Object) -> dict[str, bytes]:
        """Return path → content of one source of a volume."""
        for kind in ("configMap", "secret"):
            if kind in source:
                return await self._selected(kind, pod, source[kind])
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or []
            return {item["path"]: field_value(pod, item["fieldRef"]["fieldPath"]).encode() for item in items}
        if "serviceAccountToken" in source:
            account = pod["spec"].get("serviceAccountName") or "default"
            token = self._token_for(pod["metadata"]["namespace"], account)
            return {source["serviceAccountToken"]["path"]: token.encode()}
        if "projected" in source:
            files: dict[str, bytes] = {}
            for part in source["projected"].get("sources") or []:
                files |= await self._source_files(pod, part)
            return files
        kinds = ", ".join(sorted(set(source) - {"name"}))
        raise NotThere(f"the lab has no volumes of kind {kinds}")

    async def volume_directories(
        self, pod: Object, pod_directory: Path, node_directory: Path
    ) -> dict[str, Path | None]:
        """Write the pod's volumes and return volume name → directory or file, or None for memory.

        Raises NotThere when a source is missing or of an unknown kind.
        """
        directories: dict[str, Path | None] = {}
        for volume in pod["spec"].get("volumes") or []:
            if (volume.get("emptyDir") or {}).get("medium") == "Memory":
                directories[volume["name"]] = None
                continue
            if "hostPath" in volume:
                path = node_directory / volume["hostPath"]["path"].lstrip("/")
                if volume["hostPath"].get("type") in ("File", "FileOrCreate"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                else:
                    path.mkdir(parents=True, exist_ok=True)
            else:
                path = pod_directory / "volumes" / volume["name"]
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                if "emptyDir" in volume:
                    path.chmod(0o777)
                else:
                    for name, content in (await self._source_files(pod, volume)).items():
                        write_file(path / name, content)
            directories[volume["name"]] = path
        return directories

    async def environment(self, pod: Object, container: Object, base: dict[str, str]) -> dict[str, str]:
        """Return the container's environment over ``base``; raises NotThere for a missing source."""
        namespace = pod["metadata"]["namespace"]
        result = dict(base)
        for source in container.get("envFrom") or []:
            for kind in ("configMap", "secret"):
                if reference := source.get(f"{kind}Ref"):
                    data = await self._data(kind, namespace, reference["name"], bool(reference.get("optional")))
                    prefix = source.get("prefix") or ""
                    result |= {prefix + key: value.decode(errors="replace") for key, value in data.items()}
        for entry in container.get("env") or []:
            value = await self._entry(pod, container, entry, result)
            if value is not None:
                # What the lab itself puts there comes first.
                ours = base.get("PYTHONPATH") if entry["name"] == "PYTHONPATH" else None
                result[entry["name"]] = f"{ours}:{value}" if ours else value
        return result

    async def _entry(self, pod: Object, container: Object, entry: Object, known: dict[str, str]) -> str | None:
        source = entry.get("valueFrom")
        if not source:
            return expand(entry.get("value") or "", known)
        if "fieldRef" in source:
            return field_value(pod, source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return _resource_value(container, source["resourceFieldRef"]["resource"])
        kind = "configMap" if "configMapKeyRef" in source else "secret"
        reference = source[f"{kind}KeyRef"]
        optional = bool(reference.get("optional"))
        data = await self._data(kind, pod["metadata"]["namespace"], reference["name"], optional)
        if reference["key"] in data:
            return data[reference["key"]].decode(errors="replace")
        if optional:
            return None
        where = f"{pod['metadata']['namespace']}/{reference['name']}"
        raise NotThere(f"couldn't find key {reference['key']} in {kind} {where}")


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a volume, and beside a Python module what the interpreter would make of it.

    Volumes are read-only, so the many pods of a run would each compile the same modules, longer than they work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    bytecode = _bytecode(content) if path.suffix == ".py" else b""
    if bytecode:
        cached = Path(cache_from_source(str(path)))
        cached.parent.mkdir(exist_ok=True)
        cached.write_bytes(bytecode)


@functools.lru_cache(maxsize=256)
def _bytecode(source: bytes) -> bytes:
    """Return what the interpreter keeps of a module, valid for this source (PEP 552); empty if it is broken."""
    try:
        code = compile(source, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return b""
    checked = 0b11
    return MAGIC_NUMBER + checked.to_bytes(4, "little") + source_hash(source) + marshal.dumps(code)


def binds_of(container: Object, directories: dict[str, Path | None]) -> list[Bind]:
    """Return where the container's volume mounts appear, shortest path first so that nested ones work."""
    binds = []
    for mount in sorted(container.get("volumeMounts") or [], key=lambda mount: len(mount["mountPath"])):
        source = directories[mount["name"]]
        if source is not None and mount.get("subPath"):
            source = source / mount["subPath"]
        binds.append(Bind(str(source or ""), mount["mountPath"], bool(mount.get("readOnly"))))
    return binds


def expand(text: str, known: dict[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable's value where there is one; ``$$`` stands for one ``$``."""

    def replaced(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return known.get(match.group(1), match.group(0))

    return _REFERENCE.sub(replaced, text)


def field_value(pod: Object, path: str) -> str:
    """Return a field of a pod as the downward API gives it (``metadata.labels['x']``, ``status.podIP``, …)."""
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
        return str((pod["metadata"].get(match.group(1)) or {}).get(match.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = pod["metadata"].get(path.partition(".")[2]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    if path in ("status.podIPs", "status.hostIPs"):
        return ",".join(entry["ip"] for entry in (pod.get("status") or {}).get(path.partition(".")[2]) or [])
    value: Any = pod
    for part in path.split("."):
        value = (value or {}).get(part)
    return "" if value is None else str(value)


def _resource_value(container: Object, name: str) -> str:
    kind, _, resource = name.partition(".")
    return str(((container.get("resources") or {}).get(kind) or {}).get(resource, "0"))
