"""What all tests need: an order, an Airflow home of their own before anything imports Airflow, one shared lab."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.support.forked import Forked
from tests.support.installed import build_wheel, virtual_environment

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse
    from bigtcp_lab.daemon import LabInfo

# Collecting imports thousands of modules; looking again and again for garbage among them takes a quarter of it.
gc.disable()
# Nor is any looked for when the process ends.
atexit.register(gc.freeze)

# No example is wrong because a busy machine took its time.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

_HOME = tempfile.mkdtemp(prefix="bigtcp-bench-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# Never the home of the person who runs the tests, and none of their connections either.
for _name in [name for name in os.environ if name.startswith("AIRFLOW") or name == "KUBECONFIG"]:
    del os.environ[_name]
# However the tests end, a lab that one of them has started ends with them.
os.environ["BIGTCP_LAB_OWNER"] = str(os.getpid())
# LocalAirflow keeps its home in a folder of this name, so the end-to-end tests can take it over.
os.environ["AIRFLOW_HOME"] = f"{_HOME}/airflow"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# Importing the provider of Kubernetes takes a busy machine long.
os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = "300"
# Read once, when Airflow's models are first imported, which may be long before an end-to-end test begins.
os.environ["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).resolve().parent.parent / "dags")

#: What takes longest begins first. The files of one line share a worker, and with it one Airflow and one lab. A
#: worker is handed its next line when it has two tests left, so short ones stand between.
FIRST = (
    (
        *("e2e/test_night.py", "e2e/test_run.py", "e2e/test_upgrade_watch.py"),
        *("e2e/test_restore_dag.py", "e2e/test_dry_run.py"),
    ),
    ("e2e/test_demo.py",),
    ("test_compose_services.py", "e2e/test_up.py"),
    ("airflow/test_dag_ids.py",),
    ("airflow/test_params.py",),
    ("cluster/test_on_the_lab.py", "in_cluster/test_measure_traffic.py", "measuring/test_control_on_the_lab.py"),
    ("web/test_browser.py",),
    ("test_wheel.py", "test_recipes.py", "test_dag.py", "demo/test_local_airflow.py"),
    (
        *("web/test_pages.py", "web/test_permissions.py", "web/test_metrics.py", "web/test_attempts.py"),
        "web/test_any_run.py",
    ),
)
_PLACES = {f"tests/{name}": (place, line[0]) for place, line in enumerate(FIRST) for name in line}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the tests once before several workers begin."""
    if session.config.pluginmanager.hasplugin("dsession"):
        from tests.support.prepared import prepare

        prepare(session.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin first."""
    items.sort(key=lambda item: _PLACES.get(item.nodeid.partition("::")[0], (len(FIRST), ""))[0])


def pytest_collection_finish() -> None:
    """Look for garbage again, but seldom, and never among what was imported."""
    gc.freeze()
    gc.enable()
    # What a test makes is mostly freed without it.
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that gives a worker whole files, and those of one line of ``FIRST`` together."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return _PLACES.get(file, (0, file))[1]

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def lab_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the session's lab; ``daemon.set_fault`` takes it."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(lab_dir: Path) -> Iterator[LabInfo]:
    """Start a lab that enforces access rules (its kubeconfig is the administrator's) and stop it at the end."""
    from bigtcp_lab import daemon

    try:
        yield daemon.up(lab_dir, rbac=True)
    finally:
        daemon.down(lab_dir)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that has the wheel, and no checkout."""
    return virtual_environment(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(scope="session")
def forked(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Start a process of ``programs`` with Airflow, which takes long to import, for all that ask one."""
    with Forked(programs, tmp_path_factory.mktemp("forked")) as process:
        yield process


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bigtcp_bench.warehouse.store import Warehouse

    path = tmp_path_factory.mktemp("migrated") / "warehouse.db"
    migrated = Warehouse(f"sqlite:///{path}")
    migrated.migrate()
    # The file is complete only when its last connection is closed.
    migrated.engine.dispose()
    return path


@pytest.fixture(scope="session")
def new_warehouse(migrated_file: Path) -> Callable[[Path], Warehouse]:
    """Return what makes an empty warehouse in a file: a copy, because migrating takes longer than most tests."""
    from bigtcp_bench.warehouse.store import Warehouse

    return lambda path: Warehouse(f"sqlite:///{shutil.copy(migrated_file, path)}")


@pytest.fixture
def warehouse(new_warehouse: Callable[[Path], Warehouse], tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "warehouse.db")
