"""The borders between the library's rooms: no two import each other, and some know nothing of the outside."""

from __future__ import annotations

import ast
import functools
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "plugins" / "bigtcp_bench"
#: What a room must not import, besides the rooms that import it.
FORBIDDEN = {
    "planning": ("airflow", "kubernetes"),
    "readings": ("airflow", "kubernetes"),
    "analysis": ("airflow", "kubernetes", "sqlalchemy", "bigtcp_bench.warehouse", "bigtcp_bench.cluster"),
    "warehouse": ("airflow", "kubernetes"),
    "cluster": ("airflow", "sqlalchemy"),
    "report": ("airflow", "kubernetes", "slack_sdk"),
}


@functools.cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Return line and full name of everything that a module imports, wherever in it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rooms() -> list[str]:
    return sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")


def arrows(package: Path = PACKAGE) -> dict[tuple[str, str], list[str]]:
    """Return where each room imports another: file, line and name."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for room in sorted(path.name for path in package.iterdir() if path.is_dir()):
        for path in sorted((package / room).rglob("*.py")):
            for line, name in imports(path):
                parts = name.split(".")
                if (
                    parts[0] == "bigtcp_bench"
                    and len(parts) > 1
                    and parts[1] != room
                    and (package / parts[1]).is_dir()
                ):
                    found[room, parts[1]].append(f"{path.relative_to(package)}:{line} imports {name}")
    return found


def test_no_two_rooms_import_each_other() -> None:
    found = arrows()
    crossed = [
        f"{one} <-> {other}: {found[one, other]} and {found[other, one]}"
        for one, other in found
        if one < other and (other, one) in found
    ]
    assert not crossed, "\n".join(crossed)


def test_a_crossed_border_is_named(tmp_path: Path) -> None:
    for room, other in (("one", "other"), ("other", "one")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "door.py").write_text(f"def late():\n    from bigtcp_bench.{other}.door import late\n")
    assert arrows(tmp_path)["one", "other"] == ["one/door.py:2 imports bigtcp_bench.other.door.late"]
    assert ("other", "one") in arrows(tmp_path)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_that_know_nothing_of_the_outside(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for line, name in imports(path):
            bad = [one for one in FORBIDDEN[room] if name == one or name.startswith(f"{one}.")]
            assert not bad, f"{path.relative_to(PACKAGE)}:{line} imports {name}, which {room} must not know"


def test_what_runs_in_pods_needs_the_standard_library_only() -> None:
    for path in (PACKAGE / "in_cluster").rglob("*.py"):
        for line, name in imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("bigtcp_bench.in_cluster"), (
                f"{path}:{line}: {name}"
            )


def test_nobody_in_the_library_needs_the_lab() -> None:
    """The demo and the command ask for it by name, where it is installed."""
    for path in PACKAGE.rglob("*.py"):
        for line, name in imports(path):
            if name.startswith("bigtcp_lab"):
                assert path == PACKAGE / "commands" / "main.py", f"{path}:{line} imports {name}"


def test_few_modules_stand_loose() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6
