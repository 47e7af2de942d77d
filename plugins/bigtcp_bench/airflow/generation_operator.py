"""The operator of one generation: a fresh server pod, a fresh client pod, and everything they measured stored."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_secret

from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.errors import BenchError, FenceLost, MeasurementFailed, PreconditionFailed, first_line
from bigtcp_bench.measuring.generation import (
    Generation,
    client_pod,
    create_server,
    discard_end,
    orders_of,
    prepare,
    prepare_end,
    prepared_server,
    servers,
)
from bigtcp_bench.planning.plan import RERUN_PREFIX
from bigtcp_bench.progress import say
from bigtcp_bench.resources import load_manifest

if TYPE_CHECKING:
    from airflow.sdk import Context
    from kubernetes.client import V1Pod

    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.cluster.lease import Fence
    from bigtcp_bench.planning.plan import Plan
    from bigtcp_bench.readings.agent_log import Repetition
    from bigtcp_bench.readings.measurements import End, IdleLoads
    from bigtcp_bench.readings.orders import MeasureOrders
    from bigtcp_bench.warehouse.store import Warehouse


#: So long after the end of a container its pod's status says so, and how often that is looked at.
END_KNOWN_S, END_POLL_S = 2.0, 0.1


class IperfGenerationOperator(KubernetesPodOperator):
    """Runs the client pod of one generation against a fresh server pod, and stores what it measured.

    The pod is ``include/manifests/client-pod.yaml``. Where the provider's defaults are left:

    - ``startup_check_interval_seconds=0.1`` (5): a generation lasts seconds to minutes, so waiting shows; for that
      the pod's end is awaited here, too, of which the provider asks every two seconds;
    - ``termination_message_policy="FallbackToLogsOnError"`` ("File"): a dying agent says why as its last line;
    - ``log_events_on_failure=True``, ``log_pod_spec_on_failure=False``: what happened to the pod, not what it is;
    - ``log_events_on_startup=False``: polling for events is load on the API server while nothing is wrong;
    - no XCom side-car: another container on the CPU under test, and rights to exec. The agent's log has it all.

    :param generation: what to measure, see Generation. (templated)
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "generation")

    def __init__(self, *, generation: dict[str, Any], **kwargs: Any) -> None:
        kwargs = {
            # The DAG's own, see execute.
            "kubernetes_conn_id": None,
            "namespace": "bigtcp-bench",
            "pod_template_dict": load_manifest("client-pod.yaml"),
            "startup_check_interval_seconds": 0.1,
            "startup_timeout_seconds": 300,
            "base_container_status_polling_interval": 0.3,
            "termination_message_policy": "FallbackToLogsOnError",
            "log_events_on_failure": True,
            "log_events_on_startup": False,
            "log_pod_spec_on_failure": False,
            "deferrable": False,
            **kwargs,
        }
        super().__init__(**kwargs)
        self.generation = generation
        self.log_formatter = self._readable
        self._stored: _Stored | None = None
        self._server = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Measure the generation and return how many repetitions it has, and how many of them failed.

        A retry finds the pods of a worker that was killed and goes on with them.
        """
        from bigtcp_bench.airflow.connections import cluster_api, warehouse

        generation = Generation.model_validate(self.generation)
        self.kubernetes_conn_id = self.kubernetes_conn_id or dag_ids.conn_id_of(self.dag_id)
        api, store = cluster_api(str(self.kubernetes_conn_id)), warehouse()
        self._refuse(store, generation)
        try:
            return self._measured(context, api, store, generation)
        except FenceLost as error:
            # Another run, or a restore, has the cluster now: trying again cannot help.
            raise AirflowFailException(str(error)) from error
        except Exception as error:
            failure = {
                "block": generation.block,
                "arm": generation.arm,
                "generation": generation.generation,
                "reason": f"{generation}: {first_line(error)}",
            }
            store.store_failures(generation.run, [failure])
            # In vain right after an outage of the API server: pods that are made then may not reach each other.
            api.settle(lambda text: say(f"{generation}: {text}"))
            raise

    def _measured(
        self, context: Context, api: ClusterApi, store: Warehouse, generation: Generation
    ) -> dict[str, Any]:
        """Measure behind the run's fence, begin what comes next, and return what ``execute`` does."""
        from bigtcp_bench.cluster import pods
        from bigtcp_bench.cluster.lease import Fence
        from bigtcp_bench.cluster.services import open_service

        plan = store.plan_of(generation.run)
        fence = Fence(api, generation.run_key)
        with fence.renewing():
            fence.check()
            # One that is tried again may come after the last.
            discard_end(api, generation)
            server = self._running_server(api, generation) if self._client_runs(context) else None
            if server is None:
                server = self._fresh_server(api, fence, generation, plan, first=context["ti"].try_number == 1)
            token = pods.orders_in(server)["token"]
            # The provider logs a pod that cannot be created as a whole.
            mask_secret(token)
            service = open_service(api, server, before=fence.check) if generation.has_service else None
            orders = orders_of(generation, plan, pods.pod_addresses(server), token, service)
            self.pod_template_dict = client_pod(generation, plan, orders)
            self._stored = _Stored(api, store, generation, orders)
            say(f"{generation}: fresh pods on {generation.client_node} and {generation.server_node}")
            measured = False
            try:
                # The server may have taken minutes to start, and another run may be measuring by now.
                fence.check()
                self._server = server["metadata"]["name"]
                super().execute(context)
                measured = True
            finally:
                # Another try must find none of these pods; whoever comes next waits for them itself.
                self._remove(api, generation, server, wait=not measured)
            if generation.next is not None:
                prepare(api, fence, generation.next, plan)
            else:
                run = store.run(generation.run)
                prepare_end(api, fence, generation, plan, [run["client_node"], run["server_node"]])
        return self._stored.summary()

    def _refuse(self, store: Warehouse, generation: Generation) -> None:
        """End the task where its arm is no longer in force, as its attempt has ended, or its plan was changed."""
        from bigtcp_bench.judging.attempts import has_ended, refuse_changed, refuse_ended

        try:
            if not self.task_id.startswith(RERUN_PREFIX):
                refuse_ended(store, generation.run)
            elif has_ended(store.run(generation.run)):
                # What is measured twice tells of its night. The run itself stays as it is.
                raise PreconditionFailed(f"run {generation.run} has ended; nothing of it is measured again now")
            refuse_changed(store, generation.run, generation.choice)
        except PreconditionFailed as error:
            raise AirflowFailException(str(error)) from error

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Context) -> V1Pod:
        """Return the client pod, once its server is Ready, for which both have started side by side."""
        from bigtcp_bench.cluster import pods

        # Whoever ends the task meanwhile deletes the pod of this name.
        self.pod = super().get_or_create_pod(pod_request_obj, context)
        if self._stored is not None:
            pods.wait_ready(self._stored.api, self._server)
        return self.pod

    def cleanup(
        self, pod: V1Pod, remote_pod: V1Pod, xcom_result: dict | None = None, context: Context | None = None
    ) -> None:
        """Store what the pod measured, however it ended, before the provider deletes it."""
        try:
            # Without one the server never was Ready, or there is no pod: nothing was measured.
            self._keep(remote_pod)
        finally:
            super().cleanup(pod, remote_pod, xcom_result, context)

    def await_pod_completion(self, pod: V1Pod) -> None:  # type: ignore[override]  # the provider decorates it
        """Wait for the container's end, and a moment for the pod's, which the cluster tells a little later."""
        super().await_pod_completion(pod)
        if self._stored is None or pod.metadata is None:
            return
        from bigtcp_bench.cluster import pods

        with contextlib.suppress(BenchError):
            pods.wait_over(self._stored.api, str(pod.metadata.name))

    def on_kill(self) -> None:
        """Store what the pod has measured so far, then let the provider delete it."""
        try:
            self._keep(self.pod)
        finally:
            super().on_kill()

    def _keep(self, pod: V1Pod | None) -> None:
        if pod is None or pod.metadata is None or pod.metadata.name is None or self._stored is None:
            return
        try:
            log = self._stored.api.logs(
                str(pod.metadata.namespace), pod.metadata.name, str(self.base_container_name)
            )
        except BenchError as error:
            # The pod or its node is gone, but this must not hide why the task ended. What was followed is known.
            self.log.warning("the log of pod %s could not be read: %s", pod.metadata.name, first_line(error))
            if self._stored.empty:
                return
            log = ""
        self._stored.take(log)
        self._stored.store()

    def _readable(self, container: str, message: str) -> str:
        """Return what the task log shows of one line of the pod: a frame's key figures instead of its document."""
        from bigtcp_bench.in_cluster.output import MARKER

        if MARKER not in message or self._stored is None:
            return message
        lines = []
        for text in self._stored.take(message):
            lines.append(text)
            say(text)
        return "\n".join(lines) or "(a document for the warehouse)"

    def _client_runs(self, context: Context) -> bool:
        pod = self.find_pod(str(self.namespace), context=context)
        return pod is not None and pod.status.phase in ("Pending", "Running")

    @staticmethod
    def _running_server(api: ClusterApi, generation: Generation) -> dict[str, Any] | None:
        found = servers(api, generation)
        return next((pod for pod in found if (pod.get("status") or {}).get("phase") == "Running"), None)

    @functools.cached_property
    def pod_manager(self) -> Any:
        """Return the provider's, but for its pause of a second where a log has ended before its container."""
        manager: Any = super().pod_manager
        manager.container_is_running = functools.partial(_runs_on, manager.container_is_running)
        return manager

    @staticmethod
    def _remove(api: ClusterApi, generation: Generation, server: dict[str, Any], *, wait: bool) -> None:
        """Delete the pods of the run, and before them the Service, which the cluster would delete later."""
        from bigtcp_bench.cluster import pods
        from bigtcp_bench.cluster.services import close_service

        try:
            if generation.has_service:
                close_service(api, server)
        finally:
            pods.delete_pods(api, run_key=generation.run_key, wait=wait)

    @staticmethod
    def _fresh_server(
        api: ClusterApi, fence: Fence, generation: Generation, plan: Plan, *, first: bool
    ) -> dict[str, Any]:
        """Return a server with its addresses, and no pod beside it; a ``first`` try takes the prepared one."""
        from bigtcp_bench.cluster import pods

        prepared = prepared_server(api, generation) if first else None
        pods.delete_pods(api, before=fence.check, keep=prepared["metadata"]["name"] if prepared else "")
        server = prepared or create_server(api, fence, generation, plan)
        return pods.wait_addressed(api, server["metadata"]["name"], in_service=generation.has_service)


