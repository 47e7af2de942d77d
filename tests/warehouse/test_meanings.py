"""Tables, document and comments say the same of every column."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.meanings import document, plain, read_meanings
from bigtcp_bench.warehouse.store import Warehouse

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("table", schema.metadata.tables)
def test_every_column_is_explained_and_no_other(table: str) -> None:
    explained = [name for names in read_meanings()[table].columns for name in names]
    assert sorted(explained) == sorted(column.name for column in schema.metadata.tables[table].columns)


def test_the_document_is_the_one_that_is_made_of_them() -> None:
    assert (ROOT / "docs" / "generated" / "tables.md").read_text(encoding="utf-8") == document()


def test_comments_are_those_texts(warehouse: Warehouse) -> None:
    """A migrated warehouse has them, views included; SQLite has no comments and is left as it is."""
    with warehouse.engine.connect() as connection:
        inspector = sa.inspect(connection)
        for table, meaning in read_meanings().items():
            columns = inspector.get_columns(table)
            assert columns, f"{table} does not exist"
            for column in columns:
                text = plain(meaning.of_column(column["name"]))
                if connection.dialect.name == "postgresql":
                    assert (column["comment"] or "") == text


def test_links_and_code_marks_are_left_out() -> None:
    assert plain("`off`, see [below](#metrics)") == "off, see below"
