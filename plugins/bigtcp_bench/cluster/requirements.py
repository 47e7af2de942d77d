"""Everything that must be true before a cluster is benchmarked, one line each: found, judged, and what to do."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from bigtcp_bench.cluster import (
    agent_settings,
    cilium_checks,
    guardian_objects,
    node_checks,
    restore,
    rights,
)
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    NETWORKPOLICY,
    ApiProblem,
    ClusterApi,
    Forbidden,
    JsonObject,
)
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import (
    CONFIGMAP_NAME,
    AgentStatus,
    Cilium,
    Merged,
    Progress,
    agent_pod,
    find_cilium,
    is_of_template,
    is_ready,
    read_status,
    waiting_reason,
)
from bigtcp_bench.cluster.environment import FIRST_NAMESPACE
from bigtcp_bench.cluster.fingerprint import Difference
from bigtcp_bench.cluster.lease import busy_sentence, read_lease
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S
from bigtcp_bench.cluster.nodes import NodePair, candidates, node_info
from bigtcp_bench.cluster.pods import BENCH_NAMESPACE, POLICY_NAME, PodFailed
from bigtcp_bench.cluster.probe import NodeProbe, probe_nodes
from bigtcp_bench.cluster.reach import unreachable_ways
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.in_cluster.protocol import GUARDIAN_NAME
from bigtcp_bench.planning.plan import Plan, Way, takes
from bigtcp_bench.progress import say

#: A run goes on without these: the guardian has a line of its own, and so has the cluster's uid; events only say
#: more about a pod that fails.
OPTIONAL_RESOURCES = ("cronjobs", "serviceaccounts", "events", "networkpolicies")
OPTIONAL_NAMES = (GUARDIAN_NAME, FIRST_NAMESPACE)
#: Only scenarios @service need these.
SERVICE_RESOURCES = ("services", "endpointslices")


@dataclass(frozen=True)
class AgentSeen:
    """The Cilium agent of one node: its pod, what it says and what it was told; ``problem`` says why not.

    ``current``: its pod was made from the present template. ``pending`` is what its next start would change beside
    BIG TCP itself, None if that cannot be known.
    """

    pod: str = ""
    status: AgentStatus | None = None
    merged: Merged | None = None
    problem: str = ""
    advice: str = ""
    current: bool = False
    pending: list[Difference] | None = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What the API and the agents tell of a cluster, without a pod of ours in it."""

    server: str
    cilium: Cilium
    daemonset: JsonObject
    config: JsonObject
    node_configs: list[JsonObject]
    #: Those that the pair could be chosen from, as choose_pair sees them.
    nodes: list[JsonObject]
    agents: Mapping[str, AgentSeen]
    hold: list[Check]
    #: Whether an earlier run has left something that is put back before anything is changed.
    abandoned: bool = False
    rights: list[Check] = field(default_factory=list)
    #: Node → what its agent's next start would change, of the others that a run of scope cluster restarts.
    pending_elsewhere: Mapping[str, list[Difference]] = field(default_factory=dict)

    @property
    def statuses(self) -> dict[str, AgentStatus]:
        """Return node → what its agent says of itself, of those that have answered."""
        return {name: agent.status for name, agent in self.agents.items() if agent.status is not None}


@dataclass(frozen=True)
class Preflight:
    """Every check, and what was seen; no probes where none was wanted, or none could run.

    ``complete``: both nodes were probed and both agents have answered.
    """

    checks: list[Check]
    seen: Seen
    probes: dict[str, NodeProbe] = field(default_factory=dict)
    complete: bool = False


def preflight(
    api: ClusterApi, plan: Plan, pair: NodePair, *, holder: str | None = None, with_pods: bool = True
) -> Preflight:
    """Return every check of the cluster and of both nodes; changes no setting.

    With ``with_pods`` short-lived pods look at the nodes and connect to each other; without them nothing at all is
    created, and what only they can tell is not in the list. ``holder`` is the run that asks: its own hold on the
    cluster is no obstacle; while another one has it no pod is started, since it would be measured. Raises only if
    the API cannot be used or there is no Cilium at all.
    """
    hold, abandoned = _hold(api, holder)
    # Before the probes: what the agents are asked would be part of the load that these sample.
    seen = look(api, plan, pair, hold, abandoned)
    if not with_pods or any(check.status == "fail" for check in hold):
        return Preflight(judge(seen, plan, pair), seen)
    agents_answer = not any(agent.problem for agent in seen.agents.values())
    probes: dict[str, NodeProbe] = {}
    unreachable: Mapping[Way, str] | None = None
    problems = []
    try:
        probes = probe_nodes(api, plan, pair.names, sample_s=LOAD_SAMPLE_S)
        # Without its agent a node starts no pod of the cluster's own network.
        if agents_answer:
            api.settle(say)
            run_key = holder or f"check/{uuid.uuid4().hex[:12]}"
            unreachable = unreachable_ways(api, plan, pair, run_key)
    except (PodFailed, Forbidden, PreconditionFailed) as error:
        problems.append(node_checks.refused_check(error, plan))
    checks = [*judge(seen, plan, pair, probes, unreachable), *problems]
    return Preflight(checks, seen, probes, complete=bool(probes) and agents_answer)


