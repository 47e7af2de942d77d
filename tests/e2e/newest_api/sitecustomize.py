"""Has every Airflow offer its tasks the newest version of their API alone, where PYTHONPATH names this folder.

Making the older ones, for workers that are older than their Airflow, takes each process that does it nine seconds
of CPU time. Python imports this at its start; it waits for Airflow to import the versions, and does nothing else.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

_VERSIONS = "airflow.api_fastapi.execution_api.versions"


def keep_the_newest(versions: Any) -> None:
    """Drop all but the newest of Airflow's ``versions``, and the routes which that one no longer has."""
    from airflow.api_fastapi.execution_api.routes import execution_api_router
    from cadwyn import HeadVersion, Version, VersionBundle
    from cadwyn.route_generation import _DELETED_ROUTE_TAG

    routes = execution_api_router.routes
    routes[:] = [route for route in routes if _DELETED_ROUTE_TAG not in getattr(route, "tags", ())]
    versions.bundle = VersionBundle(HeadVersion(), Version(versions.bundle.versions[0].value))


class AfterVersions(MetaPathFinder):
    """Has ``keep_the_newest`` called as soon as the versions are imported."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the spec of the versions' module, which others find, with this as the end of its import."""
        if name != _VERSIONS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        imported = loader.exec_module

        def import_and_trim(module: Any) -> None:
            imported(module)
            keep_the_newest(module)

        loader.exec_module = import_and_trim
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, AfterVersions())
