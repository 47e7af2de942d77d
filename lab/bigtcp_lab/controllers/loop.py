"""The loop that every controller runs in: something it watches has changed, so look at everything again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from bigtcp_lab.api.discovery import Resource
from bigtcp_lab.api.store import ApiError, Store, Watch

#: Brings the world closer to what the store says; returns after how many seconds to look again, if at all.
Reconcile = Callable[[Store], Awaitable[float | None]]

_log = logging.getLogger(__name__)
#: Seconds before a failed look is repeated: a conflict with a client is over at once, anything else may not be.
_RETRY_S = 0.5


async def run_loop(
    store: Store, name: str, resources: Sequence[Resource], reconcile: Reconcile, *, settle_s: float = 0.0
) -> None:
    """Call ``reconcile`` now, after every change of one of ``resources``, and when it asked to be called again.

    Changes within ``settle_s`` seconds after the first one are looked at together.
    """
    wake = asyncio.Event()
    wake.set()
    async with asyncio.TaskGroup() as group:
        for resource in resources:
            group.create_task(_wake_on_change(store.watch(resource, store.version), wake))
        again_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again_s):
                    await wake.wait()
            await asyncio.sleep(settle_s)
            wake.clear()
            try:
                again_s = await reconcile(store)
            except ApiError as error:
                _log.info("%s: %s; trying again", name, error)
                again_s = _RETRY_S
            except Exception:  # one broken object must not end a controller
                _log.exception("%s: trying again", name)
                again_s = _RETRY_S


async def _wake_on_change(watch: Watch, wake: asyncio.Event) -> None:
    with watch:
        while True:
            await watch.any()
            wake.set()
