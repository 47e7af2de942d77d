"""Writes docs/generated/settings.md: connections, environment, params and every field of a plan, from the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from bigtcp_bench import settings
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.commands import settings_in_force
from bigtcp_bench.planning.plan import Plan


def code(text: str) -> str:
    """Return a value in code, or the word none."""
    return f"`{text}`" if text else "none"


def variable_rows() -> list[str]:
    """Return a row for each environment variable."""
    return [f"| `{v.name}` | {v.read_by} | {code(v.default)} | {v.meaning} |" for v in settings.VARIABLES]


def connection_rows() -> list[str]:
    """Return a row for each connection."""
    return [f"| `{c.conn_id}` | {c.meaning} | {c.without} |" for c in settings.CONNECTIONS]


def param_rows() -> list[str]:
    """Return a row for each param of the benchmark."""
    return [
        f"| `{name}` | {_default(param.value)} | {param.schema['description_md']} |"
        for name, param in dag_params().items()
    ]


def plan_rows() -> list[str]:
    """Return a row for each field of a plan, nested ones included."""
    return list(_plan_rows(Plan))


def _default(value: Any) -> str:
    return "none" if value is None else f"`{settings_in_force.text_of(value)}`"


def _plan_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    schema = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _plan_rows(field.annotation, f"{prefix}{name}.")
            continue
        default = (
            "needed" if field.is_required() else _default(None if field.default in ((), "") else field.default)
        )
        assert field.description, f"{prefix}{name} has no description"
        yield f"| `{prefix}{name}` | {default} | {_allowed(schema[name])} | {field.description} |"


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:,}" for key, sign in signs.items() if key in schema]
    if limits:
        return ", ".join(limits)
    return {"boolean": "`true`, `false`", "array": "a list"}.get(schema.get("type", ""), "a text")


def document() -> str:
    """Return the document."""
    parts = (
        ("Connections", "| connection | what it holds | without it |\n|---|---|---|", connection_rows()),
        ("Environment", "| variable | read by | default | meaning |\n|---|---|---|---|", variable_rows()),
        ("Params of bigtcp_benchmark", "| param | default | meaning |\n|---|---|---|", param_rows()),
        ("Fields of a plan", "| field | default | allowed | meaning |\n|---|---|---|---|", plan_rows()),
    )
    text = (
        "# Every setting\n\nWritten by `python -m benchmarks.settings_document > docs/generated/settings.md`; "
        "[configuration.md](../configuration.md) says which one counts.\n"
    )
    for title, header, rows in parts:
        text += f"\n## {title}\n\n{header}\n" + "\n".join(rows).replace("](", "](../") + "\n"
    return text


if __name__ == "__main__":
    print(document(), end="")
