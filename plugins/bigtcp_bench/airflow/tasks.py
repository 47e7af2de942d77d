"""The decorator of the benchmark's Python tasks: ``@task`` of Airflow with an operator class of its own.

By that class the plugin's link to the run's page finds these tasks, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk.bases.decorator import task_decorator_factory


class StepOperator(_PythonDecoratedOperator):
    """Runs one step of a run."""


def task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Make a task of a function; used as Airflow's own ``@task``, with or without arguments."""
    return task_decorator_factory(python_callable, decorated_operator_class=StepOperator, **kwargs)
