"""Style sheet and scripts of the pages, behind the same permission as the pages, kept by browsers for good."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response

from bigtcp_bench.web.rendering import STATIC, static_version

router = APIRouter()

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}

#: Made from the package's own modules, so that charts look the same wherever they are drawn.
CHARTS = "charts.js"


@router.get("/static/{version}/{name}")
def static_file(version: str, name: str) -> Response:
    """Return a static file. Its address holds the hash of all of them, so it never changes behind an address."""
    if version != static_version():
        raise HTTPException(404, "this is the address of another version of the pages; reload the page")
    return Response(
        _content(name),
        media_type=_TYPES[f".{name.rpartition('.')[2]}"],
        headers={"Cache-Control": "private, max-age=31536000, immutable"},
    )


def _content(name: str) -> bytes:
    from bigtcp_bench.report.charts import vega

    if name == CHARTS:
        return vega.javascript().encode()
    known = {path.name: path for path in STATIC.iterdir()}
    if name not in known:
        raise HTTPException(404, "there is no such file")
    content = known[name].read_bytes()
    return content + vega.STYLE.encode() if name == "pages.css" else content
