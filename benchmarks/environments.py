"""The contenders' virtual environments, one each, in benchmarks/.venvs.

Owns which Python they get and what is installed; says why one cannot be had. Read from
``peers/requirements/NAME.txt``: pinned packages, and in comments

    # python 3.12 3.13     the Pythons to try, the best first
    # no-deps PACKAGE      a package to install without those that it asks for
    # shares NAME          a folder of packages, made once (torch is 5 GB), to see from here too
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
REQUIREMENTS = HERE / "peers" / "requirements"
OURS = "dao_polars"


class CannotInstallError(Exception):
    """With the reason."""


def contenders() -> list[str]:
    """All, ours first."""
    names = sorted(path.stem for path in (HERE / "peers").glob("*.py"))
    return [OURS, *(name for name in names if name != OURS)]


def environment(name: str) -> Path:
    """The contender's Python, installed now if it is not yet. Ours is the one that runs this."""
    if name == OURS:
        return Path(sys.executable)
    file = REQUIREMENTS / f"{name}.txt"
    place = VENVS / name
    python = place / "bin" / "python"
    done = place / "installed.txt"
    if done.exists() and done.read_text() == file.read_text():
        return python
    base = find_python(directive(file, "python"))
    print(f"installing {name} with Python {version_of(str(base))} ...", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    run(base, "-m", "venv", str(place))
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    for shared in directive(file, "shares"):
        folder = share(shared, python)
        packages = next(place.glob("lib/python*/site-packages"))
        (packages / f"{shared}.pth").write_text(f"{folder}\n")
    run(python, "-m", "pip", "install", "--quiet", "-r", str(file))
    for package in directive(file, "no-deps"):
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", package)
    done.write_text(file.read_text())
    return python


def share(name: str, python: Path) -> Path:
    """A folder of packages for all contenders with this version of Python."""
    file = REQUIREMENTS / "shared" / f"{name}.txt"
    folder = VENVS / "shared" / f"{name}-{version_of(str(python))}"
    done = folder / "installed.txt"
    if not done.exists() or done.read_text() != file.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "pip", "install", "--quiet", "-r", str(file), "--target", str(folder))
        done.write_text(file.read_text())
    return folder


def directive(file: Path, word: str) -> list[str]:
    start = f"# {word} "
    lines = [line for line in file.read_text().splitlines() if line.startswith(start)]
    return [value for line in lines for value in line.removeprefix(start).split()]


def find_python(versions: list[str]) -> Path:
    """One of these versions: the running one, on PATH, of pyenv, or one that uv knows of."""
    for version in versions:
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        places = [sys.executable, shutil.which(f"python{version}")]
        places += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True)
        if shutil.which("uv"):
            found = subprocess.run(
                ["uv", "python", "find", version], capture_output=True, text=True, check=False
            )
            places.append(found.stdout.strip())
        for place in places:
            if place and version_of(place) == version:
                return Path(place)
    raise CannotInstallError(f"no Python {' or '.join(versions)} on this machine")


def version_of(python: str) -> str | None:
    """``3.12``; None where it does not run (a shim of a version that is not chosen)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def run(*command: Path | str) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise CannotInstallError(errors[-1][:300] if errors else f"{command[0]} failed")
