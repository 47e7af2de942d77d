"""What the connection ``bigtcp_prometheus`` may hold, checked at the door: where to, as whom, and which labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator

from bigtcp_bench.errors import PreconditionFailed, validation_sentence

#: https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)]

#: Scrapes in the span of a rate: one that is late, or lost, must not leave fewer than two.
SCRAPES_PER_WINDOW = 4


class PrometheusSettings(BaseModel):
    """How Prometheus is reached, and how its series name nodes and clusters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    login: str | None = None
    #: With a login for basic authentication, without one a bearer token.
    password: SecretStr | None = None
    #: Seconds between two scrapes of the nodes.
    scrape_interval_s: float = Field(30, ge=0.1, le=300, allow_inf_nan=False)
    #: The label that holds a node's name or address, with or without a port.
    node_label: LabelName = "instance"
    #: The label that holds the cluster's name, where one Prometheus knows several clusters.
    cluster_label: LabelName | None = None
    #: Of each attempt.
    timeout_s: float = Field(10, gt=0, le=20, allow_inf_nan=False)
    #: Whether the server's certificate must be one that is trusted.
    verify: bool = True
    #: Certificates to trust in place of the system's.
    ca_file: Path | None = None
    #: A certificate and its key to be known by.
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _files_exist(self) -> PrometheusSettings:
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name} must be a file, and {path} is none")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs a cert_file")
        return self

    @property
    def window_s(self) -> int:
        """Return the span of a rate in whole seconds."""
        return max(1, round(SCRAPES_PER_WINDOW * self.scrape_interval_s))


_OF_THE_EXTRA = sorted(set(PrometheusSettings.model_fields) - {"url", "login", "password"})


def prometheus_settings(
    url: str, login: str | None, password: str | None, extra: Mapping[str, Any], where: str
) -> PrometheusSettings:
    """Return the settings out of a connection's parts; ``where`` names the connection.

    Raises PreconditionFailed with one sentence for what is wrong; no value that may be a secret is in it.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and "@" not in url
        right = bool(right and parts.port != 0 and not parts.query and not parts.fragment)
    except ValueError:
        right = False
    if not right:
        # An address may hold a password, so it is not repeated.
        raise PreconditionFailed(
            f"{where} needs the address of Prometheus as host, such as https://prometheus.example.org:9090, "
            "without login and password, which have fields of their own"
        )
    for name in extra:
        if name not in _OF_THE_EXTRA:
            raise PreconditionFailed(
                f"{where}: {name!r} in its extra is not known; allowed are {', '.join(_OF_THE_EXTRA)}; a token "
                "belongs into the password, without a login"
            )
    if login and not password:
        raise PreconditionFailed(f"{where} has a login and no password")
    given = {**extra, "url": url.rstrip("/"), "login": login or None, "password": password or None}
    try:
        return PrometheusSettings.model_validate(given)
    except ValidationError as error:
        raise PreconditionFailed(validation_sentence(error, where)) from None
