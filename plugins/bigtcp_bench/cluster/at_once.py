"""Asks about both nodes at once: what only reads need not wait for one another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def begin(ask: Callable[[], T]) -> Future[T]:
    """Call ``ask``, which only reads, in a thread of its own; its answer, or what it raised, is the future's.

    A task that ends meanwhile does not wait for it.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="bigtcp-bench-asks", daemon=True).start()
    return answer


def of_each(names: Iterable[str], ask: Callable[[str], T]) -> dict[str, T]:
    """Return name → what ``ask`` says of it, all asked at once. Raises what the first of them has raised."""
    asked = {name: begin(partial(ask, name)) for name in names}
    return {name: answer.result() for name, answer in asked.items()}
