"""An open window, in which a run may change the cluster.

Three things make it: the Lease (``lease.py``), the saved state (``saved_state.py``), and the node label
``bigtcp-bench/window``, which carries the window id and is what the run's CiliumNodeConfig selects. A
CiliumNodeConfig that is written too late selects nothing.

While it is open a guardian in the cluster watches the Lease (``guardian_objects.py``), and restores when nobody
else does.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.cluster import guardian_objects, lease, pods, restore, saved_state
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.cilium import Progress
from bigtcp_bench.cluster.lease import Fence, busy_sentence, read_lease
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.in_cluster.protocol import LEASE_S, NAMESPACE, STATE_NAME, SavedState
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.settings import GUARDIAN_IMAGE


@dataclass(frozen=True)
class Window:
    """An open window: this run may change the cluster now. ``restored`` tells what had to be put back first."""

    fence: Fence
    state: SavedState
    restored: restore.RestoreReport | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a task's result or the warehouse."""
        return {
            "state": self.state.to_dict(),
            "restored": self.restored.to_dict() if self.restored else None,
        }


def open_window(
    api: ClusterApi,
    holder: str,
    plan: Plan,
    pair: NodePair,
    *,
    progress: Progress = lambda text: None,
) -> Window:
    """Take the Lease for ``holder`` and save the state of the cluster; change nothing else.

    What an earlier run has left behind, also an earlier attempt of this one, is put back first. Raises
    PreconditionFailed if another run holds the cluster, if its state cannot be read, or if it is not the one that
    a restarted agent would have.
    """
    pods.ensure_namespace(api)
    held = read_lease(api)
    if held is not None and held.live(api.now()) and held.owner != holder and not held.being_restored:
        raise PreconditionFailed(busy_sentence(api, held))
    restored = None
    if restore.leftovers(api):
        # Our own earlier attempt may still be alive; restoring takes its right away. Only its: by now the cluster
        # may be another run's.
        own = held is not None and held.holder == holder
        restored = restore.restore(
            api,
            f"left behind when {holder} started",
            holder=holder if own else None,
            force=own,
            progress=progress,
        )
        held = read_lease(api)
    if held is not None and held.live(api.now()) and held.owner != holder:
        raise PreconditionFailed(busy_sentence(api, held))
    still = restore.changes(api) if restored is not None else []
    if still:
        # Saved now, it would be put back for ever after.
        raise PreconditionFailed(
            f"an earlier run has left this behind, and the restore has not removed it: {', '.join(still)}; "
            "bigtcp-bench restore tells more"
        )
    fence = lease.acquire(api, held, holder, LEASE_S, pair.names)
    if fence is None:
        raise PreconditionFailed("another run took the cluster at the same moment; this one may try again later")
    try:
        # First: should this process die while it looks at the nodes, somebody deletes the pods it looks with.
        if plan.guardian:
            _install_guardian(api, fence, plan, pair, progress)
        state = saved_state.describe(api, fence, plan, pair)
        saved_state.save(api, fence, state)
    except BaseException:
        with contextlib.suppress(BenchError):
            guardian_objects.remove(api, jobs="Background", before=fence.check)
        fence.release()
        raise
    progress(f"cluster held by {holder}; its state is saved in {NAMESPACE}/{STATE_NAME}")
    return Window(fence, state, restored)


def _install_guardian(api: ClusterApi, fence: Fence, plan: Plan, pair: NodePair, progress: Progress) -> None:
    reason = guardian_objects.install(
        api, GUARDIAN_IMAGE.value(), pair, pull_secrets=plan.image_pull_secrets, before=fence.check
    )
    if reason:
        progress(f"no guardian in the cluster, so it stays as it is if Airflow never comes back: {reason}")
        return
    progress(
        f"a guardian in the cluster puts it back if this run is not heard of for {LEASE_S:.0f} s; it looks every "
        f"{guardian_objects.EVERY_MIN} minutes"
    )