def refuse_held(api: ClusterApi, holder: str) -> None:
    """Raise PreconditionFailed if another run holds the cluster, before anything is looked at or changed."""
    lease = read_lease(api)
    if lease is not None and lease.live(api.now()) and lease.owner != holder:
        raise PreconditionFailed(busy_sentence(api, lease))


def put_back_abandoned(api: ClusterApi, holder: str, *, progress: Progress) -> None:
    """Put back what a run has left behind that nobody holds the cluster for any more.

    Before the checks, which would else refuse for what only the restore can mend, such as an agent that does not
    start with what it was told. Raises RestoreFailed, and PreconditionFailed if a run takes the cluster meanwhile.
    """
    lease = read_lease(api)
    if lease is not None and lease.live(api.now()):
        return
    # A Lease that was never given back keeps its finalizer: a namespace that is deleted would wait for nothing.
    if (lease is not None and lease.holder) or restore.leftovers(api):
        restore.restore(api, f"left behind when {holder} started", progress=progress)


def look(api: ClusterApi, plan: Plan, pair: NodePair, hold: list[Check], abandoned: bool) -> Seen:
    """Return what API and agents tell. Raises only if the API cannot be used or there is no Cilium at all."""
    cilium = find_cilium(api)
    daemonset = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
    return Seen(
        server=f"{api.version()} at {api.host}",
        cilium=cilium,
        daemonset=daemonset,
        config=api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace),
        node_configs=api.select(cilium.node_config, cilium.namespace) if cilium.node_config else [],
        nodes=candidates(api, plan),
        agents={name: look_at_agent(api, cilium, daemonset, name) for name in pair.names},
        hold=hold,
        abandoned=abandoned,
        rights=[_rights(api, plan, cilium, pair), _guardian(api, plan), _policy(api)],
        pending_elsewhere=(
            agent_settings.pending_elsewhere(api, cilium, daemonset, pair.names) if plan.scope == "cluster" else {}
        ),
    )


def judge(
    seen: Seen,
    plan: Plan,
    pair: NodePair,
    probes: Mapping[str, NodeProbe] | None = None,
    unreachable: Mapping[Way, str] | None = None,
) -> list[Check]:
    """Return every check that can be made of what was seen; asks nobody.

    ``probes`` are of both nodes, or of none; ``unreachable`` is way → reason, None where nobody tried.
    """
    cilium, probes = seen.cilium, probes or {}
    statuses = seen.statuses
    behind = [name for name, agent in seen.agents.items() if not agent.current]
    nodes = [node_info(node) for node in seen.nodes]
    usable, labelled = sum(node.usable for node in nodes), sum(node.labelled for node in nodes)
    checks = [
        Check("Kubernetes API", "", "pass", seen.server),
        *seen.hold,
        *seen.rights,
        cilium_checks.version_check(cilium, statuses.values()),
        cilium_checks.rollout_check(seen.daemonset, behind, plan),
        *cilium_checks.change_checks(cilium, seen.daemonset, seen.config, plan),
        *cilium_checks.manager_checks(seen.daemonset, seen.config, plan),
        *cilium_checks.config_checks(seen.config, plan),
        node_checks.chosen_check(pair, plan, usable, labelled),
    ]
    metas = {node["metadata"]["name"]: node["metadata"] for node in seen.nodes}
    for node in pair.nodes:
        probed, agent = probes.get(node.name), seen.agents[node.name]
        checks.append(node_checks.node_check(node))
        if probed is not None:
            checks += node_checks.kernel_checks(node.name, probed, plan)
            checks.append(node_checks.memory_check(node.name, probed))
            checks.append(node_checks.load_check(node.name, probed, plan))
            checks += node_checks.cpu_limit_checks(probed)
        meta = metas.get(node.name, {})
        checks += cilium_checks.override_checks(node.name, meta, seen.node_configs, seen.daemonset)
        if agent.status is None or agent.merged is None:
            checks.append(Check("Cilium agent", node.name, "fail", agent.problem, agent.advice))
            continue
        checks.append(Check("Cilium agent", node.name, "pass", f"{agent.pod}, {agent.status.version}"))
        if not seen.abandoned:
            # Else the restore, which comes first, restarts what has to be.
            checks += cilium_checks.drift_checks(
                node.name, meta.get("labels") or {}, agent.merged, seen.config, seen.node_configs
            )
            checks += cilium_checks.pending_checks(node.name, agent.pending)
        checks += cilium_checks.agent_checks(node.name, cilium, agent.status, seen.config)
        if probed is not None:
            checks.append(cilium_checks.tunnel_check(node.name, cilium, agent.status, probed))
            checks += node_checks.device_checks(node, agent.status, agent.merged, probed, plan, seen.abandoned)
    if seen.pending_elsewhere and not seen.abandoned:
        found = agent_settings.elsewhere_text(seen.pending_elsewhere)
        checks.append(Check("pending settings", "", "fail", found, agent_settings.PENDING_ADVICE))
    checks.append(node_checks.alike_check(pair, probes, statuses))
    if unreachable is not None:
        checks += node_checks.reach_checks(pair, plan, unreachable)
    return checks


