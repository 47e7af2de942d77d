"""The steps of a run, one for each task of the DAG, a module for each phase: what is done in which order.

How it is done is in the other rooms. DAG files are parsed every few seconds: they know steps by their names.
"""

from __future__ import annotations

#: Step → the module with the function of that name, which is given the DagRunStep, and the slot where it has one.
PHASES = {
    "check_kernel": "opening",
    "snapshot_config": "opening",
    "switch": "blocks",
    "rerun_switch": "blocks",
    "collect_counters": "blocks",
    "compare": "verdict",
    "compare_rerun": "verdict",
    "notify": "telling",
    "restore_config": "closing",
    "close_run": "closing",
}
