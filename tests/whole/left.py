"""What lies in a store's folder that no version of it names."""

from __future__ import annotations

import json
from pathlib import Path

FOLDERS = {"parts", "versions", "writing"}
"""Folders that may be empty."""


def paths(folder: Path) -> set[str]:
    """All files and folders below one."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def named(store: Path) -> set[str]:
    """The files that a store's versions name, and what says so."""
    found = {"dao.json", "versions/latest"}
    for version in store.glob("versions/*.json"):
        found.add(f"versions/{version.name}")
        for part in json.loads(version.read_text())["parts"]:
            description = f"{part['path']}/{part['description']}"
            files = json.loads((store / description).read_text())["files"]
            own = [part["outline"]["path"]] if "outline" in part else []
            found |= {description, *(f"{part['path']}/{file}" for file in [*files, *own])}
    return found


def unnamed(store: Path) -> set[str]:
    """What was left by somebody who did not get to the end, or was put there by hand."""
    files = named(store)
    above = {parent.as_posix() for file in files for parent in Path(file).parents}
    return paths(store) - files - above - FOLDERS
