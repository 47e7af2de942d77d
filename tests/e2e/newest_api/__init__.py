"""For Airflows that tests start as processes of their own: its tasks' API in its newest version alone."""

from __future__ import annotations

import os
from pathlib import Path

#: What PYTHONPATH names.
FOLDER = Path(__file__).parent


def path() -> str:
    """Return the PYTHONPATH for such a process: that of this one, behind this folder's ``sitecustomize``."""
    present = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(FOLDER), *([present] if present else [])])
