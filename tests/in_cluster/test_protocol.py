"""What the guardian mounts runs anywhere, and reads selectors as the API does."""

from __future__ import annotations

import ast
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.cluster import guardian_objects
from bigtcp_bench.in_cluster.protocol import selects
from bigtcp_lab.api.selectors import matches_label_selector


@pytest.mark.parametrize("file", guardian_objects.FILES, ids=lambda file: file.name)
def test_it_needs_nothing_but_the_standard_library_of_an_old_python(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {
        alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    mounted = {f"bigtcp_bench.in_cluster.{one.stem}" for one in guardian_objects.FILES}
    for name in imported:
        ours = name in mounted or name.rpartition(".")[0] in mounted
        assert ours or name.partition(".")[0] in sys.stdlib_module_names, name


def test_it_starts_where_only_its_files_are_mounted(tmp_path: Path) -> None:
    folder = tmp_path / "bigtcp_bench" / "in_cluster"
    folder.mkdir(parents=True)
    for file in guardian_objects.FILES:
        (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "orders.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-S", "-m", "bigtcp_bench.in_cluster.guardian", str(tmp_path / "orders.json")]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path)}, cwd="/", capture_output=True, text=True, check=False
    )
    assert "KeyError: 'means'" in done.stderr


_LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
_EXPRESSIONS = st.lists(
    st.builds(
        lambda key, operator, values: {
            "key": key,
            "operator": operator,
            **({"values": values} if operator in ("In", "NotIn") else {}),
        },
        st.sampled_from("abc"),
        st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
        st.lists(st.sampled_from("xyz"), min_size=1),
    ),
    max_size=2,
)


@given(
    st.none() | st.fixed_dictionaries({}, optional={"matchLabels": _LABELS, "matchExpressions": _EXPRESSIONS}),
    _LABELS,
)
def test_selectors_mean_what_they_mean_in_the_api(selector: Any, labels: dict[str, str]) -> None:
    assert selects(copy.deepcopy(selector), labels) == matches_label_selector(selector, labels)
