"""The Lease as a restore holds it: given back once, also where the answer to that was lost."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from bigtcp_bench.in_cluster import hold, protocol

Json = dict[str, Any]


class Hands(SimpleNamespace):
    """The one Lease of a cluster; ``answer`` gives the status of a write, None if fine, and the new Lease."""

    def get(self, _path: str) -> Json | None:
        return copy.deepcopy(self.lease)

    def change(self, _method: str, _path: str, body: Json) -> Json:
        status, self.lease = self.answer(body)
        if status is not None:
            raise hold.Refused(f"answered with {status}", status)
        return body


def held(answer: Any) -> hold.Hold:
    lease = protocol.take(None, "restored", "window", 0.0, protocol.RESTORE_LEASE_S)
    clock = {"now": lambda: 1.0, "monotonic": lambda: 1.0, "sleep": lambda _seconds: None}
    return hold.Hold(Hands(lease=lease, answer=answer, **clock), "restored", "window")  # type: ignore[arg-type]


def taken(body: Json) -> Json:
    return {**body, "spec": {**body["spec"], "holderIdentity": "another"}}


@pytest.mark.parametrize("status", [0, 409, 404])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_lease_is_given_back_although_the_answer_was_lost(status: int, deleted: bool) -> None:
    """The write took effect, and what asks again is told of a conflict, or that its namespace is gone."""
    ours = held(lambda body: (status, None if deleted else body))
    ours.release()
    assert deleted or ours.hands.get(hold.LEASE)["spec"]["holderIdentity"] == ""  # type: ignore[index]


def test_a_lease_that_another_has_taken_meanwhile_is_lost() -> None:
    with pytest.raises(hold.Lost, match="another has taken the cluster over"):
        held(lambda body: (409, taken(body))).release()


def test_a_lease_that_nobody_has_before_it_is_given_back_is_lost() -> None:
    ours = held(lambda body: (None, body))
    ours.hands.lease["spec"]["holderIdentity"] = ""  # type: ignore[attr-defined]
    with pytest.raises(hold.Lost, match="nobody has taken the cluster over"):
        ours.release()


def test_a_refused_write_that_had_no_effect_is_told() -> None:
    with pytest.raises(hold.Refused, match="answered with 403"):
        held(
            lambda body: (403, protocol.take(None, "restored", "window", 0.0, protocol.RESTORE_LEASE_S))
        ).release()
