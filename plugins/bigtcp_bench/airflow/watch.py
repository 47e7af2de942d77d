"""The task that notices a changed Cilium, waits until it has come to rest, and says which run is to measure it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from bigtcp_bench.airflow import connections, dag_ids
from bigtcp_bench.cluster.fingerprint import UPGRADE_PLAN, Fingerprint, attempts, note, run_id
from bigtcp_bench.errors import BenchError
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    from airflow.sdk import Context

    from bigtcp_bench.warehouse.cilium_runs import CiliumRun
    from bigtcp_bench.warehouse.store import Warehouse

#: How long Cilium must be at rest before it is measured, unless the DAG's param says otherwise. Upgrades by hand
#: often come in two steps, such as the image first and the configuration after it.
SETTLE_S = 300
#: A rollout that takes longer is waited for by the next watch: this one has seen nothing that it would forget.
PATIENCE_S = 3300


class UpgradeWatchOperator(BaseOperator):
    """Ends with the run to trigger (``run_id`` and ``conf``), or skipped where there is nothing to measure.

    Nothing is remembered between two watches: the cluster is compared with the newest valid run in the warehouse,
    and the id of the run follows from both. However often a change is seen, it is the same run, unless that failed
    before it had measured anything: then there is another one, three at most.

    :param kubernetes_conn_id: the Airflow connection of the cluster to watch.
    :param settle_s: seconds that Cilium must have been at rest.
    :param patience_s: seconds after which the next watch takes over.
    """

    template_fields = ("settle_s",)

    def __init__(
        self,
        *,
        kubernetes_conn_id: str,
        settle_s: int | str = SETTLE_S,
        patience_s: float = PATIENCE_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=True, **kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.settle_s = settle_s
        self.patience_s = patience_s

    def execute(self, context: Context) -> None:
        """Compare the cluster with the newest valid run; wait in the triggerer if they differ."""
        from bigtcp_bench.airflow.triggers import POLL_S, CiliumRolloutTrigger
        from bigtcp_bench.cluster.environment import cluster_uid
        from bigtcp_bench.cluster.rollout import observe
        from bigtcp_bench.warehouse.cilium_runs import newest

        try:
            warehouse = connections.warehouse()
            cluster = connections.cluster_name(self.kubernetes_conn_id)
            last = newest(warehouse, cluster)
            nodes = last.nodes if last is not None else ()
            with contextlib.closing(connections.cluster_api(self.kubernetes_conn_id)) as api:
                refuse_another(last, cluster, cluster_uid(api))
                live = observe(api, nodes).fingerprint
            noticed = changed_since(warehouse, cluster, live)
        except BenchError as error:
            raise AirflowFailException(str(error)) from error
        if context["ti"].get_dag(self.benchmark).is_paused:
            raise AirflowSkipException(f"the DAG {self.benchmark} is paused; the change waits until it is not")
        settle_s = float(self.settle_s)
        self.defer(
            trigger=CiliumRolloutTrigger(
                self.kubernetes_conn_id,
                noticed=noticed,
                settle_s=settle_s,
                deadline=time.time() + self.patience_s,
                poll_s=min(POLL_S, settle_s / 4),
                nodes=nodes,
            ),
            method_name="settled",
        )

    def settled(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the run that is to measure what the trigger has found."""
        if "error" in event:
            raise AirflowFailException(event["error"])
        if not event["settled"]:
            raise AirflowSkipException(f"the next watch waits on: {event['state']}")
        live = Fingerprint(event["image"], event["config"])
        cluster = connections.cluster_name(self.kubernetes_conn_id)
        try:
            name, why = run_to_trigger(
                connections.warehouse(), cluster, self.benchmark, int(event["noticed"]), live
            )
        except BenchError as error:
            raise AirflowFailException(str(error)) from error
        say(why)
        return {"run_id": name, "conf": {"plan": UPGRADE_PLAN, "note": why}}

    @property
    def benchmark(self) -> str:
        """Return the id of the DAG that measures the cluster."""
        return dag_ids.dag_id_of(self.kubernetes_conn_id)


def refuse_another(last: CiliumRun | None, cluster: str, uid: str | None) -> None:
    """Skip the task if the newest valid run has measured another cluster of this name than ``uid``."""
    if last is not None and uid is not None and last.cluster_uid not in (None, uid):
        raise AirflowSkipException(
            f"run {last.number} was on another cluster, also called {cluster}; this one is watched after its own"
        )


def changed_since(warehouse: Warehouse, cluster: str, live: Fingerprint) -> int:
    """Return the number of the newest valid run, if its Cilium differs from ``live``; else skips the task."""
    from bigtcp_bench.warehouse.cilium_runs import newest

    last = newest(warehouse, cluster)
    if last is None:
        raise AirflowSkipException(f"no valid run of {cluster} that a change could be measured against")
    changes = last.fingerprint.differences(live)
    if not changes:
        raise AirflowSkipException(f"Cilium on {cluster} is what run {last.number} measured")
    say(f"Cilium on {cluster} has changed since run {last.number}: {'; '.join(map(str, changes))}")
    return last.number


def run_to_trigger(
    warehouse: Warehouse, cluster: str, dag_id: str, noticed: int, live: Fingerprint
) -> tuple[str, str]:
    """Return the id of the run of DAG ``dag_id`` that measures ``live``, and why it is started.

    Skips the task if that is not needed (any more). ``noticed`` is the run that the cluster was seen to differ
    from. The one to compare with is looked up again: another run may have ended since, of the Cilium before or
    already of the new one.
    """
    from bigtcp_bench.warehouse.cilium_runs import newest

    row = warehouse.run(noticed)
    seen, uid = Fingerprint.of_row(row), (row["environment"] or {}).get("cluster_uid")
    if seen is not None and not seen.differences(live):
        raise AirflowSkipException(f"Cilium on {cluster} is again what run {noticed} measured")

    def other_cilium(run: CiliumRun) -> bool:
        # Of the same cluster, where both runs know theirs.
        here = uid is None or run.cluster_uid in (None, uid)
        return here and bool(run.fingerprint.differences(live))

    before = newest(warehouse, cluster, other_cilium)
    if before is None:
        raise AirflowSkipException(f"no valid run of {cluster} that a change could be measured against")
    ended = ""
    for name in attempts(run_id(cluster, before.key, live)):
        number = warehouse.find_run(cluster, dag_id, name)
        if number is None:
            return name, note(before.number, before.fingerprint.differences(live))
        row = warehouse.run(number)
        ended = f"run {name} has been started already and is {row['status']}: {'; '.join(row['reasons'])}"
        if row["status"] != "failed" or not warehouse.blocks_frame(number).empty:
            break
    raise AirflowSkipException(ended.removesuffix(": "))
