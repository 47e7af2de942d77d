"""Makes the README's pictures anew: a generated history in a real Airflow, as a browser shows it.

    python -m benchmarks.pictures [--warehouse FILE] [--into docs/images]

Without a SQLite file of `bigtcp-bench demo-history` it writes 400 nights first, which takes some minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page
from tests.web.airflow_server import AirflowServer, RunningServer
from tests.web.browsing import chromium, draw_shown, framed, profile

from bigtcp_bench.generated.history import cluster_names, write_history
from bigtcp_bench.report import links
from bigtcp_bench.warehouse import incidents, pages
from bigtcp_bench.warehouse.store import Warehouse

NIGHTS = 400
WIDTH = 1280
#: Who looks: may acknowledge, so that the form is in the picture.
USER = "ada"


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="make the README's pictures anew")
    parser.add_argument("--warehouse", type=Path, help="SQLite file of demo-history (default: a new one)")
    parser.add_argument("--into", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "warehouse.db"
        if options.warehouse:
            shutil.copy(options.warehouse, file)
        warehouse = Warehouse(f"sqlite:///{file}")
        warehouse.migrate()
        if not options.warehouse:
            write_history(warehouse, NIGHTS, progress=lambda text: print(text, flush=True))
        with RunningServer(Path(folder), file) as airflow, chromium() as browser:
            airflow.unpause(USER, "bigtcp_benchmark")
            page = profile(browser, airflow, USER).new_page()
            for name, path, height, theme in _pictures(warehouse):
                _take(page, airflow, path, height, theme)
                page.screenshot(path=options.into / f"{name}.png")
                print(options.into / f"{name}.png", flush=True)


def _pictures(warehouse: Warehouse) -> list[tuple[str, str, int, str]]:
    """Return name, page, height in pixels and theme of each picture."""
    cluster = cluster_names(1)[0]
    (run,) = pages.runs(warehouse, ["bigtcp_benchmark"], cluster=cluster, compared=True, limit=1)
    incident = incidents.open_incidents(warehouse, cluster)[-1]
    return [
        ("run", f"run/{run['id']}", 860, "light"),
        ("trend-dark", f"trend?cluster={cluster}&scenario=ipv6-stream-1", 900, "dark"),
        ("incident", f"incidents/{incident.id}", 900, "light"),
        ("overview", "overview", 1000, "light"),
    ]


def _take(page: Page, airflow: AirflowServer, path: str, height: int, theme: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto(airflow.url)
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    page.goto(f"{airflow.url}/plugin/bigtcp{links.URL_PREFIX}/{path}")
    frame = framed(page)
    frame.wait_for_load_state("networkidle")
    draw_shown(frame)


if __name__ == "__main__":
    main()
