"""Runs unmodified KubernetesPodOperators as tasks would, one per argument, and prints what came of each."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG


class Completion(KubernetesPodOperatorCallback):
    """Reads the log once more when the pod has ended, as the benchmark does."""

    logs: list[str] = []  # noqa: RUF012

    @staticmethod
    def on_pod_completion(*, pod: Any, client: Any, **kwargs: Any) -> None:
        read = client.read_namespaced_pod_log
        answer = read(pod.metadata.name, pod.metadata.namespace, container="base", _preload_content=False)
        Completion.logs.append(answer.read().decode())


def run(command: str) -> None:
    """Run one operator and print what came of it as one line of JSON."""
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        rec = KubernetesPodOperator(
            task_id="rec",
            name="rec",
            namespace="default",
            image="busybox:1",
            cmds=["sh", "-c", command],
            kubernetes_conn_id="kubernetes_default",
            callbacks=[Completion],
            log_events_on_failure=True,
            on_finish_action="delete_pod",
            termination_grace_period=1,
            startup_check_interval_seconds=1,
        )
    task_instance = MagicMock(dag_id="d", run_id="r", task_id="rec", try_number=1, map_index=-1)
    task_instance.xcom_pull.return_value = None
    run = SimpleNamespace(run_id="r", dag_id="d", logical_date=None, run_after=datetime.now(UTC))
    context: Any = {"dag": dag, "task": rec, "ti": task_instance, "task_instance": task_instance}
    context |= {"dag_run": run, "run_id": "r", "ts": "2026-01-01T00:00:00+00:00", "params": {}}
    error = ""
    try:
        rec.execute(context)
    except Exception as failure:
        error = str(failure)
    print("RESULT " + json.dumps({"error": error, "logs": Completion.logs}))


if __name__ == "__main__":
    # Looking for garbage in all of Airflow takes a second of CPU time.
    atexit.register(gc.freeze)
    for argument in sys.argv[1:]:
        Completion.logs.clear()
        run(argument)
