"""Warehouses to test with: every test runs on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import create_database, running_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/warehouse.db"
    return create_database(request.getfixturevalue("postgres_url"), f"test{next(_numbers)}")


@pytest.fixture
def warehouse(empty_url: str) -> Warehouse:
    result = Warehouse(empty_url)
    result.migrate()
    return result
