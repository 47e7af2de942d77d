"""Migrations run up and down on a database with data, and lead to exactly the model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from bigtcp_bench.errors import WarehouseError
from bigtcp_bench.warehouse import migrate
from bigtcp_bench.warehouse.queries import trend
from bigtcp_bench.warehouse.schema import metadata
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.processes import side_by_side

RUN = {"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "manual__1"}
COMPARISON = {"scenario": "ipv4-rr", "metric": "transactions_per_s", "off_median": 1, "verdict": "invalid"}


def test_model_and_migrations_agree(warehouse: Warehouse) -> None:
    assert warehouse.read(migrate.differences) == []


def test_every_step_down_and_up_again_keeps_the_rows_of_the_tables_that_stay(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)
    warehouse.store_comparisons(run, [COMPARISON])
    migrate.downgrade(warehouse.engine, "0001")
    with pytest.raises(WarehouseError, match="are of version 0001, this package works"):
        warehouse.check_version()
    warehouse.migrate()
    warehouse.check_version()
    assert warehouse.comparisons_frame(run)["off_median"].tolist() == [1]

    migrate.downgrade(warehouse.engine, "base")
    left = warehouse.read(lambda connection: sa.inspect(connection).get_table_names())
    assert set(left) <= {migrate.VERSION_TABLE}
    warehouse.migrate()
    warehouse.migrate()
    assert warehouse.start_run(RUN) == 1


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    warehouse = Warehouse(empty_url)
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE bigtcp_result (x INTEGER)")
    with pytest.raises(WarehouseError, match="bigtcp_result"):
        warehouse.migrate()
    left = warehouse.read(lambda connection: sa.inspect(connection).get_table_names())
    assert left == ["bigtcp_result"]


def test_other_tables_of_the_database_are_let_alone(empty_url: str) -> None:
    warehouse = Warehouse(empty_url)
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    warehouse.migrate()
    assert warehouse.read(migrate.differences) == []
    migrate.downgrade(warehouse.engine, "base")
    with warehouse.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "theirs"


def test_without_tables_the_advice_is_to_migrate(empty_url: str) -> None:
    warehouse = Warehouse(empty_url)
    with pytest.raises(WarehouseError, match="bigtcp-bench warehouse migrate"):
        warehouse.clusters()
    with pytest.raises(WarehouseError, match="version none"):
        warehouse.check_version()


#: Values that a column of the first version may not, or should not, have otherwise.
MEANINGFUL = {
    ("bigtcp_run", "status"): "valid",
    ("bigtcp_run", "is_aa"): False,
    ("bigtcp_incident", "state"): "regression",
    "cluster": "lab",
    "arm": "on",
    "metric": "throughput_bps",
    "scenario": "ipv6-stream-1",
    "verdict": "faster",
    "changed_on": "2026-03-01",
}
MOMENT = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


def _value(column: sa.Column[Any]) -> Any:
    name = column.name
    for key in ((column.table.name, name), name):
        if key in MEANINGFUL:
            return MEANINGFUL[key]
    if isinstance(column.type, sa.JSON):
        return {"of": name, "items": [1, None, "ü"]}
    kinds = {int: 1, float: 0.25, bool: True, bytes: b"\x00\xff", str: f"{name} of then", datetime: MOMENT}
    return kinds[column.type.python_type]


def _rows(warehouse: Warehouse, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return every row of these tables, as the database has them, whatever the model of today says."""
    tables = sa.MetaData()
    tables.reflect(warehouse.engine, only=list(names))
    with warehouse.engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(sa.select(tables.tables[name])).mappings()]
            for name in names
        }


def test_data_of_the_first_version_survives_every_migration(empty_url: str) -> None:
    warehouse = Warehouse(empty_url)
    warehouse.migrate("0001")
    first = sa.MetaData()
    first.reflect(warehouse.engine)
    tables = [table for table in first.sorted_tables if table.name != migrate.VERSION_TABLE]
    assert len(tables) == 12
    with warehouse.engine.begin() as connection:
        for table in tables:
            # The database gives the numbers of runs and incidents, here as then: they go on from there.
            columns = [column for column in table.columns if column.name != "id"]
            connection.execute(table.insert().values({column.name: _value(column) for column in columns}))
    before = _rows(warehouse, [table.name for table in tables])
    with pytest.raises(WarehouseError, match="run `bigtcp-bench warehouse migrate`"):
        warehouse.check_version()

    warehouse.migrate()
    warehouse.check_version()
    assert warehouse.read(migrate.differences) == []
    after = _rows(warehouse, list(before))
    # Thresholds were a copy in every verdict; what only a copy had is in the plan of its run now.
    for row in before["bigtcp_run"]:
        row["plan"] = row["plan"] | {"thresholds": before["bigtcp_comparison"][0]["thresholds"]}
    for row in before["bigtcp_comparison"]:
        del row["thresholds"]
    # What was refused is counted from now on.
    for row in before["bigtcp_outbox"]:
        del row["attempts"]
    assert after["bigtcp_outbox"][0]["refusals"] == 0
    for name, rows in before.items():
        assert [{column: row[column] for column in rows[0]} for row in after[name]] == rows, name
    # It is not only there: today's code reads it, and goes on from it.
    assert warehouse.run(1)["cluster"] == "lab"
    assert set(trend(warehouse, "nightly_trend", since="2026-01-01", until="2026-12-31")["run"]) == {1}
    assert warehouse.start_run(RUN) == 2


def test_tables_of_a_newer_package_are_refused_and_left_alone(warehouse: Warehouse) -> None:
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'")
    for refused in (warehouse.check_version, warehouse.migrate):
        with pytest.raises(
            WarehouseError, match=r"version 9999, which bigtcp-bench .* a newer one made them"
        ) as failure:
            refused()
        assert "warehouse migrate" not in str(failure.value), "migrating does not help"
    assert warehouse.read(migrate.current) == "9999"


def _migrate(url: str) -> None:
    Warehouse(url).migrate()


def test_two_migrations_at_once_wait_for_each_other(empty_url: str) -> None:
    context = side_by_side()
    processes = [context.Process(target=_migrate, args=(empty_url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    Warehouse(empty_url).check_version()


def test_names_of_the_model_fit_into_postgresql() -> None:
    names = [item.name for table in metadata.tables.values() for item in (*table.constraints, *table.indexes)]
    assert max(len(str(name)) for name in names) <= 63
