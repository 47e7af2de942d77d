"""Copies the package's DAG files into the DAG folder of an existing Airflow, and brings them up to date there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from bigtcp_bench import __version__
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.resources import dags_dir

#: Beside the files: their digests as they were installed, by which a file that somebody has changed is known.
RECORD = ".bigtcp-bench.json"


def install(folder: Path, *, force: bool = False) -> dict[str, str]:
    """Make the DAG files in ``folder`` those of this package; return what became of each, by name.

    That is ``written``, ``updated``, ``unchanged`` or ``deleted``: a file of an earlier version that is no more.
    Files of an earlier version that nobody has changed are replaced. Raises InvalidInput, before anything is
    written, for a changed one unless ``force``, and for a folder that cannot be used.
    """
    wanted = {path.name: path.read_bytes() for path in sorted(dags_dir().glob("*.py"))}
    if folder.resolve() == dags_dir():
        raise InvalidInput(f"{folder} is where the DAG files come from; name the DAG folder of your Airflow")
    try:
        if not folder.is_dir():
            folder.mkdir()
        installed = _record(folder)
        found = {name: _read(folder / name) for name in {*wanted, *installed}}
        for name, content in sorted(found.items()):
            ours = content in (None, wanted.get(name)) or _digest(content or b"") == installed.get(name)
            if not (ours or force):
                raise InvalidInput(
                    f"{folder / name} was not written by install-dags, or has been changed since; nothing was "
                    "written (--force replaces it)"
                )
        done = {}
        for name, content in wanted.items():
            done[name] = "written" if found[name] is None else "updated"
            if found[name] == content:
                done[name] = "unchanged"
            else:
                _write(folder / name, content)
        for name in installed.keys() - wanted.keys():
            if found[name] is not None:
                (folder / name).unlink()
                done[name] = "deleted"
        digests = {name: _digest(content) for name, content in wanted.items()}
        record = json.dumps({"version": __version__, "files": digests}, indent=1)
        _write(folder / RECORD, record.encode())
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be used as a DAG folder: {error.strerror or error}") from error
    return done


def _record(folder: Path) -> dict[str, str]:
    """Return name → digest of what was installed before; a record that cannot be read knows of nothing."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in files.items() if Path(name).name == name}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    # Airflow reads the folder at any moment: it sees the old file or the new one. The name has no .py at its end.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
