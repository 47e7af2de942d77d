from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest

from .api_cluster import ApiCluster
from .kubectl import Kubectl


@pytest.fixture(scope="module")
def api_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiCluster]:
    with ApiCluster(tmp_path_factory.mktemp("api"), rbac_on=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def core(api_cluster: ApiCluster) -> Iterator[kubernetes.client.CoreV1Api]:
    with api_cluster.client() as client:
        yield kubernetes.client.CoreV1Api(client)


@pytest.fixture
def kubectl(api_cluster: ApiCluster, tmp_path: Path) -> Kubectl:
    return Kubectl(api_cluster.kubeconfig, tmp_path)
