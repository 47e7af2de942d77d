"""What tests of the lab do again and again: wait for something, and run a command in a pod."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kubernetes.client import CoreV1Api
from kubernetes.stream import stream

Result = TypeVar("Result")


def eventually(check: Callable[[], Result], what: str = "", within_s: float = 60) -> Result:
    """Return the first true result of ``check``; fails, naming ``what``, when there is none in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if result := check():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what or check}")


@contextlib.contextmanager
def running_command(
    core: CoreV1Api, pod: str, *command: str, namespace: str = "default", stdin: bool = False
) -> Iterator[Any]:
    """Start a command in a pod's first container, as the Python client does, and yield its session."""
    session = stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        command=list(command),
        stdin=stdin,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    try:
        yield session
    finally:
        session.sock.shutdown()  # close() leaves the socket open when the server ended first
