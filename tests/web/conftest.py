"""The pages as one user sees them, over HTTP, with Airflow's own permission checks behind them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bigtcp_bench.warehouse.store import Warehouse
from tests.web.history import fill

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

Client = Callable[..., "TestClient"]


@pytest.fixture(scope="session")
def filled_file(
    tmp_path_factory: pytest.TempPathFactory, new_warehouse: Callable[[Path], Warehouse]
) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("filled") / "warehouse.db"
    warehouse = new_warehouse(path)
    fill(warehouse)
    # The file is complete only when its last connection is closed.
    warehouse.engine.dispose()
    before = path.read_bytes()
    yield path
    log = Path(f"{path}-wal")
    assert path.read_bytes() == before, "a test has written into the warehouse that all share"
    assert not log.exists() or not log.stat().st_size, "a test has written into the warehouse that all share"


@pytest.fixture
def filled(filled_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pages show the warehouse that all tests read, and none changes."""
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{filled_file}")


@pytest.fixture
def warehouse(filled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    path = shutil.copy(filled_file, tmp_path / "warehouse.db")
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{path}")
    yield (opened := Warehouse(f"sqlite:///{path}"))
    opened.engine.dispose()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Yield a function that logs a user in; without one, nobody is."""
    from tests.web.logged_in import log_in

    opened: list[TestClient] = []

    def opens(
        name: str | None = None, role: str | None = "viewer", *, dags: set[str] | None = None, prefix: str = ""
    ) -> TestClient:
        opened.append(log_in(monkeypatch, name, role, dags, prefix))
        return opened[-1]

    yield opens
    for one in opened:
        one.close()
