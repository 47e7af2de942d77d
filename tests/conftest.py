"""What all tests need: an Airflow home of their own, set before anything imports Airflow; and one lab, shared."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab import daemon
from bigtcp_lab.daemon import LabInfo

_HOME = tempfile.mkdtemp(prefix="bigtcp-bench-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# Never the home of the person who runs the tests, and none of their connections either.
for _name in [name for name in os.environ if name.startswith("AIRFLOW") or name == "KUBECONFIG"]:
    del os.environ[_name]
# However the tests end, a lab that one of them has started ends with them.
os.environ[daemon.OWNER] = str(os.getpid())
# LocalAirflow keeps its home in a folder of this name, so the end-to-end tests can take it over.
os.environ["AIRFLOW_HOME"] = f"{_HOME}/airflow"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# Read once, when Airflow's models are first imported, which may be long before an end-to-end test begins.
os.environ["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).resolve().parent.parent / "dags")


@pytest.fixture(scope="session")
def lab_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the session's lab; ``daemon.set_fault`` takes it."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(lab_dir: Path) -> Iterator[LabInfo]:
    """Start a lab that enforces access rules (its kubeconfig is the administrator's) and stop it at the end."""
    try:
        yield daemon.up(lab_dir, rbac=True)
    finally:
        daemon.down(lab_dir)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "warehouse.db"
    migrated = Warehouse(f"sqlite:///{path}")
    migrated.migrate()
    # The file is complete only when its last connection is closed.
    migrated.engine.dispose()
    return path


@pytest.fixture
def warehouse(migrated_file: Path, tmp_path: Path) -> Warehouse:
    return Warehouse(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'warehouse.db')}")
