"""What each worker would else make of the sources anew before its first test."""

from __future__ import annotations

import compileall
import multiprocessing
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.assertion import rewrite
from hypothesis.configuration import storage_directory
from hypothesis.internal.constants_ast import constants_from_module

_ROOT = Path(__file__).resolve().parents[2]


def prepare(config: pytest.Config) -> None:
    """Leave the caches of Python, pytest and hypothesis as the first worker would leave them, for all."""
    work: list[Callable[[], object]] = []
    for path in _ROOT.glob("tests/**/*.py"):
        if path.name.startswith("test_") or path.name == "conftest.py":
            cached = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
            if rewrite._read_pyc(path, cached) is None:
                work.append(partial(_rewritten, config, path, cached))
        else:
            work.append(partial(compileall.compile_file, path, quiet=1))
    if not storage_directory("constants", intent_to_write=False).path.is_dir():
        for room in ("plugins", "lab"):
            work.extend(partial(_constants, path) for path in _ROOT.glob(f"{room}/**/*.py"))
    # Forked, they need not be told what they have.
    fork, parts = multiprocessing.get_context("fork"), os.cpu_count() or 1
    made = [fork.Process(target=_do, args=(work[part::parts],)) for part in range(parts)]
    for one in made:
        one.start()
    for one in made:
        one.join()


def _do(work: list[Callable[[], object]]) -> None:
    # Hypothesis warns of being used before the session has begun: it would cost time. It saves some.
    warnings.simplefilter("ignore")
    for each in work:
        each()


def _rewritten(config: pytest.Config, path: Path, cached: Path) -> None:
    """Write what pytest makes of the assertions in ``path``."""
    cached.parent.mkdir(exist_ok=True)
    source, code = rewrite._rewrite_test(path, config)
    rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, cached)


def _constants(path: Path) -> None:
    """Write which constants hypothesis finds in ``path`` and tries in its examples."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    constants_from_module(module)
