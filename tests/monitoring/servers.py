"""Real servers to test with: Prometheus and node_exporter from Debian's packages, and small ones of our own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from prometheus_client.parser import text_string_to_metric_families

EXPOSITION = Path(__file__).parent / "exposition"
#: Ten would do on an idle machine.
READY_S = 60
SCRAPE_MS = 250


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Callable[[], Any], what: str) -> Any:
    """Return what ``done`` returns as soon as it is something."""
    deadline = time.monotonic() + READY_S
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what}: nothing within {READY_S} s"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def running(name: str, *options: str, port: int, path: str, folder: Path) -> Iterator[str]:
    """Start ``name`` and yield its address as soon as ``path`` of it answers."""
    program = shutil.which(name)
    assert program, f"{name} is missing; `scripts/install test` installs it"
    log = folder / f"{name}-{port}.log"
    with log.open("wb") as out:
        # The kernel ends it when the test's process dies, however that happens.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, *options], stdout=out, stderr=out, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}{path}", timeout=5):
                return True
            return False

        until(answers, name)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def prometheus(folder: Path, jobs: Sequence[dict[str, Any]], rules: Sequence[Path] = ()) -> Iterator[str]:
    """Start Prometheus with these scrape jobs, its data in ``folder``, and yield its address."""
    port = free_port()
    config = {
        "global": {"scrape_interval": f"{SCRAPE_MS}ms", "evaluation_interval": f"{SCRAPE_MS}ms"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": list(jobs),
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    options = (
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    with running("prometheus", *options, port=port, path="/-/ready", folder=folder) as url:
        yield url


@contextlib.contextmanager
def node_exporter(folder: Path) -> Iterator[str]:
    """Start node_exporter with its default collectors and yield its host and port."""
    port = free_port()
    option = f"--web.listen-address=127.0.0.1:{port}"
    with running("prometheus-node-exporter", option, port=port, path="/metrics", folder=folder) as url:
        yield url.removeprefix("http://")


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve with ``handler`` in a thread of its own, and yield host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        # The handshake in the thread of the connection: a client that gives up must not end the server.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def growing_counters() -> Iterator[str]:
    """Serve ``/NAME.prom`` of the folder ``exposition``, each counter grown by its value every second."""
    began = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = (EXPOSITION / Path(self.path).name).read_text(encoding="utf-8")
            seconds = time.monotonic() - began
            lines = []
            for family in text_string_to_metric_families(text):
                lines.append(f"# TYPE {family.name}_total {family.type}")
                for sample in family.samples:
                    labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
                    lines.append(f"{sample.name}{{{labels}}} {sample.value * seconds!r}")
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write("\n".join([*lines, ""]).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http_server(Handler) as address:
        yield address


@contextlib.contextmanager
def application(app: Any) -> Iterator[str]:
    """Serve an ASGI application with uvicorn, and yield host and port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "uvicorn")
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def asked(url: str, promql: str) -> list[dict[str, Any]]:
    """Return the result of an instant query: ``metric`` and ``value`` (moment, text) of each series."""
    query = urllib.parse.urlencode({"query": promql})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=20) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def promtool(*arguments: str, text: str = "") -> None:
    """Run promtool, and fail with what it says unless it is content."""
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
