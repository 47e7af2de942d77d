"""What Prometheus scrapes: the newest verdicts and states of every cluster that the scraper's user may see."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from bigtcp_bench.monitoring.exposition import ClusterFacts, Families
from bigtcp_bench.warehouse import scrape
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.web.access import Access, AccessDep
from bigtcp_bench.web.data import open_warehouse

router = APIRouter()


@router.get("/metrics")
def metrics(request: Request, access: AccessDep) -> Response:
    """Answer in OpenMetrics, or in Prometheus' older text format, as the scraper asks."""
    from prometheus_client.exposition import choose_encoder

    warehouse = open_warehouse()
    found = [_facts(warehouse, access, cluster) for cluster in access.clusters]
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    families = Families([facts for facts in found if facts is not None])
    return Response(encode(families), media_type=content_type)


def _facts(warehouse: Warehouse, access: Access, cluster: str) -> ClusterFacts | None:
    runs = scrape.newest_runs(warehouse, cluster, access.readable)
    if runs is None:
        return None
    # States and incidents are judged from the runs of all DAGs of a cluster.
    whole = cluster in access.whole_clusters
    return ClusterFacts(
        name=cluster,
        runs=runs,
        comparisons=scrape.newest_comparisons(warehouse, cluster, access.readable),
        states=scrape.newest_states(warehouse, cluster, access.readable) if whole else None,
        incidents=scrape.open_incidents(warehouse, cluster) if whole else None,
    )