def _runs_on(runs: Callable[[V1Pod, str], bool], pod: V1Pod, container_name: str) -> bool:
    """Return whether a container runs: its log ends with it, and the cluster tells of that a moment later."""
    deadline = time.monotonic() + END_KNOWN_S
    while runs(pod, container_name):
        if time.monotonic() >= deadline:
            return True
        time.sleep(END_POLL_S)
    return False


@dataclass
class _Outcome:
    """The rows of one repetition, and what the task log says of it."""

    line: str
    reasons: list[str]
    rows: dict[str, list[dict[str, Any]]]
    #: Metric → why there is none.
    gaps: dict[str, str]


class _Stored:
    """What a client's log holds, in the warehouse. Lines are taken as they come: each frame is read once.

    A kubelet gives back the newest 10 MiB of a log, and those may not be all, so the lines that were followed
    count too. Of a document only the rows are kept, and the document as it came.
    """

    def __init__(
        self, api: ClusterApi, warehouse: Warehouse, generation: Generation, orders: MeasureOrders
    ) -> None:
        from bigtcp_bench.readings.agent_log import AgentLog

        self.api = api
        self._warehouse = warehouse
        self._generation = generation
        self._orders = orders
        self._idle = _idle_loads(warehouse, generation)
        self._log = AgentLog(orders)
        self._outcomes: dict[tuple[str, int], _Outcome] = {}
        self._good = 0
        self._reasons: list[str] = []

    @property
    def empty(self) -> bool:
        """Return whether nothing was found yet."""
        return not self._outcomes and self._log.hello is None

    def take(self, text: str) -> list[str]:
        """Take all frames in ``text`` that are not known yet; return a line about each repetition."""
        lines = []
        for repetition in self._log.read(text):
            outcome = self._outcome(repetition)
            self._outcomes[repetition.scenario, repetition.repetition] = outcome
            lines.append(outcome.line)
        return lines

    def _outcome(self, repetition: Repetition) -> _Outcome:
        from bigtcp_bench.measuring.pod_counters import pod_counters
        from bigtcp_bench.readings.frames import packed
        from bigtcp_bench.readings.measurements import evaluated, problems

        generation = self._generation
        place = {
            "block": generation.block,
            "generation": generation.generation,
            "scenario": repetition.scenario,
            "repetition": repetition.repetition,
        }
        in_arm = {**place, "arm": generation.arm}
        document = repetition.stored or packed({})
        rows: dict[str, list[dict[str, Any]]] = {
            # Of a failed one too: they may say why.
            "counters": [{**in_arm, **asdict(one)} for one in pod_counters(repetition)],
            "raw": [{**place, "kind": "repetition", "document": document}],
        }
        name = f"{repetition.scenario} {repetition.repetition}"
        wrong = problems(repetition, self._orders)
        if wrong:
            rows["failures"] = [{**in_arm, "reason": "; ".join(wrong)}]
            return _Outcome(f"{name}: {wrong[0]}", wrong, rows, {})
        found, gaps = evaluated(repetition, self._idle)
        rows["results"] = [{**in_arm, **asdict(one)} for one in found]
        return _Outcome(
            f"{name}: {_figures(repetition.traffic, {one.metric: one.value for one in found})}", [], rows, gaps
        )

    def store(self) -> None:
        """Store the measurements, failures and documents taken so far, in place of what was stored before."""
        from bigtcp_bench.readings.frames import packed

        generation, log = self._generation, self._log
        key = {"block": generation.block, "generation": generation.generation}
        rows: dict[str, list[dict[str, Any]]] = {"results": [], "failures": [], "counters": [], "raw": []}
        gaps: dict[str, dict[str, list[str]]] = {}
        for (scenario, _), outcome in self._outcomes.items():
            for table, found in outcome.rows.items():
                rows[table] += found
            for metric, reason in outcome.gaps.items():
                gaps.setdefault(reason, {}).setdefault(metric, []).append(scenario)
        for line in [*_gap_lines(generation, gaps), *log.damaged]:
            say(line)
        gone = (
            "the pod ended before it was measured" if log.done is None else "its line had gone from the pod's log"
        )
        if log.damaged:
            gone = log.damaged[0]
        missing = {
            place: f"{place[0]} repetition {place[1]} ({generation}): {gone}"
            for place in log.missing(self._orders)
        }
        rows["failures"] += [
            {**key, "arm": generation.arm, "scenario": scenario, "repetition": number, "reason": reason}
            for (scenario, number), reason in missing.items()
        ]
        if log.hello is not None:
            document = packed(log.hello.model_dump(mode="json"))
            rows["raw"].append({**key, "kind": "hello", "document": document})
        self._warehouse.store_generation(generation.run, generation.block, generation.generation, **rows)
        self._good = sum(not outcome.reasons for outcome in self._outcomes.values())
        first = [outcome.reasons[0] for outcome in self._outcomes.values() if outcome.reasons]
        self._reasons = [*first, *missing.values()]

    def summary(self) -> dict[str, Any]:
        """Return the counts. Raises MeasurementFailed if not a single repetition is usable."""
        for reason in self._reasons:
            say(f"failed: {reason}")
        if not self._good:
            why = self._reasons[0] if self._reasons else "the pod's log could not be read"
            raise MeasurementFailed(f"{self._generation}: nothing usable was measured: {why}")
        return {"measured": self._good, "failed": len(self._reasons)}


