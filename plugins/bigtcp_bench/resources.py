"""Where the files beside the code are: manifests, plans and SQL, in a checkout or in an installed wheel."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def include_dir() -> Path:
    """Return the folder ``include/``: the checkout's when there is one, else the copy in the wheel."""
    checkout = _CHECKOUT / "include"
    return checkout if checkout.is_dir() else _PACKAGE / "_include"


def dags_dir() -> Path:
    """Return the folder of the DAG files: the checkout's when there is one, else the copy in the wheel."""
    checkout = _CHECKOUT / "dags"
    return checkout if checkout.is_dir() else _PACKAGE / "_dags"


def load_manifests(name: str) -> list[dict[str, Any]]:
    """Return the Kubernetes objects of ``include/manifests/<name>`` as dictionaries, in file order."""
    # A pod is made of one each time; copy.deepcopy takes several times as long.
    documents: list[dict[str, Any]] = pickle.loads(_pickled(include_dir() / "manifests" / name))
    return documents


@functools.cache
def _pickled(file: Path) -> bytes:
    import yaml

    documents = yaml.load_all(file.read_text(encoding="utf-8"), _yaml_loader())
    return pickle.dumps([document for document in documents if document])


def read_yaml(file: Path) -> Any:
    """Return the document in ``file``. Raises yaml.YAMLError, UnicodeDecodeError or OSError."""
    import yaml

    return yaml.load(file.read_text(encoding="utf-8"), _yaml_loader())


def _yaml_loader() -> Any:
    import yaml

    # Much faster where PyYAML was built with libyaml, as its wheels are.
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_manifest(name: str) -> dict[str, Any]:
    """Return the only Kubernetes object of ``include/manifests/<name>``."""
    (document,) = load_manifests(name)
    return document
