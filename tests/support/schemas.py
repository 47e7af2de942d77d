"""Files of others' kinds, held against the schemas of those who read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def schema_errors(schema: str, *files: Path) -> dict[Path, str]:
    """Return what is wrong with those of ``files`` that do not follow one of check-jsonschema's own schemas."""
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", schema, "--output-format", "json", "--verbose", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    errors = {Path(one["filename"]): json.dumps(one) for one in found["errors"]}
    assert {*map(Path, found["successes"]), *errors} == set(files), done.stdout + done.stderr
    return errors
