"""Installs what is in ``dist/`` into bare environments, and does the main job with it.

python tests/wheel/install.py dist                the wheel, with each Python from 3.11 that is here
python tests/wheel/install.py dist --python PATH  with this one alone
python tests/wheel/install.py dist --sdist        the source distribution, which is built: minutes
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
OLDEST = (3, 11)


def main() -> None:
    """Try what the command line names."""
    parser = argparse.ArgumentParser(description="install what is in dist/, and try it")
    parser.add_argument("dist", type=Path)
    parser.add_argument("--python", action="append", help="an interpreter; may be given again")
    parser.add_argument("--sdist", action="store_true", help="build and try the source instead")
    arguments = parser.parse_args()
    kind = "*.tar.gz" if arguments.sdist else "*.whl"
    package = only(arguments.dist, kind)
    pythons = arguments.python or every_python()
    if not pythons:
        sys.exit("no Python from 3.11 on was found: name one with --python")
    for python in pythons:
        began = time.perf_counter()
        try_it(python, package)
        print(f"== {package.name} with {python}: {time.perf_counter() - began:.0f} s", flush=True)


def only(dist: Path, kind: str) -> Path:
    """The one package of a kind: of a wheel, the one for this machine is the only one there."""
    found = sorted(dist.glob(kind))
    if len(found) != 1:
        sys.exit(f"{dist}: expected one {kind}, found {len(found)}; run make wheel")
    return found[0].resolve()


def every_python() -> list[str]:
    """One interpreter for each version of Python that the machine has, from the oldest on."""
    managed = [Path.home() / ".pyenv" / "versions", Path.home() / ".local/share/uv/python"]
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    folders += [
        path / "bin" for home in managed if home.is_dir() for path in sorted(home.iterdir())
    ]
    found: dict[tuple[int, ...], str] = {}
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 20)]
    candidates = [sys.executable, *(str(f / name) for name in names for f in folders)]
    for candidate in candidates:
        version = version_of(candidate)
        if version is not None and version >= OLDEST:
            found.setdefault(version, candidate)
    return [found[version] for version in sorted(found)]


def version_of(python: str) -> tuple[int, ...] | None:
    """The version of an interpreter that can make environments; None where it is none."""
    if not Path(python).exists():
        return None
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return tuple(map(int, asked.stdout.split())) if asked.returncode == 0 else None


def try_it(python: str, package: Path) -> None:
    """The package alone, then with the extras that the main job needs."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        run(folder, python, "-m", "venv", str(environment))
        inside = str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        pip = (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(folder, *pip, str(package))
        run(folder, inside, str(HERE / "bare.py"), str(ROOT / "tests" / "data" / "sfaira_store"))
        # What is installed stays: only the extras are added.
        run(folder, *pip, "dao-polars[anndata,progress]")
        run(folder, inside, str(HERE / "job.py"), str(ROOT / "data"))


def run(folder: str, *command: str) -> None:
    """Run a command outside the checkout, so that it finds what is installed and nothing else."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=clean, check=False)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(command)}")


if __name__ == "__main__":
    main()
