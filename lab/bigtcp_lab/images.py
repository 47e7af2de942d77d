"""What the lab makes of image names: it has no images, every container runs the machine's own programs."""

from __future__ import annotations

import hashlib

_ENTRYPOINTS = {"iperf3": ["iperf3"]}
"""Last part of an image's name → its entry point, to which a container's arguments are added."""


def is_known(image: str) -> bool:
    """Return whether the lab pretends to have ``image``.

    It has every image but those that are meant to fail: of a registry under ``.invalid`` (RFC 2606), or with
    ``does-not-exist`` in the name.
    """
    registry = image.partition("/")[0].partition(":")[0]
    return not registry.endswith(".invalid") and "does-not-exist" not in image


def full_name(image: str) -> str:
    """Return an image's name with registry and tag: ``docker.io/library/alpine:latest`` for ``alpine``."""
    name, at, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    if ":" not in name.rpartition("/")[2] and not at:
        name += ":latest"
    return name + at + digest


def image_id(image: str) -> str:
    """Return name and digest of an image; the digest is made up from the name, as there is no content."""
    name = full_name(image)
    repository = name.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    return f"{repository}@sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def entrypoint(image: str) -> list[str]:
    """Return the entry point of ``image``; empty when it has none or the lab does not know it."""
    name = full_name(image).partition("@")[0].rpartition("/")[2].partition(":")[0]
    return _ENTRYPOINTS.get(name, [])
