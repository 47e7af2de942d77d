"""What tests of reports share: a Slack server, and a warehouse that is copied because migrating takes long."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.warehouse.store import Warehouse
from tests.support.slack_server import SlackServer


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


@pytest.fixture
def server() -> Iterator[SlackServer]:
    with SlackServer() as running:
        yield running
