"""Only what Airflow's own documentation calls public is imported: the rest may change with any release."""

from __future__ import annotations

from pathlib import Path

import airflow.sdk
import pytest

from tests.test_rooms import imports

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for folder in ("dags", "plugins") for path in (ROOT / folder).rglob("*.py"))

#: By the page "Public Interface for Airflow 3.0+", and by those that it leads to: exceptions, masking of secrets,
#: triggers, bundles, plugins (with the permissions that an app of a plugin asks for) and auth managers.
PUBLIC = (
    "airflow.sdk.exceptions.",
    "airflow.sdk.log.mask_secret",
    "airflow.sdk.types.",
    "airflow.triggers.base.",
    "airflow.dag_processing.bundles.local.LocalDagBundle",
    "airflow.plugins_manager.AirflowPlugin",
    "airflow.api_fastapi.core_api.security.",
    "airflow.api_fastapi.auth.managers.",
)
#: Of a provider, its classes may be used and extended; where they are named: hooks, operators, triggers.
PROVIDER_PARTS = {"hooks", "operators", "triggers"}


def is_public(name: str) -> bool:
    """Return whether ``name``, a module or something in it, is of Airflow's public interface."""
    parts = name.split(".")
    if any(part.startswith("_") for part in parts):
        return False
    if name.startswith("airflow.providers."):
        return bool(PROVIDER_PARTS & set(parts))
    return name.startswith(PUBLIC) or (
        parts[:2] == ["airflow", "sdk"] and len(parts) == 3 and parts[2] in airflow.sdk.__all__
    )


def test_only_public_interfaces_of_airflow_are_imported() -> None:
    assert len(FILES) > 200
    private = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        for line, name in imports(path)
        if name.split(".")[0] == "airflow" and not is_public(name)
    ]
    assert not private, "\n".join(private)


@pytest.mark.parametrize(
    "name",
    [
        "airflow.providers.standard.decorators.python._PythonDecoratedOperator",
        "airflow.sdk.bases.decorator.task_decorator_factory",
        "airflow.models.dag.DagModel",
        "airflow.utils.session.create_session",
        "airflow.configuration.conf",
    ],
)
def test_what_is_private_is_known(name: str) -> None:
    assert not is_public(name)
