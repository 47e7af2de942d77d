"""Warehouses to test with: every test runs on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import create_database, running_server

_numbers = itertools.count(1)

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/warehouse.db"
    return create_database(request.getfixturevalue("postgres_url"), f"test{next(_numbers)}")


@pytest.fixture(scope="session")
def migrated_database(postgres_url: str) -> str:
    Warehouse(create_database(postgres_url, "migrated")).migrate()
    return "migrated"


@pytest.fixture(params=DATABASES)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """An empty warehouse with all its tables, copied because migrating takes longer than most tests."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "warehouse.db")
        return Warehouse(f"sqlite:///{path}")
    template = request.getfixturevalue("migrated_database")
    server = request.getfixturevalue("postgres_url")
    return Warehouse(create_database(server, f"test{next(_numbers)}", template=template))
