"""The link from a run's tasks to its page. The API server makes it, so a running or killed task has it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, conf

from bigtcp_bench.report.links import run_url

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

#: Operators of the DAG's tasks, by module and class. Airflow compares just these two names, and the operators
#: themselves would bring the Kubernetes client into every process that loads plugins.
OPERATORS = (
    ("bigtcp_bench.airflow.step_operator", "StepOperator"),
    ("bigtcp_bench.airflow.generation_operator", "IperfGenerationOperator"),
)


class RunPageLink(BaseOperatorLink):
    """A button on every task of the benchmark."""

    name = "BIG TCP comparison"
    operators = [type(name, (), {"__module__": module}) for module, name in OPERATORS]  # noqa: RUF012

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the page of the task's run."""
        return run_url(conf.get("api", "base_url", fallback=""), ti_key.dag_id, ti_key.run_id)
