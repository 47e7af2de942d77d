"""One lab and one Airflow for all end-to-end tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from bigtcp_lab import administrator, daemon
from tests.e2e.runs import Installation, impatient_sleep, install


# What install() sets of the environment ends with these tests: others share the process.
@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Yield an Airflow whose connections point to a fresh lab.

    The second that its in-process scheduler sleeps after each task that was skipped is shorter.
    """
    folder = tmp_path_factory.mktemp("e2e")
    info = daemon.up(folder / "lab")
    administrator.apply_manifests(info.kubeconfig)
    # Airflow reads its settings once per process, so this is the home that the tests began with.
    home = Path(os.environ["AIRFLOW_HOME"])
    try:
        with mock.patch.dict(os.environ), mock.patch.object(time, "sleep", impatient_sleep):
            yield install(home.parent, info.kubeconfig)
    finally:
        daemon.down(folder / "lab")
