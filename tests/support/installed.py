"""The wheel, and virtual environments with or without it that need no network."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into the empty ``folder`` and return its file."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(folder), str(ROOT)], check=True)
    (built,) = folder.iterdir()
    return built


def virtual_environment(folder: Path, wheel: Path | None = None) -> Path:
    """Make a virtual environment with all that is installed here but this checkout; return its ``bin``.

    Everything else is linked. With ``wheel`` that is installed into it.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / "bin"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    others = folder / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("bigtcp_", "_bigtcp_", "_editable")) and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    (site / "others.pth").write_text(f"{others}\n", encoding="utf-8")
    if wheel is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(programs / "python")]
        subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True
        )
    return programs
