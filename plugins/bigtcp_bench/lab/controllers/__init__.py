"""What turns the objects in the store into deeds: scheduler, DaemonSets, Jobs, CronJobs, garbage collection."""

from __future__ import annotations

import asyncio

from bigtcp_bench.lab.api.store import Store

from . import cronjobs, daemonsets, garbage, jobs, namespaces, nodes, scheduler
from .loop import run_loop


async def run_controllers(store: Store, ca_pem: str) -> None:
    """Run every controller on ``store`` until cancelled; pods are handed ``ca_pem`` as the cluster's authority."""
    async with asyncio.TaskGroup() as group:
        for module in (scheduler, nodes, daemonsets, jobs, cronjobs, garbage):
            name = module.__name__.rpartition(".")[2]
            group.create_task(run_loop(store, name, module.WATCHED, module.reconcile))
        accounts = namespaces.ServiceAccounts(ca_pem)
        group.create_task(run_loop(store, "serviceaccounts", namespaces.WATCHED, accounts.reconcile))
        group.create_task(run_loop(store, "namespaces", garbage.WATCHED, namespaces.reconcile))
