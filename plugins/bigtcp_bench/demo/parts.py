"""The parts of an Airflow on this machine, forked from one process: importing Airflow is most of a start.

Run as ``python -m bigtcp_bench.demo.parts`` in the environment of a LocalAirflow. `airflow standalone` starts the
same parts, and imports Airflow five times.
"""

from __future__ import annotations

import gc
import os
import sys

PARTS = ("scheduler", "dag-processor", "api-server", "triggerer")
"""Commands of `airflow`."""


def main() -> None:
    """Prepare Airflow's database, start every part, and end when all of them have."""
    # What is imported stays; looking for garbage among it would take time, and forks could share less of it.
    gc.disable()
    from airflow.__main__ import main as airflow
    from airflow.configuration import write_default_airflow_configuration_if_needed
    from airflow.utils.db import initdb

    from airflow import settings

    # Keys are in it, and each part would make its own.
    write_default_airflow_configuration_if_needed()
    initdb()
    # No part may use the connections of another.
    settings.dispose_orm()
    gc.freeze()
    gc.enable()
    for part in PARTS:
        if os.fork() == 0:
            sys.argv = ["airflow", part]
            settings.configure_orm()
            sys.exit(airflow())
    for _ in PARTS:
        os.wait()


if __name__ == "__main__":
    main()
