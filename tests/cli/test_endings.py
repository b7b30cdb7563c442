"""How a command ends: exit codes, messages, Ctrl-C, readers that go away, odd terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
import tomllib
from importlib.metadata import version

import pytest

import dao_polars as dao
from dao_polars.cli.main import COMMANDS, main
from dao_polars.cli.words import as_typed
from tests.cli.program import (
    LIMIT,
    PROGRAM,
    ROOT,
    document,
    environment,
    failure,
    fine,
    interrupt,
    run,
    start,
)
from tests.conftest import DATA, SFAIRA, study
from tests.storefab import part_path
from tests.webserver import serving

HEART = DATA / "heart_human.h5ad"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """A store whose names are not ASCII; tests must not change it."""
    uri = tmp_path_factory.mktemp("small") / "s"
    adata = study(0, 5, ["x", "y"])
    for name in ("é 中文", "b"):
        dao.write_dataset(uri, adata, dataset=name, progress=False)
    return str(uri)


def test_help(capsys):
    text = fine("--help")
    assert fine("-h") == text
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", text, re.M)
        assert main([name, "--help"]) == 0
        of_it = capsys.readouterr().out
        assert of_it.startswith(f"usage: dao-polars {name} ")
        assert command.summary in of_it
        assert max(map(len, of_it.splitlines())) <= 100
    assert re.search(r"exit codes: 0 .* 1 .* 2 .* 130 ", text)
    assert fine("--version") == f"dao-polars {version('dao-polars')}\n"


def test_the_script_is_this_program():
    with (ROOT / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    module, function = scripts["dao-polars"].split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", code, "ls", "nowhere"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("dao-polars: no store at ")


def test_starting_loads_what_is_needed_alone():
    code = "import sys; from dao_polars.cli.main import main; main(['write', '--help']); print("
    code += "[m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["anndata", "pandas", "zarr", "h5py", "torch", "tqdm", "scipy.stats"]
    command = [sys.executable, "-c", code, *heavy]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a command is missing"),
        (["lst"], "no command 'lst'; did you mean ls?"),
        (["--quiet", "ls", "x"], "--quiet: options stand after a command"),
        (["ls"], "required: STORE"),
        (["ls", "a", "b"], "unrecognized arguments: b"),
        (["ls", "a", "--jso"], "unrecognized arguments: --jso"),
        (["ls", "a", "--at", "0"], "--at: '0'; expected a whole number from 1 on"),
        (["ls", "a", "--at", "last"], "--at: 'last'; expected a whole number from 1 on"),
        (["ls", "a", "--version", "3"], "a version of a store is --at VERSION"),
        (["ls", "a", "--storage-option", "s3cret"], "--storage-option: expected KEY=VALUE"),
        (["restore", "a", "x"], "VERSION: 'x'; expected a whole number"),
        (["rename", "a", "b"], "required: NEW"),
        (["vacuum", "a", "--older-than", "30"], "--older-than: '30'; expected numbers of weeks"),
        (["write", "a"], "required: SOURCE"),
        (["write", "a", "b", "--mode", "overwrite"], "invalid choice: 'overwrite'"),
        (["write", "a", "b", "c", "--dataset", "d"], "there are several sources"),
        (["write", "a", "b", "b"], "a source is named twice"),
        (["write", "a", "b", "--seed", "1"], "--seed is the seed of --shuffle"),
        (["write", "a", "b", "--shuffle", "--seed", "-1"], "--seed"),
        (["write", "a", "b", "--gene-key", "k"], "--gene-key and --duplicates are about"),
        (["write", "a", "b", "--genes", "f", "--genes-of", "d"], "not allowed with"),
        (["write", "a", "b", "--layers", "l", "--all-layers"], "either --layers or"),
        (["write", "a", "b", "--obsm", "l", "--no-obsm"], "either --obsm or"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dao-polars: ")
    assert said in err
    assert "s3cret" not in err
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_of_the_program(tmp_path):
    assert failure("ls", code=2).splitlines()[-1] == "See: dao-polars ls --help"
    assert "is not text in UTF-8" in failure(
        "ls", b"\xff".decode("utf-8", "surrogateescape"), code=2
    )


def test_errors_as_json(tmp_path):
    ran = run("ls", tmp_path / "none", "--json")
    assert (ran.returncode, ran.stdout) == (1, "")
    error = json.loads(ran.stderr)
    assert (error["error"], error["exit_code"]) == ("DaoFileNotFoundError", 1)
    assert error["message"] == failure("ls", tmp_path / "none").strip()
    ran = run("ls", "--json")
    assert (ran.returncode, json.loads(ran.stderr)["error"]) == (2, "UsageError")


def test_where_an_error_was_raised_is_shown_when_it_is_asked_for(tmp_path):
    ran = run("ls", tmp_path, env={"DAO_POLARS_DEBUG": "1"})
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback")
    assert "\ndao-polars: no store at " in ran.stderr


def test_a_bug_is_shown_as_one(tmp_path):
    code = "import sys; from dao_polars.cli import main, reading; reading.load_store = None\n"
    code += "sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "ls", "x"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback")
    assert "\ndao-polars: a bug in dao-polars: TypeError" in ran.stderr


def test_nothing_but_what_is_needed_is_installed(tmp_path, small):
    """A bare install reads and curates; where more is needed, it says what to install."""
    (tmp_path / "bare").mkdir()
    for name in ("anndata", "h5py", "pandas", "zarr", "tqdm"):
        code = f'raise ModuleNotFoundError("No module named {name!r}")'
        (tmp_path / "bare" / f"{name}.py").write_text(code)
    bare = {"PYTHONPATH": str(tmp_path / "bare")}
    fine("--help", env=bare)
    for command in ("info", "ls", "versions", "verify"):
        fine(command, small, env=bare)
    fine("copy", small, tmp_path / "t", env=bare)
    fine("rename", tmp_path / "t", "b", "c", env=bare)
    fine("verify", SFAIRA, env=bare)
    message = failure("write", tmp_path / "s", HEART, env=bare)
    assert 'pip install "dao-polars[anndata]"' in message
    assert not (tmp_path / "s").exists()


def test_ctrl_c_leaves_what_was_finished(tmp_path):
    uri, sources = tmp_path / "s", [tmp_path / f"d{i:02}.h5ad" for i in range(40)]
    for source in sources:
        source.symlink_to(DATA / "pancreas_human.h5ad")
    process = start("write", uri, *sources)
    for _ in range(2):
        process.stdout.readline()
    time.sleep(0.3)
    code, out, err = interrupt(process)
    assert code == 130
    assert err == "dao-polars: interrupted; the store is whole, and nothing in it is half done\n"
    store = dao.load_store(uri)
    n = 2 + len(out.splitlines())
    assert n <= store.datasets.height <= n + 1 < 40
    assert store.verify().is_empty()
    assert not list(uri.glob("writing/*"))
    assert store.vacuum().is_empty()


def test_ctrl_c_while_a_server_is_waited_for(real_store, tmp_path):
    (tmp_path / "s").symlink_to(real_store.uri)
    for words, expected in (
        ([], "dao-polars: interrupted\n"),
        (["--json"], {"error": "KeyboardInterrupt", "message": "interrupted", "exit_code": 130}),
    ):
        with serving(tmp_path, "s") as server:
            server.wrong = server.silent(r"\.json")
            process = start("ls", server.url, *words)
            assert server.silenced.wait(LIMIT)
            time.sleep(0.2)
            code, out, err = interrupt(process)
        assert (code, out) == (130, "")
        assert (json.loads(err) if words else err) == expected


def test_ctrl_c_in_code_that_is_made_of_text(tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys; from dao_polars.cli import main, reading\n"
        "reading.load_store = lambda *_, **__: exec('raise KeyboardInterrupt')\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-m", "program", "versions", "x"]
    env = environment(PYTHONPATH=str(tmp_path))
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert (ran.returncode, ran.stderr) == (130, "dao-polars: interrupted\n")


@pytest.mark.parametrize("words", [("ls",), ("info",), ("verify",), ("ls", "--json")])
def test_a_reader_that_went_away_is_no_error(small, words):
    command, *options = words
    reads, writes = os.pipe()
    os.close(reads)
    process = start(command, small, *options, stdout=writes)
    os.close(writes)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")


def test_all_is_written_though_nobody_reads_of_it(tmp_path):
    sources = [tmp_path / f"d{i}.h5ad" for i in range(3)]
    for source in sources:
        source.symlink_to(HEART)
    reads, writes = os.pipe()
    process = start("write", tmp_path / "s", *sources, stdout=writes)
    os.close(writes)
    os.close(reads)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert dao.load_store(tmp_path / "s").datasets.height == 3


def test_damage_is_damage_though_nobody_reads_of_it(tmp_path):
    dao.write_dataset(tmp_path / "s", study(0, 5, ["x"]), dataset="d", progress=False)
    (part_path(tmp_path / "s", "d") / "obs.parquet").write_bytes(b"")
    script = '"$@" | true; exit "${PIPESTATUS[0]}"'
    command = ["bash", "-c", script, "-", *PROGRAM, "verify", str(tmp_path / "s")]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (ran.returncode, ran.stderr) == (1, "dao-polars: 1 problem in 1 dataset\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is Linux's")
def test_output_that_cannot_be_written(small):
    with open("/dev/full", "w") as full:
        process = start("ls", small, stdout=full)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert err == "dao-polars: cannot write to <stdout>: No space left on device\n"


@pytest.mark.parametrize(
    "terminal",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "LANG": "C"},
    ],
    ids=["ascii", "C", "coerced"],
)
def test_a_terminal_of_few_characters(small, terminal):
    plain = terminal.get("LC_ALL") != "POSIX"  # Python makes UTF-8 of that
    assert ("\\xe9 \\u4e2d\\u6587" if plain else "é 中文") in fine("ls", small, env=terminal)
    # Python takes what is typed for ASCII too, where it is told that UTF-8 is not spoken
    text = fine("info", small, "b" if "PYTHONUTF8" in terminal else "é 中文", env=terminal)
    assert ("5 cells x 2 genes" if plain else "5 cells × 2 genes") in text
    fine("info", small, env=terminal)
    assert document("ls", small, env=terminal)["datasets"][0]["id"] == "é 中文"
    assert ("\\xe9" if plain else "é") in failure("info", small, "zz", env=terminal)
    fine("write", "--help", env=terminal)


def test_columns_of_wide_characters_are_straight(small):
    lines = fine("ls", small).splitlines()
    assert lines[0].index("layout") == lines[2].index("csr")
    assert lines[1].index("csr") == lines[2].index("csr") - 2  # two of its characters are two wide


def in_a_terminal(*words: object) -> tuple[int, str]:
    """The exit code of a command, and what it prints on a terminal that only shows its errors.

    Bars are shown at once: how long work takes is a matter of the machine.
    """
    code = "import sys; from dao_polars import _progress; _progress.SHOWN_AFTER = 0\n"
    code += "from dao_polars.cli.main import main; sys.exit(main())"
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=far, env=environment())
    os.close(far)
    seen = b""
    try:
        while data := os.read(near, 4096):
            seen += data
    except OSError:  # the other end is closed
        pass
    os.close(near)
    return process.wait(LIMIT), seen.decode()


def test_progress_is_shown_on_a_terminal_alone(tmp_path):
    file = tmp_path / "big.h5ad"
    study(0, 50, ["x", "y"]).write_h5ad(file)
    code, seen = in_a_terminal("write", tmp_path / "s", file)
    assert code == 0
    assert "writing 'big'" in seen
    for option in ("--quiet", "--json"):
        assert in_a_terminal("write", tmp_path / "s", file, "--mode=replace", option) == (0, "")
    assert run("write", tmp_path / "s", file, "--mode=replace").stderr == ""


def test_advice_is_in_the_words_of_the_command_line(tmp_path):
    adata = study(0, 5, ["x", "y"])
    adata.layers["l"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    ran = run("write", tmp_path / "s", tmp_path / "a.h5ad")
    assert "not kept: layers 'l' (--all-layers keeps them)" in ran.stderr
    other = study(1, 5, ["y", "z"])
    other.write_h5ad(tmp_path / "b.h5ad")
    words = ("write", tmp_path / "s", tmp_path / "b.h5ad", "--dataset", "a", "--mode", "append")
    assert "say --genes-of 'a'" in failure(*words)
    assert run(*words, "--genes-of", "a").returncode == 0
    assert "`dao-polars ls` lists them all" in failure("remove", tmp_path / "s", "zz")
    assert "with `dao-polars write`" in failure("remove", SFAIRA, "human_blood_2021_10x_hao_001")
    a, b = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    message = failure("write", a, b, tmp_path / "s")
    assert f"store '{a}' is a file" in message
    assert "`dao-polars write STORE SOURCE`: the store comes first" in message
    assert f"`dao-polars write atlas '{a}'`" in failure("ls", a)
    assert "`dao-polars copy SOURCE TARGET`" in failure("write", tmp_path / "t", tmp_path / "s")
    assert as_typed("nothing of ours") == "nothing of ours"
