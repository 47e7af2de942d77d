"""API errors as Kubernetes words them, and the Status bodies that carry them."""

from __future__ import annotations

from typing import Any

from .discovery import Resource


class ApiError(Exception):
    """A request that ends in a Status of failure: HTTP ``code``, ``reason``, ``message`` and ``details``."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """Return the Status object for the wire."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


def _details(resource: Resource, name: str) -> dict[str, Any]:
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in details.items() if value}


def success(resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
    """Return the Status of a deletion that left nothing behind."""
    metadata = obj["metadata"]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**_details(resource, metadata["name"]), "uid": metadata["uid"]},
    }


def not_found(resource: Resource, name: str) -> ApiError:
    """Return the 404 for an object that is not there."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def unknown_path() -> ApiError:
    """Return the 404 for a path that names no served resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    """Return the 409 for a name that is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str) -> ApiError:
    """Return the 409 for a write based on an older version of the object."""
    message = (
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return ApiError(409, "Conflict", message, _details(resource, name))


def precondition_failed(resource: Resource, name: str, field: str, wanted: str, found: str) -> ApiError:
    """Return the 409 for a precondition (``field`` is ``UID`` or ``ResourceVersion``) that does not hold."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    message = (
        f'Operation cannot be fulfilled on {kind} "{name}": the {field} in the precondition ({wanted}) does not '
        f"match the {field} in record ({found}). The object might have been modified"
    )
    details = {"name": name, "group": resource.group, "kind": resource.kind}
    return ApiError(409, "Conflict", message, {key: value for key, value in details.items() if value})


def invalid(resource: Resource, name: str, causes: list[tuple[str, str, str]]) -> ApiError:
    """Return the 422 for an object whose fields are wrong; a cause is (field, reason, message)."""
    texts = [f"{field}: {message}" for field, _, message in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.kind}
    details = {key: value for key, value in details.items() if value}
    details["causes"] = [
        {"reason": reason, "message": message, "field": field} for field, reason, message in causes
    ]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


def unprocessable_patch() -> ApiError:
    """Return the 422 for a JSON patch that does not apply, such as one whose ``test`` fails."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def bad_request(message: str) -> ApiError:
    """Return the 400 for a request that makes no sense."""
    return ApiError(400, "BadRequest", message)


def gone(message: str) -> ApiError:
    """Return the 410 for a version that is no longer remembered."""
    return ApiError(410, "Expired", message)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    """Return the 403 for a request that is not allowed; ``why`` ends the sentence."""
    message = (
        f'{resource.qualified} "{name}" is forbidden: {why}'
        if name
        else f"{resource.qualified} is forbidden: {why}"
    )
    return ApiError(403, "Forbidden", message, _details(resource, name))


def unsupported_media_type(content_type: str, accepted: list[str]) -> ApiError:
    """Return the 415 for a body in a format that the resource does not take."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join(accepted)} (got {content_type or 'none'})"
    )
    return ApiError(415, "UnsupportedMediaType", message, {})


def method_not_allowed() -> ApiError:
    """Return the 405 for a verb that the resource does not know."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
