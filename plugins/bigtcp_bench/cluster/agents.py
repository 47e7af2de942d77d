"""What a Cilium agent is, and what it was told, at one moment: read at both ends of a block, and held together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from bigtcp_bench.cluster import agent_settings, at_once
from bigtcp_bench.cluster.api import ClusterApi, JsonObject
from bigtcp_bench.cluster.cilium import (
    AGENT_CONTAINER,
    AgentStatus,
    Cilium,
    Merged,
    read_status,
    ready_or_any_agent,
)
from bigtcp_bench.cluster.fingerprint import BIG_TCP_KEYS, DATAPATH_KEYS
from bigtcp_bench.errors import BenchError


@dataclass
class Agent:
    """One agent at one moment.

    ``template`` numbers the pod templates of Cilium's DaemonSet: it grows whenever somebody changes that.
    ``image`` is what the pod asks for and what the runtime made of it. ``config`` is the datapath's configuration
    as the agent was told it, without BIG TCP, which is ``merged``; None if the agent does not say. ``others``
    stands for all other settings, whose values are nobody's business: it changes when one of them does.
    """

    agent_pod: str
    agent_uid: str
    restarts: int
    image: str
    template: int
    cilium: str
    merged: Merged
    config: dict[str, str] | None
    others: str | None


def read_agent(api: ClusterApi, cilium: Cilium, pod: JsonObject) -> tuple[Agent, AgentStatus]:
    """Return what the agent of ``pod`` is and was told, and its status. Raises SwitchFailed if it does not say."""
    name = pod["metadata"]["name"]
    asked = at_once.begin(lambda: read_status(api, cilium, name))
    told, merged = agent_settings.read_told(api, cilium, name)
    status = asked.result()
    container = _container(pod["spec"]["containers"])
    running = _container((pod.get("status") or {}).get("containerStatuses") or [])
    agent = Agent(
        agent_pod=name,
        agent_uid=pod["metadata"]["uid"],
        restarts=int(running.get("restartCount") or 0),
        image=" is ".join(filter(None, (container.get("image"), running.get("imageID")))),
        template=cilium.template,
        cilium=status.version,
        merged=merged,
        config=None if told is None else datapath(told),
        others=None if told is None else _digest(told),
    )
    return agent, status


def agent_document(api: ClusterApi, cilium: Cilium, node: str) -> JsonObject:
    """Return what a node's agent is and was told, as plain data; only ``error``, a sentence, if it does not say.

    It is not waited for: one that is not Ready is another than before, or says nothing.
    """
    pod = ready_or_any_agent(api, cilium, node)
    if pod is None:
        return {"error": "there is no agent"}
    try:
        return asdict(read_agent(api, cilium, pod)[0])
    except BenchError as error:
        return {"error": str(error)}


def datapath(told: dict[str, str]) -> dict[str, str]:
    """Return those keys that change how packets travel, without those of BIG TCP."""
    return {key: told[key] for key in DATAPATH_KEYS if key in told and key not in BIG_TCP_KEYS}


def _digest(told: dict[str, str]) -> str:
    known = {*DATAPATH_KEYS, *BIG_TCP_KEYS, *agent_settings.GENERATED_KEYS}
    others = sorted((key, value) for key, value in told.items() if key not in known)
    return hashlib.sha256(json.dumps(others).encode()).hexdigest()[:12]


def _container(items: list[JsonObject]) -> JsonObject:
    return next((item for item in items if item["name"] == AGENT_CONTAINER), items[0] if items else {})
