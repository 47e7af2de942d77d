"""One process that has imported what Airflow's DAG processor has, and forks to answer each question."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: Reads questions, a line of JSON each, and answers with the exit status of the process that it has forked.
_SERVER = """
import atexit, gc, json, os, sys
gc.disable()
atexit.register(gc.freeze)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import airflow.dag_processing.manager
print("imported", file=answers, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
        continue
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(asked[name], os.O_CREAT | os.O_WRONLY), number)
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    sys.path[:0] = asked["path"]
    sys.argv[1:] = asked["arguments"]
    exec(asked["code"], {"__name__": "__main__"})
    break
"""


class Forked:
    """A Python of ``programs`` whose AIRFLOW_HOME is ``airflow`` in ``folder``; to be used as a context."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self._asked = 0
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self._process = subprocess.Popen(
            [str(programs / "python"), "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**clean, "AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        )

    def __enter__(self) -> Forked:
        # What is imported then is the same whatever the first question writes into the home.
        assert self._answer() == "imported"
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its questions is its own.
        self._process.communicate()

    def ask(
        self, code: str, *arguments: str, path: Sequence[Path] = (), environment: dict[str, str] | None = None
    ) -> list[str]:
        """Return the lines that ``code`` prints in a process of its own; ``path`` is before all that is installed.

        What Airflow logs is among them.
        """
        self._asked += 1
        folder = self.folder / str(self._asked)
        folder.mkdir()
        question = {
            "code": code,
            "arguments": arguments,
            "path": [str(one) for one in path],
            "environment": environment or {},
            "folder": str(folder),
            "out": str(folder / "out"),
            "err": str(folder / "err"),
        }
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        assert self._answer() == "0", (folder / "err").read_text(errors="replace")[-3000:]
        return (folder / "out").read_text().splitlines()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
