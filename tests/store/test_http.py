"""A store behind a plain web server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dao_polars as dao
from tests.conftest import study
from tests.storefab import Study, make_store, part_path, plain_cells
from tests.webserver import serving

OPTIONS = {"allow_http": "true"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a folder, and the paths asked for so far."""
    with serving(tmp_path) as server:
        yield server.url, server.asked


def test_a_store_behind_a_web_server(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    url, asked = served
    obs = pl.DataFrame({"kind": ["a", "b", None], "n": [1, 2, 3]})
    path = make_store(tmp_path / "s", {"x": Study(obs), "y": Study(obs), "z": Study(obs)})
    store = dao.load_store(f"{url}/s/", storage_options=OPTIONS)
    assert store.uri == f"{url}/s"
    version = "/s/versions/0000000001.json"
    opening = ["/s/versions/latest", version, "/s/versions/0000000002.json"]
    assert asked[0] == opening[0]
    assert sorted(asked) == sorted(opening)  # the others at once
    found = store.scan().filter(pl.col("dataset") == "y", pl.col("n") > 1).collect()
    assert found["n"].to_list() == [2, 3]
    assert set(asked[len(opening) :]) == {"/s/parts/y/obs.parquet"}
    whole = dao.scan(f"{url}/s", storage_options=OPTIONS).collect()
    assert plain_cells(whole).equals(plain_cells(dao.scan(path).collect()))
    assert whole.schema["cell"] != dao.scan(path).collect_schema()["cell"]
    assert store.var("x").height == 2
    (part_path(path, "z") / "obs.parquet").unlink()
    with pytest.raises(dao.DaoFileNotFoundError, match=r"dataset 'z'.*http"):
        dao.scan(f"{url}/s", storage_options=OPTIONS).collect()
    with pytest.raises(dao.DaoFileNotFoundError):
        dao.scan(f"{url}/nothing", storage_options=OPTIONS)


def test_a_table_behind_a_web_server_is_checked_once(
    tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    url, asked = served
    obs = pl.DataFrame({"kind": ["a", "b", None], "n": [1, 2, 3]})
    path = make_store(tmp_path / "s", {"x": Study(obs)})
    lf = dao.scan(f"{url}/s", storage_options=OPTIONS)

    def requests(query: pl.LazyFrame) -> int:
        before = len(asked)
        assert query.collect().height == 3
        return len(asked) - before

    counts = [requests(lf.select("n")) for _ in range(3)]
    assert counts[0] > counts[1] == counts[2]  # what was read is kept
    file = part_path(path, "x") / "obs.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)
    with pytest.raises(dao.DaoCorruptError, match=r"dataset 'x'.*http.*checksum mismatch"):
        dao.scan(f"{url}/s", storage_options=OPTIONS).collect()


@pytest.mark.parametrize("gene_index", [False, True])
def test_genes_and_aggregates_over_the_web(tmp_path, served, gene_index) -> None:
    url, asked = served
    adata = study(3, 3000, [f"g{i}" for i in range(9)])
    near = dao.write_dataset(
        tmp_path / "s", adata, dataset="d", gene_index=gene_index, progress=False
    )
    far = dao.scan(f"{url}/s", storage_options=OPTIONS)
    for lf, wanted in [
        (far, near.scan()),
        (far.filter(cell_type="B"), near.scan().filter(cell_type="B")),
    ]:
        asks = [dao.gene("g4"), dao.qc()]
        for engine in ("in-memory", "streaming"):
            assert lf.select(asks).collect(engine=engine).equals(wanted.select(asks).collect())
        # Cells come in another order, so that variances may be rounded otherwise.
        assert_frame_equal(lf.dao.gene_stats("cell_type"), wanted.dao.gene_stats("cell_type"))
    assert any(re.search("/gene_index-[^/]+/zarr/", path) for path in asked) == gene_index
    store = dao.load_store(f"{url}/s", storage_options=OPTIONS)
    if gene_index:
        assert store.add_gene_index(progress=False) == []
    else:
        with pytest.raises(dao.DaoValueError, match="cannot write to 'http"):
            store.add_gene_index(progress=False)
