"""The package's DAG files as a bundle of Airflow: no copy, and never another version than the library's."""

from __future__ import annotations

from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle

from bigtcp_bench.resources import dags_dir


class PackageDagBundle(LocalDagBundle):
    """Where the DAG files of the installed package are, on whichever machine and Python this runs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path=str(dags_dir()), **kwargs)
