"""The trigger that waits, in Airflow's triggerer, until a cluster's Cilium has come to rest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from bigtcp_bench.airflow import connections
from bigtcp_bench.cluster.api import ApiProblem
from bigtcp_bench.cluster.rollout import Observation, observe
from bigtcp_bench.errors import BenchError

if TYPE_CHECKING:
    from bigtcp_bench.cluster.api import ClusterApi

#: Seconds between two looks at the cluster.
POLL_S = 20.0
#: Longest pause after looks that got no answer; it doubles from POLL_S on.
BACK_OFF_S = 300.0


class CiliumRolloutTrigger(BaseTrigger):
    """Fires when Cilium has been at rest, with one image and configuration, for ``settle_s`` seconds.

    The event is {"settled": True, "image": …, "config": …}, or, at ``deadline`` (seconds since the epoch),
    {"settled": False, "state": what is still going on}, or {"error": sentence} where waiting cannot help; always
    with ``noticed``.

    :param conn_id: the Kubernetes connection.
    :param noticed: number of the run that the cluster's Cilium was seen to differ from.
    :param nodes: the nodes that are measured, whose configuration counts.
    :param poll_s: seconds between two looks. After an answer that never came the pause doubles, up to BACK_OFF_S.
    """

    def __init__(
        self,
        conn_id: str,
        noticed: int,
        settle_s: float,
        deadline: float,
        poll_s: float = POLL_S,
        nodes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.noticed = noticed
        self.settle_s = settle_s
        self.deadline = deadline
        self.poll_s = poll_s
        self.nodes = list(nodes)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again, in whichever process."""
        names = ("conn_id", "noticed", "settle_s", "deadline", "poll_s", "nodes")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the cluster until it has settled; one event, then nothing."""
        # In threads: the clients of Airflow's hook and of the cluster block.
        try:
            with contextlib.closing(
                await asyncio.to_thread(connections.cluster_api, self.conn_id, away_s=0)
            ) as api:
                event = await self._settled(api)
        except BenchError as error:
            event = {"error": str(error)}
        yield TriggerEvent({**event, "noticed": self.noticed})

    async def _settled(self, api: ClusterApi) -> dict[str, Any]:
        seen: Observation | None = None
        since = 0.0
        pause = self.poll_s
        while True:
            asked = time.monotonic()
            try:
                now = await asyncio.to_thread(observe, api, self.nodes)
            except BenchError as error:
                if isinstance(error, ApiProblem) and error.status in (401, 403):
                    raise
                # The API is away, or Cilium is being installed anew. Nobody knows what happens meanwhile.
                seen, state = None, str(error)
                pause = min(2 * pause, BACK_OFF_S)
            else:
                pause, state = self.poll_s, now.unsettled
                if now != seen or state:
                    seen, since = now, asked
                elif asked - since >= self.settle_s:
                    return {
                        "settled": True,
                        "image": now.fingerprint.image,
                        "config": dict(now.fingerprint.config),
                    }
            if state:
                self.log.info("%s: %s", self.conn_id, state)
            if time.time() >= self.deadline:
                return {"settled": False, "state": state or "it changed only a moment ago"}
            await asyncio.sleep(pause)
