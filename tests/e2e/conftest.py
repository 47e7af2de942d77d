"""One lab and one Airflow for all end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.lab import daemon
from tests.e2e.runs import Installation, install


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Yield an Airflow whose connections point to a fresh lab."""
    folder = tmp_path_factory.mktemp("e2e")
    info = daemon.up(folder / "lab")
    # Airflow reads its settings once per process, so this is the home that the tests began with.
    home = Path(os.environ["AIRFLOW_HOME"])
    try:
        yield install(home.parent, info.kubeconfig)
    finally:
        daemon.down(folder / "lab")
