"""The lab, where it is installed: it is a distribution of its own, which production has no use for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from bigtcp_bench.errors import PreconditionFailed


def the_lab_is_installed() -> bool:
    """Return whether the lab can be imported."""
    return find_spec("bigtcp_lab") is not None


def the_lab() -> tuple[ModuleType, ModuleType]:
    """Return the lab's modules ``administrator`` and ``daemon``. Raises PreconditionFailed without a lab."""
    if not the_lab_is_installed():
        raise PreconditionFailed(
            "the lab is not installed here; use a checkout (make demo), or a cluster of yours (--kubeconfig FILE)"
        )
    return import_module("bigtcp_lab.administrator"), import_module("bigtcp_lab.daemon")
