"""What goes wrong in the plugin comes back as polars' errors, and the process lives."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_errors_come_back_and_the_process_lives(mixed, engine):
    code = f"""
        import polars as pl
        import dao_polars as dao
        from polars.plugins import register_plugin_function
        from dao_polars.expression.expressions import _PLUGIN

        store = dao.load_store({mixed[0].uri!r})
        lf = store.scan()

        def fails(frame, message):
            try:
                frame.collect(engine={engine!r})
            except pl.exceptions.ComputeError as error:
                assert message in str(error), error
            else:
                raise AssertionError(message)

        def raw(expr, **kwargs):
            return register_plugin_function(
                plugin_path=_PLUGIN, function_name="dao_lookup", args=[expr], kwargs=kwargs,
                is_elementwise=True,
            )

        cell = pl.col("cell")
        fails(lf.select(dao.gene("no such gene")), "unknown gene 'no such gene'")
        for wrong in (pl.col("dataset"), cell.ext.storage(), pl.struct("cell"), pl.lit(None),
                      pl.col("cell").implode(), pl.lit(1.5)):
            fails(lf.select(wrong.dao.gene("g7")), "should hold cell keys")
        fails(lf.select(raw(cell, nonsense=1)), "arguments cannot be read")
        fails(lf.select(raw(cell, shape="round", duplicates="error")), "arguments cannot be read")
        fails(lf.select(raw(cell, shape="one", names=["g7"], duplicates="odd")), "duplicates='odd'")
        fails(lf.select(raw(cell, shape="one", names=["g7"], duplicates="error", dtype="text")),
              "not a number type")
        keys = pl.DataFrame({{"cell": pl.Series([99 << 32], dtype=pl.UInt64)}})
        keys = keys.select(cell.ext.to(lf.collect_schema()["cell"])).lazy()
        fails(keys.select(dao.gene("g7")), "part number 99")
        assert lf.select(dao.gene("g7")).collect(engine={engine!r}).height == store.n_obs
        print("alive")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "alive", done.stderr
    assert done.returncode == 0
