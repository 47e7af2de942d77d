"""What the package costs an Airflow: parse time, memory, size, and the overhead of the demo; prints Markdown.

    python -m benchmarks.footprint --parts parse memory size demo --write

Run it from the project's folder, on a quiet machine: the load is printed with the figures. With ``--write`` they
take the place of those in docs/generated/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.installed import build_wheel, virtual_environment

from bigtcp_bench.demo.local_airflow import LocalAirflow
from bigtcp_bench.resources import dags_dir

PARTS = ("parse", "memory", "size", "demo")
DOCUMENT = Path("docs/generated/performance.md")
ROUNDS = 10
WANTED_RATIO = 1.3
WANTED_OVERHEAD = 0.4

#: The operators of each DAG file, named in an otherwise empty DAG beside it.
OPERATORS = {
    "bigtcp_benchmark": (
        "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator",
        "from airflow.sdk import BaseOperator",
    ),
    "bigtcp_upgrade_watch": (
        "from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator",
        "from airflow.sdk import BaseOperator",
    ),
    "bigtcp_restore": ("from airflow.providers.standard.operators.python import PythonOperator",),
}

#: Seconds that Airflow is left alone after its first parse, samples of its memory, and seconds between them.
SETTLE_S = 20
SAMPLES = 10
SAMPLE_S = 1.0
START_TIMEOUT_S = 300

PLAIN = ("apache-airflow", "apache-airflow-providers-cncf-kubernetes")


def main() -> int:
    """Measure and print; the status is 1 when something is above what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--write", action="store_true", help=f"put them into {DOCUMENT}")
    options = parser.parse_args()
    measures = {"parse": parse_times, "memory": memory, "size": sizes, "demo": demo}
    above = []
    with tempfile.TemporaryDirectory(prefix="bigtcp-footprint-") as folder:
        for part in options.parts:
            _say(part)
            (Path(folder) / part).mkdir()
            machine, section = _machine(), io.StringIO()
            with contextlib.redirect_stdout(section):
                above += measures[part](Path(folder) / part)
            text = f"{section.getvalue().strip()}\n\n{machine}\n"
            print(text, flush=True)
            if options.write:
                _write(part, text)
    print("Above what is wanted: " + ("; ".join(above) if above else "nothing."))
    return 1 if above else 0


def _machine() -> str:
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before, Linux {platform.release()}"
        f", Python {platform.python_version()}, Airflow {importlib.metadata.version('apache-airflow')}; "
        f"`python -m benchmarks.footprint`, {time.strftime('%Y-%m-%d', time.gmtime())}."
    )


def _write(part: str, text: str) -> None:
    """Put ``text`` between the marks of ``part`` in the document."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(f"<!-- {part} -->\n")
    _, end, after = rest.partition(f"<!-- /{part} -->")
    if not (begin and end):
        raise SystemExit(f"{DOCUMENT} has no marks for {part}")
    DOCUMENT.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


# Parsing


def parse_times(folder: Path) -> list[str]:
    """Print the time that each DAG file takes in a process forked as Airflow's DAG processor forks it.

    Beside each an empty DAG that imports the same operators, in turn with it. The first time its operators must be
    imported; later Airflow has them: it imports what a file names of Airflow before it forks.
    """
    files = {}
    for name, imports in OPERATORS.items():
        empty = folder / f"empty_{name}.py"
        empty.write_text(_empty_dag(empty.stem, imports), encoding="utf-8")
        files[name] = (dags_dir() / f"{name}.py", empty)
    first = _in_turn([file for pair in files.values() for file in pair], named_imported=False)
    later = {}
    for pair in files.values():
        later |= _in_turn(pair, named_imported=True)
    print(
        f"Milliseconds, median of {ROUNDS}, in a process forked as the DAG processor does it: by the clock / of "
        "CPU time. Ratios are of CPU time, which other work on the machine disturbs less.\n"
    )
    print("| file | first time | empty DAG, same operators | ratio | later | empty DAG, same operators | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = {
        f"`{name}.py`": [Parses.of(times[file]) for times in (first, later) for file in pair]
        for name, pair in files.items()
    }
    together = [Parses.sum(column) for column in zip(*rows.values(), strict=True)]
    for name, found in {**rows, "all three": together}.items():
        cells = []
        for ours, empty in (found[:2], found[2:]):
            cells += [str(ours), str(empty), f"{ours.cpu_s / empty.cpu_s:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    ratio = together[0].cpu_s / together[1].cpu_s
    return [f"parsing takes {ratio:.2f} times empty DAGs, wanted {WANTED_RATIO}"] if ratio > WANTED_RATIO else []


@dataclass(frozen=True)
class Parses:
    """Seconds of a parse, by the clock and of CPU time."""

    clock_s: float
    cpu_s: float

    @classmethod
    def of(cls, times: Sequence[tuple[float, float]]) -> Parses:
        """Return the medians of several parses."""
        return cls(*(statistics.median(column) for column in zip(*times, strict=True)))

    @classmethod
    def sum(cls, parses: Sequence[Parses]) -> Parses:
        """Return them one after the other."""
        return cls(sum(one.clock_s for one in parses), sum(one.cpu_s for one in parses))

    def __str__(self) -> str:
        return f"{1000 * self.clock_s:.0f} / {1000 * self.cpu_s:.0f}"


def _empty_dag(name: str, imports: Iterable[str]) -> str:
    return "\n".join([*imports, "from airflow.sdk import DAG", f'with DAG("{name}"):', "    pass", ""])


def _in_turn(files: Sequence[Path], *, named_imported: bool) -> dict[Path, list[tuple[float, float]]]:
    """Return the seconds, by the clock and of CPU time, of ROUNDS parses of each file.

    In each round one file comes after the other. Without ``named_imported`` one parent that has imported nothing
    for them forks for all; with it each file has a parent of its own.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:

        def parent(named: Path | None) -> Any:
            here, there = context.Pipe()
            process = context.Process(target=_parser_parent, args=(named, there), daemon=True)
            process.start()
            stack.callback(process.join, 30)
            stack.callback(here.send, None)
            return here

        common = None if named_imported else parent(None)
        parents = {file: common or parent(file) for file in files}
        times: dict[Path, list[tuple[float, float]]] = {file: [] for file in files}
        for number in range(ROUNDS + 1):
            for file in files:
                parents[file].send(file)
                clock_s, cpu_s, problems = parents[file].recv()
                if problems:
                    raise SystemExit(f"{file} cannot be parsed: {problems}")
                if number:  # the first round warms the disk's cache
                    times[file].append((clock_s, cpu_s))
    return times


