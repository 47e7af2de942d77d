"""Label and field selectors: parsed from their query strings, matched against objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .discovery import Resource
from .status import bad_request

Matcher = Callable[[dict[str, Any]], bool]

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EXISTS = re.compile(rf"^(?P<negated>!?)\s*(?P<key>{_KEY})$")
_EQUALS = re.compile(rf"^(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})$")
_SET = re.compile(rf"^(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_FIELD = re.compile(r"^(?P<path>[A-Za-z][\w.\-/]*)(?P<operator>==|=|!=)(?P<value>.*)$")


def label_matcher(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """Return a function that tells whether labels match ``selector`` (``a=b,c!=d,e in (f,g),h,!i``).

    Raises ``ApiError`` 400 for text that is no selector.
    """
    requirements = [_label_requirement(part) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _label_requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    text = text.strip()
    if found := _EXISTS.match(text):
        key, wanted = found["key"], not found["negated"]
        return lambda labels: (key in labels) == wanted
    if found := _EQUALS.match(text):
        return _membership(found["key"], [found["value"]], negated=found["operator"] == "!=")
    if found := _SET.match(text):
        values = [value.strip() for value in found["values"].split(",")]
        return _membership(found["key"], values, negated=found["operator"] == "notin")
    raise bad_request(f'unable to parse requirement: found "{text}", expected: a label selector')


def _membership(key: str, values: list[str], *, negated: bool) -> Callable[[Mapping[str, str]], bool]:
    if negated:  # a label that is not there is not in any set of values
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def matches_label_selector(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether ``labels`` match an object's selector (``matchLabels`` and ``matchExpressions``).

    No selector matches nothing, an empty one everything, as in Kubernetes.
    """
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(matches_expression(expression, labels) for expression in selector.get("matchExpressions") or [])


def matches_expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether ``labels`` fulfil one ``{key, operator, values}`` of a selector or of a node affinity."""
    found = labels.get(expression["key"])
    values = expression.get("values") or []
    match expression["operator"]:
        case "In":
            return found in values
        case "NotIn":
            return found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt":
            return found is not None and int(found) > int(values[0])
        case "Lt":
            return found is not None and int(found) < int(values[0])
    raise bad_request(f'"{expression["operator"]}" is not a valid selector operator')


def field_matcher(selector: str, resource: Resource) -> Matcher:
    """Return a function that tells whether an object of ``resource`` matches ``selector`` (``a.b=c,d!=e``).

    Raises ``ApiError`` 400 for text that is no selector and for a field that the resource does not offer.
    """
    requirements: list[tuple[list[str], str, bool]] = []
    for part in selector.split(","):
        if not part.strip():
            continue
        found = _FIELD.match(part.strip())
        if not found:
            raise bad_request(f"invalid selector: '{selector}'; can't understand '{part}'")
        path = found["path"]
        if path not in ("metadata.name", "metadata.namespace", *resource.selectable_fields):
            raise bad_request(f"field label not supported: {path}")
        requirements.append((path.split("."), found["value"], found["operator"] == "!="))
    return lambda obj: all((_field(obj, path) == value) != negated for path, value, negated in requirements)


def _field(obj: dict[str, Any], path: list[str]) -> str:
    value: Any = obj
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict):  # an event's "source" selects on its component
        value = value.get("component")
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path[-1] == "unschedulable" else ""
    return str(value)


def object_matcher(resource: Resource, label_selector: str | None, field_selector: str | None) -> Matcher:
    """Return a function that tells whether an object matches both selectors (either may be empty)."""
    labels = label_matcher(label_selector or "")
    fields = field_matcher(field_selector or "", resource)
    return lambda obj: labels(obj["metadata"].get("labels") or {}) and fields(obj)