def _gap_lines(generation: Generation, gaps: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Yield a sentence for each reason why repetitions lack metrics; ``gaps`` is reason → metric → scenarios."""
    from bigtcp_bench.planning.metrics import METRICS

    for reason, metrics in gaps.items():
        (first, scenarios), *others = metrics.items()
        more = f" and {len(others)} other metrics" if others else ""
        where = ", ".join(dict.fromkeys(scenarios))
        yield f"{generation}: no {METRICS[first].label}{more} of {where}: {reason}"


def _idle_loads(warehouse: Warehouse, generation: Generation) -> IdleLoads:
    """Return how busy both nodes were at the beginning of the generation's block, while nothing was measured."""
    from bigtcp_bench.cluster.load import RESTLESS
    from bigtcp_bench.readings.cpu import cpu_load
    from bigtcp_bench.readings.frames import unpacked

    documents = {one.kind: one for one in warehouse.raw_documents(generation.run, block=generation.block)}
    nodes: tuple[tuple[End, str], ...] = (
        ("sender", generation.client_node),
        ("receiver", generation.server_node),
    )
    found: dict[End, dict[str, float] | str] = {}
    for end, node in nodes:
        stored = documents.get(f"node-begin:{node}")
        seen = unpacked(stored.document) if stored is not None else {}
        load = cpu_load(seen.get("earlier"), seen.get("snapshot"))
        if RESTLESS in seen:
            found[end] = str(seen[RESTLESS])
        elif load is None:
            say(f"{generation}: the idle load of {node} is unknown, so nothing is subtracted from its CPU time")
        else:
            found[end] = load
    return found


def _figures(traffic: str, values: dict[str, float]) -> str:
    from bigtcp_bench.in_cluster.traffic import KINDS
    from bigtcp_bench.report.units import value_text

    parts = [
        f"{one.short_label} {value_text(values[one.name], one.unit)}"
        for one in KINDS[traffic].metrics
        if one.name in values
    ]
    ends = [values[name] for name in ("bytes_per_packet_sender", "bytes_per_packet_receiver") if name in values]
    if len(ends) == 2:
        parts.append("{:,.0f} / {:,.0f} bytes per packet (sender / receiver)".format(*ends))
    return ", ".join(parts)