def _parser_parent(named: Path | None, pipe: Any) -> None:
    """Be the DAG processor: import what it has imported, and what ``named`` names of Airflow; fork for a file."""
    import importlib

    import airflow.dag_processing.manager  # noqa: F401
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.file import iter_airflow_imports

    gc.freeze()  # as its manager does when it starts
    for module in iter_airflow_imports(str(named)) if named else ():
        importlib.import_module(module)
    while file := pipe.recv():
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(nowhere, descriptor)
            began, began_cpu = time.perf_counter(), time.process_time()
            bag = DagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="measured")
            seconds = time.perf_counter() - began, time.process_time() - began_cpu
            problems = [*bag.import_errors.values(), *([] if bag.dags else ["there is no DAG in it"])]
            os.write(writer, json.dumps([*seconds, problems]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            pipe.send(json.load(answer))
        os.waitpid(child, 0)


# Memory


@dataclass(frozen=True)
class Installation:
    """One Airflow to be measured: programs, DAG folder, and how many DAGs it is to find there."""

    label: str
    programs: Path
    dags: Path
    expected: int


def memory(folder: Path) -> list[str]:
    """Print RSS and PSS of scheduler and DAG processor, with their children, in three installations."""
    (folder / "dist").mkdir()
    without = virtual_environment(folder / "without")
    with_it = virtual_environment(folder / "with", build_wheel(folder / "dist"))
    (folder / "none").mkdir()
    (folder / "one").mkdir()
    empty = _empty_dag("empty", OPERATORS["bigtcp_benchmark"])
    (folder / "one" / "empty.py").write_text(empty, encoding="utf-8")
    package = next((folder / "with").glob("lib/python*/site-packages/bigtcp_bench/_dags"))
    installations = (
        Installation("Airflow, no DAG", without, folder / "none", 0),
        Installation("the same, one empty DAG with the operators", without, folder / "one", 1),
        Installation("with this package", with_it, package, len(OPERATORS)),
    )
    print(
        f"Megabytes, RSS / PSS, of a process and its children, median of {SAMPLES} samples, {SETTLE_S} s after "
        "all DAGs were known. PSS divides what processes share among them.\n"
    )
    print("| | scheduler | DAG processor |\n|---|---:|---:|")
    for number, installation in enumerate(installations):
        found = _memory_of(installation, folder / f"home-{number}")
        print(f"| {installation.label} | {' | '.join(found[name] for name in _COMPONENTS)} |", flush=True)
    print()
    return []


_COMPONENTS = ("scheduler", "dag-processor")


def _memory_of(installation: Installation, folder: Path) -> dict[str, str]:
    airflow = LocalAirflow(folder, folder / "no-kubeconfig", folder / "warehouse.db")
    environment = {name: value for name, value in airflow.environment().items() if not name.startswith("PYTHON")}
    environment |= {
        "AIRFLOW__CORE__DAGS_FOLDER": str(installation.dags),
        "PATH": f"{installation.programs}{os.pathsep}{environment['PATH']}",
    }
    command = [str(installation.programs / "python"), "-m", "airflow"]
    airflow.home.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log, contextlib.ExitStack() as stack:
        migrated = subprocess.run(
            [*command, "db", "migrate"], env=environment, stdout=log, stderr=log, check=False
        )
        if migrated.returncode:
            raise SystemExit(f"airflow db migrate failed: {(folder / 'log').read_text()[-2000:]}")
        sessions = {}
        for name in _COMPONENTS:
            process = subprocess.Popen(
                [*command, name], env=environment, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_end, process)
            sessions[name] = process
        _await_dags(airflow.home / "airflow.db", installation.expected, sessions, folder / "log")
        time.sleep(SETTLE_S)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in _COMPONENTS}
        for _ in range(SAMPLES):
            for name, process in sessions.items():
                samples[name].append(_megabytes(process.pid))
            time.sleep(SAMPLE_S)
    return {
        name: " / ".join(f"{statistics.median(values):.0f}" for values in zip(*pairs, strict=True))
        for name, pairs in samples.items()
    }


def _await_dags(database: Path, expected: int, sessions: dict[str, subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            dags = connection.execute("SELECT count(*) FROM dag").fetchone()[0]
            alive = connection.execute(
                "SELECT count(DISTINCT job_type) FROM job WHERE state = 'running'"
            ).fetchone()[0]
        if dags >= expected and alive == len(sessions):
            return
        for name, process in sessions.items():
            if process.poll() is not None:
                raise SystemExit(f"airflow {name} ended: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(1)
    raise SystemExit(
        f"Airflow knows {dags} DAGs after {START_TIMEOUT_S} s: {log.read_text(errors='replace')[-2000:]}"
    )


def _megabytes(leader: int) -> tuple[float, float]:
    """Return RSS and PSS of all processes of the session of ``leader``, 10^6 bytes."""
    rss = pss = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            if os.getsid(int(entry.name)) == leader:
                rollup = (entry / "smaps_rollup").read_text(encoding="ascii")
                rss += int(re.search(r"^Rss: +(\d+)", rollup, re.MULTILINE)[1])  # type: ignore[index]
                pss += int(re.search(r"^Pss: +(\d+)", rollup, re.MULTILINE)[1])  # type: ignore[index]
    return rss * 1024 / 1e6, pss * 1024 / 1e6


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


# Size


def sizes(folder: Path) -> list[str]:
    """Print the size of the wheel, and how many distributions it needs beyond plain Airflow with the provider."""
    wheel = build_wheel(folder)
    plain, ours = _closure(PLAIN), _closure(("bigtcp-bench",))
    with_lab = _closure(("bigtcp-lab",))
    added = sorted(ours - plain - {"bigtcp-bench"})
    print("| | |\n|---|---:|")
    print(f"| wheel | {wheel.stat().st_size / 1e3:,.0f} kB |")
    print(f"| packages of Airflow with the Kubernetes provider | {len(plain)} |")
    print(f"| packages that this one adds, without the lab | {len(added)} |")
    print(f"| … and that the lab adds | {len(with_lab - ours - plain)} |")
    print(f"\nAdded: {', '.join(added)}.\n")
    return []


def _closure(roots: Iterable[str]) -> set[str]:
    """Return the names of all distributions that ``roots`` need here, themselves included."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None  # it has been judged
                    waiting.append(needed)
    return found


# The demo


def demo(folder: Path) -> list[str]:
    """Print the wall time of the demo against the traffic that it measures."""
    program = shutil.which("bigtcp-bench", path=str(Path(sys.executable).parent))
    assert program is not None, "make install puts it beside the interpreter"
    done = subprocess.run(
        [program, "demo", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        check=False,
    )
    times = re.search(r"Wall time (\d+) s, of which (\d+) s measured traffic", done.stdout)
    if times is None:
        raise SystemExit(f"the demo has no result: {done.stdout[-2000:]}")
    wall, traffic = map(int, times.groups())
    overhead = 1 - traffic / wall
    print(f"`make demo`: {wall} s, of which {traffic} s measured traffic; overhead {overhead:.0%}.\n")
    if overhead <= WANTED_OVERHEAD:
        return []
    return [f"overhead of the demo {overhead:.0%}, wanted {WANTED_OVERHEAD:.0%}"]


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return names[0] if names else platform.machine()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
