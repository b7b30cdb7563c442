"""Whether the core compiles for the systems that people use, as far as this machine can tell.

A target is checked where rustup has it (``rustup target add x86_64-pc-windows-msvc …``), with zig
as the compiler of the C libraries. The others are named, and are no error.

python tests/wheel/targets.py            all
python tests/wheel/targets.py TARGET …   these alone
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Rust's name of a target, and zig's.
TARGETS = {
    "x86_64-unknown-linux-gnu": "x86_64-linux-gnu",
    "aarch64-unknown-linux-gnu": "aarch64-linux-gnu",
    "x86_64-apple-darwin": "x86_64-macos",
    "aarch64-apple-darwin": "aarch64-macos",
    "x86_64-pc-windows-gnu": "x86_64-windows-gnu",
    # What is compiled is never linked, so that MinGW's headers do for Microsoft's.
    "x86_64-pc-windows-msvc": "x86_64-windows-gnu",
}


def main() -> None:
    """Check each target that is installed, with Python's module and without."""
    libraries = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
    )
    installed = {path.name for path in Path(libraries.stdout.strip(), "lib/rustlib").iterdir()}
    asked = {target: TARGETS[target] for target in sys.argv[1:] or TARGETS}
    skipped = [target for target in asked if target not in installed]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for target, zig in asked.items():
            if target in skipped:
                continue
            for features in ([], ["--features", "python,pyo3/extension-module"]):
                command = [
                    "cargo",
                    "check",
                    "--quiet",
                    "--locked",
                    "--lib",
                    "--target",
                    target,
                    *features,
                ]
                print("==", *command, flush=True)
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=os.environ | compilers(Path(folder), target, zig),
                    check=False,
                )
                if done.returncode != 0:
                    failed.append(" ".join(command))
    for target in skipped:
        print(f"skipped, not installed: {target} (rustup target add {target})")
    if failed:
        sys.exit("failed: " + ", ".join(failed))
    print(f"{len(asked) - len(skipped)} targets compile, {len(skipped)} were skipped")


def compilers(folder: Path, target: str, zig: str) -> dict[str, str]:
    """What builds of C libraries for a target look for in the environment."""
    name = target.replace("-", "_")
    found = {}
    for variable, tool in {
        "CC": f"cc -target {zig}",
        "CXX": f"c++ -target {zig}",
        "AR": "lib" if target.endswith("msvc") else "ar",
    }.items():
        script = folder / f"{variable}_{name}"
        # zig knows targets by other names: what cc-rs adds would contradict.
        script.write_text(
            "#!/bin/sh\n"
            'for arg do shift; case "$arg" in --target=*) ;; *) set -- "$@" "$arg" ;; esac; done\n'
            f'exec "{sys.executable}" -m ziglang {tool} "$@"\n'
        )
        script.chmod(0o755)
        found[f"{variable}_{name}"] = str(script)
    return found | {"PYO3_NO_PYTHON": "1"}


if __name__ == "__main__":
    main()
