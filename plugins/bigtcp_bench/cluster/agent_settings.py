"""What an agent was told at its start, and what its next start would be told: every key, by Cilium's own rules."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bigtcp_bench.cluster.api import CONFIGMAP, NODE, POD, ClusterApi, CommandFailed, Forbidden, JsonObject
from bigtcp_bench.cluster.cilium import (
    AGENT_CONTAINER,
    AGENT_LABELS,
    CONFIGMAP_NAME,
    MERGED_DIR,
    Cilium,
    Merged,
    read_merged,
)
from bigtcp_bench.cluster.fingerprint import BIG_TCP_KEYS, DATAPATH_KEYS, Difference
from bigtcp_bench.errors import BenchError
from bigtcp_bench.in_cluster import treatment
from bigtcp_bench.in_cluster.protocol import is_agent, is_ready, selects
from bigtcp_bench.in_cluster.treatment import settings_of

Settings = dict[str, str]

#: The sources an agent's configuration is merged from when the init container names none.
DEFAULT_SOURCES = f"config-map:{CONFIGMAP_NAME},cilium-node-config"
#: With the source ``node``, a label or annotation ``config.cilium.io/KEY`` of the node sets a key.
NODE_PREFIX = "config.cilium.io/"
#: What the init container adds about itself (pkg/option/resolver); no source sets these.
GENERATED_KEYS = frozenset({"config-sources", "config-sources-overrides"})
#: So many pending keys are named; the others are counted.
NAMED = 6

PENDING_ADVICE = (
    "a benchmark restarts agents, which would put that in force; restart them first (kubectl rollout restart of "
    "Cilium's DaemonSet), or take the change back"
)


@dataclass(frozen=True)
class Merging:
    """How the init container ``config`` of a DaemonSet merges the configuration.

    ``sources`` are as written, in their order; from the second one on only ``allowed`` keys count, or, where that
    is empty, all but ``denied`` ones.
    """

    namespace: str
    sources: tuple[str, ...]
    allowed: tuple[str, ...]
    denied: tuple[str, ...]

    @property
    def later(self) -> tuple[str, ...] | None:
        """Return the sources that are applied after the one with our CiliumNodeConfig; None if none has it.

        A source that names one object is none of ours: it reads no other, and it does not ask whom that selects.
        """
        for position, source in enumerate(self.sources):
            kind, _, rest = source.partition(":")
            if kind == "cilium-node-config" and rest in ("", self.namespace):
                return self.sources[position + 1 :]
        return None

    def counts(self, key: str) -> bool:
        """Return whether a source that is not the first may set ``key``."""
        return key in self.allowed if self.allowed else key not in self.denied


def merging_of(daemonset: JsonObject) -> Merging | None:
    """Return how a DaemonSet's agents get their configuration; None if no init container merges it."""
    containers = daemonset["spec"]["template"]["spec"].get("initContainers") or []
    found = next((item for item in containers if item["name"] == "config"), None)
    if found is None:
        return None
    words = (found.get("command") or []) + (found.get("args") or [])
    return Merging(
        namespace=daemonset["metadata"]["namespace"],
        sources=tuple(_flag(words, "source") or DEFAULT_SOURCES.split(",")),
        allowed=tuple(_flag(words, "allow-config-keys")),
        denied=tuple(_flag(words, "deny-config-keys")),
    )


def _flag(words: Sequence[str], name: str) -> list[str]:
    """Return the comma-separated values of ``--name=a,b`` or ``--name a,b``, given once or several times."""
    values: list[str] = []
    for position, word in enumerate(words):
        if word.startswith(f"--{name}="):
            values += word.partition("=")[2].split(",")
        elif word == f"--{name}" and position + 1 < len(words):
            values += words[position + 1].split(",")
    return [value.strip().strip('"') for value in values if value.strip()]


def merged(layers: Sequence[Mapping[str, str]], merging: Merging) -> Settings:
    """Return the settings that ``layers``, one for each source in their order, come to."""
    found: Settings = {}
    for position, layer in enumerate(layers):
        found.update({key: value for key, value in layer.items() if not position or merging.counts(key)})
    return found


def told(api: ClusterApi, cilium: Cilium, pod: str) -> Settings | None:
    """Return every key that this very agent was told when it started; None if its pod does not say.

    A key with an empty value is left out, as one that is not set is.
    """
    try:
        # A file for each key behind two links (pkg/option/resolver in Cilium); grep follows only what it is given.
        text = api.exec(cilium.namespace, pod, AGENT_CONTAINER, ["grep", "-ra", "", f"{MERGED_DIR}/..data/"])
    except CommandFailed:
        return None
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        path, colon, value = line.partition(":")
        if not colon:
            continue
        found.setdefault(path.rpartition("/")[2], []).append(value)
    return {key: "\n".join(lines).strip() for key, lines in found.items()}


