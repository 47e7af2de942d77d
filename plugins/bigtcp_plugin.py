"""What Airflow is told about bigtcp-bench when this folder is its plugins folder."""

from __future__ import annotations

from bigtcp_bench.web.plugin import BigTcpBenchPlugin

__all__ = ["BigTcpBenchPlugin"]
