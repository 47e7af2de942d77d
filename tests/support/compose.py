"""docker-compose.yaml as Compose reads it: variables filled in from a .env, anchors resolved."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yaml"
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")

#: ${NAME}, ${NAME:-default} and ${NAME:?message}; a doubled $ is a literal one.
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")

SECRETS = {
    "POSTGRES_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "BIGTCP_DB_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_FERNET_KEY",
}


def interpolated(text: str, environment: dict[str, str]) -> str:
    """Replace the variables of a Compose file as the specification says."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"])
        if not found and match["kind"] == "?":
            raise LookupError(match["rest"])
        return found or (match["rest"] if match["kind"] == "-" else "")

    return VARIABLE.sub(value, text).replace("$$", "$")


def example_environment() -> dict[str, str]:
    """Return the settings of .env.example with every secret filled in, as its comments say."""
    settings = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if re.match(r"\w+=", line))
    from cryptography.fernet import Fernet

    return (
        settings
        | {name: secrets.token_hex(24) for name in SECRETS}
        | {"AIRFLOW_FERNET_KEY": Fernet.generate_key().decode()}
    )


def compose_file(environment: dict[str, str]) -> dict[str, Any]:
    """Return the file with ``environment`` filled in."""
    found: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(encoding="utf-8"), environment))
    return found
