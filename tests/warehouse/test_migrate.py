"""Migrations run up and down on a database with data, and lead to exactly the model."""

from __future__ import annotations

import multiprocessing

import pytest
import sqlalchemy as sa

from bigtcp_bench.errors import WarehouseError
from bigtcp_bench.warehouse import migrate
from bigtcp_bench.warehouse.schema import metadata
from bigtcp_bench.warehouse.store import Warehouse

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


def _migrate(url: str) -> None:
    Warehouse(url).migrate()


def test_two_migrations_at_once_wait_for_each_other(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
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
