"""The documents against the code: every link, command, target, file, setting, table and column in them exists."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import commands_document

from bigtcp_bench.commands import main
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.settings import VARIABLES
from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.queries import query_names

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
README = TEXTS["README.md"]
WAREHOUSE = TEXTS["docs/warehouse.md"]
COMMANDS = TEXTS["docs/commands.md"]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
#: A command of ours; not the namespace of the same name in `kubectl -n bigtcp-bench …`.
COMMAND = re.compile(r"(?<!-n )(?<![\w/=])bigtcp-bench +(?P<words>[a-z-][^#;|`]*)")
#: Tools that no test here can have: an engine, somebody's cluster, somebody's Airflow.
FOREIGN = re.compile(r"^\s*(docker|kubectl|helm|kind|airflow)\b|\$AIRFLOW_HOME", re.MULTILINE)
MARK = re.compile(r"^\s*# needs (Docker|a cluster|your Airflow)", re.MULTILINE)
SHELLS = {"sh", "bash", "shell", "console"}


def fences(text: str) -> list[tuple[str, str]]:
    """Return (language, body) of every fenced block."""
    return [(match["language"], match["body"]) for match in FENCE.finditer(text)]


def code_of(text: str) -> list[str]:
    """Return what stands in code: each line of a shell block, and each span."""
    lines = itertools.chain.from_iterable(
        body.replace("\\\n", " ").splitlines() for language, body in fences(text) if language in SHELLS
    )
    return [*lines, *(" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text)))]


def slugs(text: str) -> set[str]:
    """Return the anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for match in LINK.finditer(FENCE.sub("", TEXTS[name])):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), f"{name}: {target} does not exist"
        if anchor:
            assert anchor in slugs(found.read_text(encoding="utf-8")), f"{name}: {target} has no such heading"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@functools.cache
def _command_parser() -> argparse.ArgumentParser:
    return main.command_parser()


def problems_of_command(words: list[str]) -> Iterator[str]:
    """Yield what in ``bigtcp-bench <words>`` the command line does not know."""
    parser = _command_parser()
    rest = list(words)
    while subcommands := _subcommands(parser):
        if not rest or rest[0].startswith("-"):
            break
        if rest[0] not in subcommands:
            yield f"{rest[0]!r} is no command; there are {', '.join(subcommands)}"
            return
        parser = subcommands[rest.pop(0)]
    for option in (word.partition("=")[0] for word in rest if word.startswith("-")):
        if option not in parser._option_string_actions:
            yield f"{option} is no option of {parser.prog}"


@pytest.mark.parametrize("name", TEXTS)
def test_commands_exist(name):
    for code in code_of(TEXTS[name]):
        for match in COMMAND.finditer(code):
            assert list(problems_of_command(shlex.split(match["words"]))) == [], f"{name}: {code}"


def test_a_wrong_command_is_noticed():
    assert list(problems_of_command(["lab", "upp"]))
    assert list(problems_of_command(["restore", "--farce"]))
    assert not list(problems_of_command(["lab", "up", "--fault=slow-path"]))


def test_every_command_is_documented():
    written = (ROOT / "docs" / "generated" / "commands.md").read_text(encoding="utf-8")
    assert written == commands_document.document(), (
        "run: python -m benchmarks.commands_document > docs/generated/commands.md"
    )


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name, text in TEXTS.items():
        for code in code_of(text):
            named = re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", code)
            if named:
                assert named[1] in targets, f"{name}: make {named[1]} is not in the Makefile"
    for target in targets:
        assert f"`make {target}`" in COMMANDS, f"make {target} is not in docs/commands.md"


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_modules_exist(name):
    package = ROOT / "plugins" / "bigtcp_bench"
    # A room's table names its files without the room.
    folders = [ROOT, package, ROOT / "lab" / "bigtcp_lab", *(room for room in package.iterdir() if room.is_dir())]
    for code in code_of(TEXTS[name]):
        # What make and Python write is not there before they have run.
        if code.startswith((".venv", ".bigtcp", "dist/")):
            continue
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code) and re.search(r"/$|/.*\.(py|md|ya?ml|sql|sh|lock)$", code):
            assert any((folder / code).exists() for folder in folders), f"{name}: {code} does not exist"
        module = re.match(r"(?:\S*/)?python -m ([\w.]+)", code)
        if module:
            assert importlib.util.find_spec(module[1]), f"{name}: there is no module {module[1]}"


@pytest.mark.parametrize("name", TEXTS)
def test_what_no_test_can_run_is_marked(name):
    for language, body in fences(TEXTS[name]):
        if language in SHELLS and FOREIGN.search(body):
            assert MARK.search(body), f"{name}: a block needs a line '# needs …':\n{body}"


def test_every_setting_is_in_the_list():
    """The list is held against docs/generated/settings.md in tests/commands/test_settings_in_force.py."""
    sources = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "dags").glob("*.py"), ROOT / "docker-compose.yaml"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    listed = {variable.name for variable in VARIABLES}
    assert set(re.findall(r"BIGTCP_BENCH_[A-Z_]+", text)) == listed
    for setting in re.findall(r"`(BIGTCP_BENCH_[A-Z_]+)`", "\n".join(TEXTS.values())):
        assert setting in listed, f"{setting} is documented but nothing reads it"


def test_views_queries_and_metrics_are_documented():
    migrations = (ROOT / "plugins" / "bigtcp_bench" / "warehouse" / "migrations" / "versions").glob("*.py")
    views = {
        view for path in migrations for view in re.findall(r"CREATE VIEW (\w+)", path.read_text(encoding="utf-8"))
    }
    assert views
    for name in [*views, *schema.metadata.tables, *(f"{query}.sql" for query in query_names()), *METRICS]:
        assert f"`{name}`" in WAREHOUSE, f"{name} is missing in docs/warehouse.md"


def test_every_document_is_reachable_from_the_readme():
    linked = {match["target"].partition("#")[0] for match in LINK.finditer(README)}
    for name in TEXTS:
        if name.startswith("docs/generated/"):
            place = name.removeprefix("docs/")
            assert any(f"({place})" in text for text in TEXTS.values()), f"no document links to {name}"
        else:
            assert name == "README.md" or name in linked, f"{name} is not linked from the README"
