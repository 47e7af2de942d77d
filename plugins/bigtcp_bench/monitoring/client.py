"""Prometheus' HTTP API, as much of it as a run asks: one range query at a time, within a budget of time."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bigtcp_bench.errors import BenchError
from bigtcp_bench.monitoring.settings import PrometheusSettings

#: An answer about two nodes is some hundred kilobytes; a larger one is about something else.
MAX_BYTES = 16 << 20
_ATTEMPTS = 3


class PrometheusAway(BenchError):
    """Prometheus cannot be asked: it is away, refuses the login, or is too slow."""


class QueryRefused(BenchError):
    """Prometheus does not answer this query; it may answer others."""


class _TryAgain(PrometheusAway):
    """What may be over in a second."""


@dataclass(frozen=True)
class Series:
    """One series: its labels, and the values that are numbers, oldest first."""

    labels: Mapping[str, str]
    values: tuple[float, ...]


class _Result(BaseModel):
    metric: dict[str, str]
    values: list[tuple[float, float]]


class _Data(BaseModel):
    result_type: Annotated[Literal["matrix"], Field(alias="resultType")]
    result: list[_Result]


class _Answer(BaseModel):
    status: Literal["success"]
    data: _Data


class _Refusal(BaseModel):
    error: str


class Prometheus:
    """``with Prometheus(settings, budget_s=30) as prometheus``: asks, until the budget is spent."""

    def __init__(self, settings: PrometheusSettings, *, budget_s: float) -> None:
        self._settings = settings
        self._deadline = time.monotonic() + budget_s
        self._budget_s = budget_s
        password = settings.password.get_secret_value() if settings.password else None
        headers = {"Accept": "application/json"}
        if password and not settings.login:
            headers["Authorization"] = f"Bearer {password}"
        self._client = httpx.Client(
            auth=(settings.login, password or "") if settings.login else None,
            headers=headers,
            verify=_tls(settings),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def range(self, promql: str, start: datetime, end: datetime, step_s: float) -> list[Series]:
        """Return the series of ``promql`` between two moments, one value each ``step_s`` seconds.

        Values that are no numbers (division by nothing) are left out, and with them series that have no other.
        Raises QueryRefused for this query, and PrometheusAway where another one would not do better.
        """
        form = {
            "query": promql,
            "start": f"{start.timestamp():.3f}",
            "end": f"{end.timestamp():.3f}",
            "step": f"{step_s:g}",
        }
        retrying = Retrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=4),
            reraise=True,
        )
        return retrying(lambda: self._asked(form))

    def _asked(self, form: Mapping[str, str]) -> list[Series]:
        where = f"Prometheus at {self._settings.url}"
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise PrometheusAway(f"{where} took longer than the {self._budget_s:g} s that a run waits for it")
        # Of each part of an exchange; the deadline is of all of them together.
        timeout = min(self._settings.timeout_s, left_s)
        url = f"{self._settings.url}/api/v1/query_range"
        try:
            # Not in the address: with many nodes it would be longer than some proxies take.
            with self._client.stream("POST", url, data=form, timeout=timeout) as answer:
                status, body = answer.status_code, self._body(answer, where)
        except httpx.TransportError as error:
            raise _TryAgain(f"{where} cannot be reached: {error or type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise PrometheusAway(f"{where} cannot be used: {error}") from error
        if status == 429 or status >= 500:
            raise _TryAgain(f"{where} answered {status}")
        if status in (400, 422):
            raise QueryRefused(f"{where} refuses the query: {_refusal(body)}")
        if status != 200:
            raise PrometheusAway(f"{where} answered {status}")
        try:
            found = _Answer.model_validate_json(body).data.result
        except ValidationError as error:
            raise PrometheusAway(f"{where} does not answer as Prometheus does") from error
        series = [
            Series(one.metric, tuple(value for _, value in one.values if math.isfinite(value))) for one in found
        ]
        return [one for one in series if one.values]

    def _body(self, answer: httpx.Response, where: str) -> bytes:
        body = bytearray()
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > MAX_BYTES:
                raise QueryRefused(f"{where} answers with more than {MAX_BYTES >> 20} MB")
            if time.monotonic() > self._deadline:
                raise PrometheusAway(f"{where} took longer than the {self._budget_s:g} s that a run waits for it")
        return bytes(body)


def _tls(settings: PrometheusSettings) -> ssl.SSLContext | bool:
    if not settings.url.startswith("https:"):
        return False
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise PrometheusAway(f"the certificates for Prometheus cannot be used: {error}") from error
    return context


def _refusal(body: bytes) -> str:
    try:
        return _Refusal.model_validate_json(body).error[:300]
    except ValidationError:
        return "it does not say why"
