"""The note of a DAG run in Airflow's UI, written through Airflow's REST API.

A task cannot do it by itself: the API that tasks are given (Airflow 3.3) reads the note of a run and sets that of
a run it triggers, but not its own. So this needs a user's credentials, from a connection that need not be there.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from bigtcp_bench.errors import BenchError

#: Airflow takes no longer ones.
NOTE_CHARS = 1000
_TIMEOUT_S = 10


class NoteFailed(BenchError):
    """The note could not be written; the run does not depend on it."""


@dataclass(frozen=True)
class AirflowApi:
    """Where Airflow's REST API is, and a user who may edit the runs of the benchmark's DAGs."""

    url: str
    login: str
    password: str = field(repr=False)

    def add_note(self, dag_id: str, run_id: str, text: str, *, first: bool = False) -> None:
        """Put ``text`` under the note that the run has, or above it. Raises NoteFailed, in one sentence."""
        token = self._call("POST", "auth/token", {"username": self.login, "password": self.password})[
            "access_token"
        ]
        dag, run = (urllib.parse.quote(name, safe="") for name in (dag_id, run_id))
        path = f"api/v2/dags/{dag}/dagRuns/{run}"
        before = (self._call("GET", path, token=token).get("note") or "").strip()
        if text in before:
            return
        note = "\n\n".join(filter(None, (text, before) if first else (before, text)))
        if len(note) > NOTE_CHARS:
            note = f"{note[: NOTE_CHARS - 1]}…"
        self._call("PATCH", f"{path}?update_mask=note", {"note": note}, token=token)

    def _call(self, method: str, path: str, body: Any = None, token: str | None = None) -> dict[str, Any]:
        url = f"{self.url.rstrip('/')}/{path}"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, headers, method=method)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise NoteFailed(f"Airflow's API at {self.url} answered {error.code} to {method} {path}") from error
        except (OSError, ValueError) as error:
            raise NoteFailed(f"Airflow's API at {self.url} cannot be used: {error}") from error