def read_told(api: ClusterApi, cilium: Cilium, pod: str) -> tuple[Settings | None, Merged]:
    """Return what ``told`` does, and what this agent was told of BIG TCP, which is asked for by itself if need be.

    Raises SwitchFailed if it does not say that either.
    """
    settings = told(api, cilium, pod)
    return settings, read_merged(api, cilium, pod) if settings is None else treatment.told(settings)


def of_next_start(api: ClusterApi, cilium: Cilium, daemonset: JsonObject, node: str) -> Settings | None:
    """Return every key that an agent started now on ``node`` would be told; None if that cannot be known.

    It cannot where no init container merges the configuration, or where one of its sources may not be read.
    """
    merging = merging_of(daemonset)
    if merging is None:
        return None
    try:
        layers = [_layer(api, cilium, merging.namespace, source, node) for source in merging.sources]
    except Forbidden:
        return None
    return merged(layers, merging)


def _layer(api: ClusterApi, cilium: Cilium, namespace: str, source: str, node: str) -> Settings:
    """Return what one source sets for ``node``, as cilium-dbg build-config reads it. Raises Forbidden."""
    kind, _, rest = source.partition(":")
    first, slash, last = rest.partition("/")
    if kind == "config-map":
        name, where = (last, first) if slash else (first or CONFIGMAP_NAME, namespace)
        return dict((api.find(CONFIGMAP, name, where) or {}).get("data") or {})
    if kind == "node":
        meta = (api.find(NODE, rest or node) or {"metadata": {}})["metadata"]
        marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
        return {
            key.removeprefix(NODE_PREFIX): value for key, value in marks.items() if key.startswith(NODE_PREFIX)
        }
    if kind != "cilium-node-config" or cilium.node_config is None:
        return {}
    if slash:
        named = api.find(cilium.node_config, last, first or namespace)
        return _defaults([named] if named else [])
    labels = (api.find(NODE, node) or {"metadata": {}})["metadata"].get("labels") or {}
    configs = api.select(cilium.node_config, first or namespace)
    return _defaults(item for item in configs if selects((item.get("spec") or {}).get("nodeSelector"), labels))


def _defaults(configs: Iterable[JsonObject]) -> Settings:
    found: Settings = {}
    for item in sorted(configs, key=lambda item: str(item["metadata"]["name"])):
        found.update((item.get("spec") or {}).get("defaults") or {})
    return found


def differences(
    before: Mapping[str, str], after: Mapping[str, str], *, but: Collection[str] = BIG_TCP_KEYS
) -> list[Difference]:
    """Return the keys whose values differ, in order; not those of ``but``, which runs change themselves.

    Not set and empty are the same, and what the init container says of itself does not count.
    """
    found = []
    for key in sorted(before.keys() | after.keys()):
        if key in GENERATED_KEYS or key in but:
            continue
        values = [(one.get(key) or "").strip() or None for one in (before, after)]
        if values[0] != values[1]:
            found.append(Difference(key, *values))
    return found


def pending(
    api: ClusterApi, cilium: Cilium, daemonset: JsonObject, node: str, now: Settings | None
) -> list[Difference] | None:
    """Return what the next start of the agent on ``node``, told ``now``, would change, beside BIG TCP itself.

    None if that cannot be known.
    """
    then = of_next_start(api, cilium, daemonset, node)
    return None if now is None or then is None else differences(now, then)


def pending_elsewhere(
    api: ClusterApi, cilium: Cilium, daemonset: JsonObject, but: Collection[str], *, switched: bool = False
) -> dict[str, list[Difference]]:
    """Return node → what the next start of its agent would change, where that is known.

    Of all nodes ``but`` those two that are measured, for a run that restarts every agent (scope ``cluster``). BIG
    TCP counts, too, unless the run has ``switched`` it.
    """
    found = {}
    for pod in api.select(POD, cilium.namespace, labels=AGENT_LABELS):
        node = str((pod.get("spec") or {}).get("nodeName"))
        if node in but or not is_agent(pod, cilium.daemonset) or not is_ready(pod):
            continue
        with contextlib.suppress(BenchError):
            now = told(api, cilium, pod["metadata"]["name"])
            then = of_next_start(api, cilium, daemonset, node)
            if now is not None and then is not None:
                both = [{**one, **settings_of(treatment.told(one))} for one in (now, then)]
                found[node] = differences(*both, but=BIG_TCP_KEYS if switched else ())
    return {node: changes for node, changes in found.items() if changes}


def elsewhere_text(found: Mapping[str, Sequence[Difference]]) -> str:
    """Return what is pending on nodes that are not measured, as a finding."""
    (node, first), *others = found.items()
    more = f", nor has it on {len(others)} other nodes" if others else ""
    return f"on node {node} {pending_text(first)}{more}"


def differences_text(found: Sequence[Difference]) -> str:
    """Return the keys in words; with their values where these are known to hold no secret's name."""
    shown = [str(one) if one.name in DATAPATH_KEYS else one.name for one in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(shown) + more


def pending_text(found: Sequence[Difference]) -> str:
    """Return what is pending, as a finding; PENDING_ADVICE helps."""
    return f"the agent has not been restarted since its configuration changed: {differences_text(found)}"
