"""What is in ``dist/``: one wheel for this kind of machine and one source distribution.

python tests/wheel/contents.py dist              exit code 1 if something is missing, or too much
python tests/wheel/contents.py dist --tag v0.1.0    and is of another version than that
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
MOST_MB = 30  # a wheel, compressed
#: Oldest first: a wheel must be for one of them. glibc 2.28 is that of 2018.
PLATFORMS = re.compile(
    r"manylinux_2_(?P<glibc>\d+)_(x86_64|aarch64)|macosx_\d+_\d+_(x86_64|arm64)|win_amd64"
)


def main() -> None:
    """Look at everything in the folder that the command line names."""
    parser = argparse.ArgumentParser(description="what is in dist/")
    parser.add_argument("dist", type=Path)
    parser.add_argument("--tag", help="the tag of the release, v and the version")
    parser.add_argument("--wheels", type=int, help="how many there must be")
    parser.add_argument("--sdists", type=int, help="how many there must be")
    arguments = parser.parse_args()
    wheels, sdists = sorted(arguments.dist.glob("*.whl")), sorted(arguments.dist.glob("*.tar.gz"))
    if not wheels and not sdists:
        sys.exit(f"{arguments.dist}: no wheel and no source distribution; run make wheel")
    others = {*arguments.dist.iterdir()} - {*wheels, *sdists}
    wrong = [f"{path}: is not to be published" for path in others]
    for found, expected, kind in [
        (wheels, arguments.wheels, "wheels"),
        (sdists, arguments.sdists, "source distributions"),
    ]:
        if expected is not None and len(found) != expected:
            wrong.append(f"{arguments.dist}: {len(found)} {kind}; expected {expected}")
    for path in wheels:
        wrong += check_wheel(path)
    for path in sdists:
        wrong += check_sdist(path)
    versions = {path.name.split("-")[1].removesuffix(".tar.gz") for path in wheels + sdists}
    if len(versions) != 1:
        wrong.append(f"{arguments.dist}: of several versions, {sorted(versions)}")
    if arguments.tag is not None and versions != {arguments.tag.removeprefix("v")}:
        wrong.append(f"{arguments.dist}: version {versions} is not that of the tag {arguments.tag}")
    if wrong:
        sys.exit("\n".join(wrong))


def check_wheel(path: Path) -> list[str]:
    """What is wrong with a wheel."""
    wrong = []
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        sizes = {info.filename: info.file_size for info in wheel.infolist()}
        folder = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = HeaderParser().parsestr(wheel.read(f"{folder}/METADATA").decode())
        entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    python, abi, platform = path.stem.split("-")[2:]
    found = [PLATFORMS.fullmatch(tag) for tag in platform.split(".")]
    if (python, abi) != ("cp311", "abi3"):
        wrong.append(
            f"{path}: for {python}-{abi}; expected cp311-abi3, for 3.11 and all later ones"
        )
    glibc = [int(tag["glibc"]) for tag in found if tag is not None and tag["glibc"]]
    if not any(found) or any(version > 28 for version in glibc):
        wrong.append(f"{path}: for {platform}; expected manylinux_2_28 or older, macOS or Windows")
    core = [name for name in names if re.fullmatch(r"dao_polars/_core(\.abi3)?\.(so|pyd)", name)]
    if len(core) != 1:
        wrong.append(f"{path}: has the extensions {core}; expected one")
    tree = {str(file.relative_to(ROOT).as_posix()) for file in (ROOT / "dao_polars").rglob("*.py*")}
    expected = {name for name in tree if name.endswith((".py", ".pyi"))} | {"dao_polars/py.typed"}
    licence = f"{folder}/licenses/LICENSE"
    metadata_files = {
        f"{folder}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")
    }
    expected |= {licence, *metadata_files}
    wrong += [f"{path}: lacks {name}" for name in sorted(expected - names)]
    # maturin writes a bill of what was compiled in.
    beside = {name for name in names if name.startswith(f"{folder}/sboms/")}
    unexpected = names - expected - beside - {*core}
    wrong += [f"{path}: has {name}, which no user needs" for name in sorted(unexpected)]
    wrong += check_metadata(path, metadata)
    if "dao-polars=" not in entry_points.replace(" ", ""):
        wrong.append(f"{path}: the command line is not among the entry points")
    if "dao_polars.pfor" not in entry_points:
        wrong.append(
            f"{path}: the codec is not among the entry points, so zarr-python cannot find it"
        )
    size = path.stat().st_size / 1e6
    if size > MOST_MB:
        wrong.append(f"{path}: {size:.1f} MB; expected at most {MOST_MB} MB")
    core_size = sum(sizes[name] for name in core) / 1e6
    print(
        f"{path.name}: {size:.1f} MB, {len(names)} files, the extension {core_size:.1f} MB unpacked"
    )
    return wrong


def check_sdist(path: Path) -> list[str]:
    """What is wrong with a source distribution. That it can be built is for whoever builds it."""
    with tarfile.open(path) as sdist:
        names = {str(PurePosixPath(*PurePosixPath(n).parts[1:])) for n in sdist.getnames()}
        file = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        metadata = HeaderParser().parsestr(file.read().decode()) if file else None
    needed = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "LICENSE", "README.md", "src/lib.rs"}
    wrong = [f"{path}: lacks {name}" for name in sorted(needed - names)]
    for folder in ("tests", "data", "notebooks", "benchmarks", "fuzz/corpus", ".github", "target"):
        if any(
            name.startswith(f"{folder}/") and name.endswith((".h5ad", ".ipynb", ".py", ".yml"))
            for name in names
        ):
            wrong.append(f"{path}: has {folder}/, which a build does not need")
    wrong += [f"{path}: no PKG-INFO"] if metadata is None else check_metadata(path, metadata)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {len(names)} files")
    return wrong


def check_metadata(path: Path, metadata: object) -> list[str]:
    """What a registry shows, and pip goes by."""
    wrong = []
    for field, expected in {
        "Name": "dao-polars",
        "License-Expression": "MIT",
        "License-File": "LICENSE",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }.items():
        found = str(metadata[field]).partition(";")[0]  # type: ignore[index]
        if found != expected:
            wrong.append(f"{path}: its {field} is {found}; expected {expected}")
    return wrong


if __name__ == "__main__":
    main()
