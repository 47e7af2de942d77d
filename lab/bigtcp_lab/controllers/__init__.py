"""What turns the objects in the store into deeds: scheduler, DaemonSets, Jobs, CronJobs, garbage collection."""

from __future__ import annotations

import asyncio

from bigtcp_lab.api.store import Store

from . import cronjobs, daemonsets, garbage, jobs, namespaces, nodes, scheduler, services
from .loop import run_loop

_SETTLE_S = 0.1


async def run_controllers(store: Store, ca_pem: str) -> None:
    """Run every controller on ``store`` until cancelled; pods are handed ``ca_pem`` as the cluster's authority."""
    async with asyncio.TaskGroup() as group:
        for module in (scheduler, nodes, daemonsets, jobs, cronjobs, services):
            name = module.__name__.rpartition(".")[2]
            group.create_task(run_loop(store, name, module.WATCHED, module.reconcile))
        accounts = namespaces.ServiceAccounts(ca_pem)
        group.create_task(run_loop(store, "serviceaccounts", namespaces.WATCHED, accounts.reconcile))
        # these look at every object there is: not at every change of one, nobody waits for them
        for name, reconcile in (("garbage", garbage.reconcile), ("namespaces", namespaces.reconcile)):
            group.create_task(run_loop(store, name, garbage.WATCHED, reconcile, settle_s=_SETTLE_S))
