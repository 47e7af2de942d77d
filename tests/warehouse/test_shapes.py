"""What is read of the JSON columns: the parts that fit, whatever else stands in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.warehouse.schema import Json, metadata
from bigtcp_bench.warehouse.shapes import SHAPES, fitting
from tests.any_run import DOCUMENTS, JSON, changed


@pytest.mark.parametrize(
    ("column", "stored", "read"),
    [
        ("run.reasons", ["a", 1, None, "b"], ["a", "b"]),
        ("run.reasons", "a", []),
        ("run.reasons", None, []),
        ("run.plan", ["a"], None),
        ("run.plan", {"order": "off,on", "scenarios": ["a", {}], "x": [1]}, {"scenarios": ["a"], "x": [1]}),
        ("run.plan", {"duration_s": True, "omit_s": None, "request_bytes": {}}, {"omit_s": None}),
        ("run.environment", {"emulated": "yes", "pair": {"client": {"cpu": "two"}}}, {"pair": {"client": {}}}),
        ("run.environment", {"busy_cpus": {"a": 1, "b": float("nan"), "c": False}}, {"busy_cpus": {"a": 1}}),
        ("run.restore_result", {"state": "of another version", "detail": "x"}, None),
        ("run.restore_result", {"detail": "x"}, None),
        ("run.restore_result", {"state": "verified", "nodes": ["node1"]}, {"state": "verified"}),
        ("block.switch_report", {"nodes": {"a": 1, "b": {"merged": {"x": 1}}}}, {"nodes": {"b": {"merged": {}}}}),
        ("judgement.details", {"nights": 2.5, "rerun": {"pairs": [[1, 2], [1]]}}, {"rerun": {"pairs": [[1, 2]]}}),
        ("judgement.details", {"plan_changed": {"on": "a b"}, "event": "x"}, {"plan_changed": {}, "event": "x"}),
        ("judgement.details", {"plan_changed": {"on": "2026-03-01"}}, {"plan_changed": {"on": "2026-03-01"}}),
        ("judgement.details", {"coincides_with": {"a": [1, ""], "c": 1}}, {"coincides_with": {"a": [1, ""]}}),
    ],
)  # fmt: skip
def test_a_part_of_another_shape_is_as_if_nobody_had_stored_it(column: str, stored: Any, read: Any) -> None:
    assert fitting(column, stored) == read


def test_every_json_column_has_a_shape_and_this_version_stores_what_fits() -> None:
    columns = {
        f"{table.name.removeprefix('bigtcp_')}.{column.name}": column.type
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Json)
    }
    assert {name: kind.column for name, kind in columns.items()} == {name: name for name in SHAPES}
    for (table, column), document in DOCUMENTS.items():
        assert fitting(f"{table}.{column}", document) == document


@given(st.data())
def test_what_was_read_once_is_read_the_same_again(data: st.DataObject) -> None:
    (table, column), document = data.draw(st.sampled_from(sorted(DOCUMENTS.items(), key=lambda one: one[0])))
    stored = data.draw(st.one_of(changed(document), JSON))
    read = fitting(f"{table}.{column}", stored)
    assert fitting(f"{table}.{column}", read) == read
