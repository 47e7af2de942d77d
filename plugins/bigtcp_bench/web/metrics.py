"""What Prometheus scrapes: the newest verdicts and states of every cluster that the scraper's user may see."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from bigtcp_bench.monitoring.exposition import Families
from bigtcp_bench.warehouse import scrape
from bigtcp_bench.web.access import AccessDep
from bigtcp_bench.web.data import open_warehouse

router = APIRouter()


@router.get("/metrics")
def metrics(request: Request, access: AccessDep) -> Response:
    """Answer in OpenMetrics, or in Prometheus' older text format, as the scraper asks."""
    warehouse = open_warehouse()
    found = [
        scrape.cluster_facts(warehouse, cluster, access.readable, whole=cluster in access.whole_clusters)
        for cluster in access.clusters
    ]
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    families = Families([facts for facts in found if facts is not None], access.hidden_clusters)
    return Response(encode(families), media_type=content_type)