def unknown_without_pods(plan: Plan) -> str:
    """Return what only pods on the nodes can tell."""
    families = " and ".join(families_of(plan))
    return (
        "what the kernels can do, the devices on the path with their limits, memory, load, and whether pods reach "
        f"each other over {families}"
    )


def look_at_agent(api: ClusterApi, cilium: Cilium, daemonset: JsonObject, node: str) -> AgentSeen:
    """Return what the agent of a node says and was told, or why it does not answer."""
    pod = agent_pod(api, cilium, node)
    current = pod is not None and is_of_template(pod, daemonset)
    if pod is None or not is_ready(pod):
        problem = "there is none" if pod is None else f"pod {pod['metadata']['name']} {waiting_reason(pod)}"
        return AgentSeen(problem=problem, advice="mend it before a benchmark restarts it", current=current)
    name = pod["metadata"]["name"]
    try:
        status = read_status(api, cilium, name)
        told, merged = agent_settings.read_told(api, cilium, name)
        pending = agent_settings.pending(api, cilium, daemonset, node, told)
        return AgentSeen(name, status, merged, current=current, pending=pending)
    except BenchError as error:
        advice = "without what it says of itself nothing can be proven"
        return AgentSeen(problem=str(error), advice=advice, current=current)


def _hold(api: ClusterApi, holder: str | None) -> tuple[list[Check], bool]:
    """Return the lines about who holds the cluster, and whether an earlier run has left something behind."""
    lease = read_lease(api)
    live = lease is not None and lease.live(api.now())
    if lease is not None and live and lease.owner != holder:
        age = api.now() - lease.renewed_at
        advice = "wait for its end; if it has crashed, its hold ends by itself"
        return [Check("lease", "", "fail", f"held by {lease.owner}, renewed {age:.0f} s ago", advice)], False
    abandoned = restore.leftovers(api)
    advice = "put back first, when the cluster is taken for a run; or at once by bigtcp-bench restore"
    free = Check("lease", "", "pass", f"held by this run ({holder})" if live else "free")
    if abandoned:
        return [free, Check("leftovers", "", "warn", ", ".join(abandoned), advice)], True
    return [free, Check("leftovers", "", "pass", "none")], False


def _rights(api: ClusterApi, plan: Plan, cilium: Cilium, pair: NodePair) -> Check:
    optional = OPTIONAL_RESOURCES if takes(plan, "service") else (*OPTIONAL_RESOURCES, *SERVICE_RESOURCES)
    wanted = [
        right
        for right in rights.needed(plan.scope, cilium, pair.names)
        if right.resource not in optional and right.name not in OPTIONAL_NAMES
    ]
    try:
        lacking = rights.missing(api, wanted)
    except ApiProblem as error:
        return Check(
            "rights", "", "warn", f"cannot be told: {error}", "a run names each right that it turns out to lack"
        )
    if not lacking:
        return Check("rights", "", "pass", f"all {len(wanted)} that a run needs")
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    files = "include/manifests/rbac.yaml" + " and rbac-scope-cluster.yaml" * (plan.scope == "cluster")
    advice = (
        f"an administrator can grant it: kubectl apply -f {files}; for Airflow's chart also those in include/helm"
    )
    if all(right.resource in SERVICE_RESOURCES for right in lacking):
        advice += "; or leave @service out"
    return Check("rights", "", "fail", f"the account in use may not {lacking[0]}{more}", advice)


def _guardian(api: ClusterApi, plan: Plan) -> Check:
    if not plan.guardian:
        advice = "if Airflow never comes back, bigtcp-bench restore puts the cluster back"
        return Check("guardian", "", "pass", f"not wanted by the plan; {advice}")
    reason = guardian_objects.obstacle(api)
    if reason:
        return Check("guardian", "", "warn", f"none: {reason}", guardian_objects.REMEDY)
    return Check("guardian", "", "pass", "puts the cluster back if Airflow never comes back")


def _policy(api: ClusterApi) -> Check:
    try:
        found = api.find(NETWORKPOLICY, POLICY_NAME, BENCH_NAMESPACE)
    except Forbidden as error:
        return Check("network policy", "", "warn", f"cannot be told: {error.said}", error.advice)
    if found is not None:
        return Check("network policy", "", "pass", "benchmark pods are reached by benchmark pods only")
    advice = "kubectl apply -f include/manifests/networkpolicy.yaml"
    return Check("network policy", "", "warn", "every pod of the cluster reaches the benchmark's ports", advice)
