"""What a run has stored, as files: figures as CSV, the page as HTML, the pods' documents as JSON or in a zip."""

from __future__ import annotations

import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from bigtcp_bench.warehouse import pages
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.web.access import AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.one_run import NumberPath, readable_run, view_of
from bigtcp_bench.web.params import DocumentQuery
from bigtcp_bench.web.tables import attachment, csv_response

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.records import RawDocument

router = APIRouter()

Table = Literal["results", "counters", "prometheus", "pod-counters", "packet-sizes"]
_FRAMES: dict[Table, Callable[[Warehouse, int], pd.DataFrame]] = {
    "results": Warehouse.results_frame,
    "counters": Warehouse.counters_frame,
    "prometheus": Warehouse.prometheus_frame,
    "pod-counters": Warehouse.pod_counters_frame,
    "packet-sizes": Warehouse.packet_sizes_frame,
}

_CHUNK = 1 << 16
#: A zip of a night is some megabytes; a larger one is put together on disk.
_IN_MEMORY = 16 << 20


@router.get("/run/{number}/{table}.csv")
def table(access: AccessDep, number: NumberPath, table: Table) -> Response:
    """Return every row that a run has in a table."""
    warehouse = open_warehouse()
    readable_run(warehouse, access, number)
    return csv_response(_FRAMES[table](warehouse, number), f"run-{number}-{table}.csv")


@router.get("/run/{number}/report.html")
def report(access: AccessDep, number: NumberPath) -> Response:
    """Return the run's page as one file that asks for nothing else."""
    from bigtcp_bench.report.detail import RunDetail
    from bigtcp_bench.report.html import report_file

    stored = readable_run(open_warehouse(), access, number)
    text = report_file(view_of(stored, access), RunDetail.of(stored))
    return Response(
        text,
        media_type="text/html; charset=utf-8",
        headers={"Content-Disposition": attachment(f"run-{number}.html")},
    )


@router.get("/run/{number}/document")
def document(access: AccessDep, number: NumberPath, choice: DocumentQuery) -> Response:
    """Return one document as the pod sent it."""
    warehouse = open_warehouse()
    readable_run(warehouse, access, number)
    key = (choice.block, choice.generation, choice.kind, choice.scenario, choice.repetition)
    found = pages.document(warehouse, number, key)
    plain = _is_plain(found)
    return StreamingResponse(
        _content(found, plain),
        media_type="application/json" if plain else "application/octet-stream",
        headers={"Content-Disposition": attachment(_name(number, found, plain))},
    )


@router.get("/run/{number}/documents.zip")
def documents(access: AccessDep, number: NumberPath) -> Response:
    """Return all documents of a run."""
    warehouse = open_warehouse()
    readable_run(warehouse, access, number)
    # Only the place in memory or on disk is opened here; it is closed when everything has been sent.
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for count, key in enumerate(pages.document_keys(warehouse, number), 1):
            place = (key.block, key.generation, key.kind, key.scenario, key.repetition)
            found = pages.document(warehouse, number, place)
            plain = _is_plain(found)
            name = _name(number, found, plain)
            # Two strange kinds may have become one name.
            with archive.open(f"{count}_{name}" if name in archive.NameToInfo else name, "w") as entry:
                for chunk in _content(found, plain):
                    entry.write(chunk)
    file.seek(0)
    return StreamingResponse(
        _chunks(file),
        media_type="application/zip",
        headers={"Content-Disposition": attachment(f"run-{number}-documents.zip")},
    )


def _is_plain(found: RawDocument) -> bool:
    """Return whether the document is known to unpack; else it is given as it is."""
    if found.encoding != "zlib+json":
        return False
    try:
        for _ in _unpacked(found):
            pass
    except zlib.error:
        return False
    return True


def _name(number: int, found: RawDocument, plain: bool) -> str:
    parts = [f"run-{number}", f"block-{found.block}", f"generation-{found.generation}", _as_name(found.kind)]
    if found.scenario:
        parts += [_as_name(found.scenario), f"repetition-{found.repetition}"]
    return f"{'_'.join(parts)}.{'json' if plain else 'bin'}"


def _as_name(word: str) -> str:
    # Kinds and scenarios were printed by pods: here they become names of files, and never a path.
    return re.sub(r"[^A-Za-z0-9._-]", "-", word)[:80]


def _content(found: RawDocument, plain: bool) -> Iterable[bytes]:
    """Return a document in pieces, unpacked where it is ``plain``."""
    return _unpacked(found) if plain else [found.document]


def _unpacked(found: RawDocument) -> Iterator[bytes]:
    unpacking = zlib.decompressobj()
    rest = found.document
    while rest:
        yield unpacking.decompress(rest, _CHUNK)
        rest = unpacking.unconsumed_tail
    yield unpacking.flush()


def _chunks(file: Any) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
