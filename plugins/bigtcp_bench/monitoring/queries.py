"""The queries of ``include/monitoring/queries.yaml``: validated once, and filled in for the nodes of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from bigtcp_bench.errors import InvalidInput, validation_sentence
from bigtcp_bench.monitoring.settings import PrometheusSettings
from bigtcp_bench.resources import include_dir, read_yaml

PLACEHOLDERS = ("nodes", "node", "window")


class Query(BaseModel):
    """One question about a block: its name, the unit of the answer, PromQL with placeholders, and what it says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
    unit: Literal["B/s", "1/s", "s/GB", "s", "B", "1"]
    promql: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
    says: Annotated[str, Field(min_length=1)]

    @field_validator("promql")
    @classmethod
    def _known_placeholders(cls, value: str) -> str:
        template = Template(value)
        found = template.get_identifiers() if template.is_valid() else ["$"]
        unknown = [name for name in found if name not in PLACEHOLDERS]
        if unknown or "nodes" not in found:
            allowed = ", ".join(f"${name}" for name in PLACEHOLDERS)
            raise ValueError(f"must have $nodes in it, and no placeholder but {allowed}")
        return value


def load_queries(path: Path | None = None) -> tuple[Query, ...]:
    """Return the queries of ``path`` (default: those of the package), in file order.

    Raises InvalidInput, in one sentence, for what is wrong in the file.
    """
    path = path or include_dir() / "monitoring" / "queries.yaml"
    try:
        queries = TypeAdapter(tuple[Query, ...]).validate_python(read_yaml(path))
    except ValidationError as error:
        raise InvalidInput(validation_sentence(error, str(path))) from error
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    names = [query.name for query in queries]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"{path}: name = {name!r}: a query may be there only once")
    return queries


def filled_in(query: Query, nodes: Sequence[str], cluster: str, settings: PrometheusSettings) -> str:
    """Return the PromQL of ``query`` for ``nodes`` (names and addresses) of ``cluster``."""
    # An address may stand in brackets, and all of them before a port: 10.0.0.1:9100, [fd00::1]:9100, node1.
    names = "|".join(re.escape(name) for name in nodes)
    pattern = rf"\[?(?:{names})\]?(?::[0-9]+)?"
    selected = f"{settings.node_label}=~{_quoted(pattern)}"
    if settings.cluster_label is not None:
        selected += f", {settings.cluster_label}={_quoted(cluster)}"
    window = f"{settings.window_s}s"
    return Template(query.promql).substitute(nodes=selected, node=settings.node_label, window=window)


def _quoted(text: str) -> str:
    # PromQL has the escapes of Go's strings, of which JSON's are a part.
    return json.dumps(text, ensure_ascii=False)
