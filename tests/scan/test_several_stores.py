"""Several stores as one: the frame is what each gives alone, one after the other."""

from __future__ import annotations

import pickle
import shutil
import string
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dao_polars as dao
from dao_polars.scan.cell import Cell, CellStore, cell_type
from tests.conftest import SFAIRA
from tests.several import SHIFT, of_each, plain, write_pair
from tests.storefab import Study, make_store
from tests.webserver import serving

C = pl.col


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pair(tmp_path_factory.mktemp("pair"))


# --- the frame


def test_the_frame_is_that_of_each_store_after_the_other(pair: tuple[str, str]) -> None:
    both = dao.scan(pair)
    assert both.collect_schema().names()[:4] == ["cell", "dataset", "store", "obs_name"]
    assert both.collect_schema()["store"] == pl.Enum(pair)
    assert both.collect_schema() == both.collect().schema
    assert plain(both).equals(of_each(*pair))
    turned = dao.scan(pair[::-1])
    assert plain(turned).equals(of_each(*pair[::-1]))
    assert "version" in both.explain()
    assert pair[0] in both.explain()
    assert pair[1] in both.explain()


@pytest.mark.parametrize(
    "condition",
    [
        C("dataset") == "pbmc_human",
        C("dataset") == "heart_human",
        C("dataset").cast(pl.String).str.ends_with("human") & (C("cell_type") != "beta"),
        C("cell_type").is_null(),
        C("lane").is_not_null(),
        C("organism") == "Mus musculus",
        C("obs_name").str.contains("A"),
        (C("dataset") == "pbmc_human") | (C("donor") == "mouse1"),
        pl.lit(False),
    ],
)
def test_queries_of_both(pair: tuple[str, str], condition: pl.Expr) -> None:
    expected = of_each(*pair).filter(condition)
    found = dao.scan(pair).filter(condition)
    assert plain(found).equals(expected)
    assert plain(found.select("cell")).equals(expected.select("cell"))
    assert plain(found.tail(7)).equals(expected.tail(7))


def test_queries_by_key(pair: tuple[str, str]) -> None:
    for condition in (lambda key: key % 3 == 1, lambda key: key >= SHIFT, lambda key: key < 7):
        found = dao.scan(pair).filter(condition(C("cell").ext.storage()))
        assert plain(found).equals(of_each(*pair).filter(condition(C("cell"))))


def test_some_rows_and_columns(pair: tuple[str, str]) -> None:
    both, expected = dao.scan(pair), of_each(*pair)
    n = expected.height
    for start, length in ((0, 5), (890, 40), (n - 3, 9), (n, 1)):
        found = both.slice(start, length)
        assert plain(found).equals(expected.slice(start, length))
    assert plain(both.head(950).filter(C("store") == pair[1])).equals(
        expected.head(950).filter(C("store") == pair[1])
    )
    assert both.select(pl.len()).collect().item() == n
    assert both.with_row_index().select("index").collect()["index"].to_list() == [*range(n)]
    distinct = both.select("store", "dataset").unique().collect()
    assert set(distinct.rows()) == set(expected.select("store", "dataset").rows())
    counted = both.group_by("store", "dataset").len().sort("store", "dataset").collect()
    assert counted["len"].to_list() == [400, 500, 200, 300, 344]


def test_a_query_of_one_store_reads_that_alone(pair: tuple[str, str], tmp_path: Path) -> None:
    uris = [str(shutil.copytree(uri, tmp_path / Path(uri).name)) for uri in pair]
    both = dao.scan(uris)
    for obs in Path(uris[0]).glob("parts/*/obs*.parquet"):
        obs.write_bytes(b"damaged")
    expected = of_each(uris[1]).with_columns(C("cell") + SHIFT)
    found = plain(both.filter(C("store") == uris[1]))
    assert found.select(expected.columns).equals(expected)
    with pytest.raises(dao.DaoCorruptError, match=r"dataset 'pbmc_human'.*first/parts"):
        both.filter(C("store") == uris[0]).collect()
    with pytest.raises(dao.DaoCorruptError, match=r"first/parts"):
        both.collect()


def test_one_store_in_a_list_is_that_store(pair: tuple[str, str]) -> None:
    assert dao.scan([pair[0]]).collect().equals(dao.scan(pair[0]).collect())
    assert dao.scan([pair[0]]).collect_schema() == dao.scan(Path(pair[0])).collect_schema()
    assert dao.load_store((Path(pair[1]),), version=2).version == 2
    assert dao.load_store(iter([pair[1]]), version=[2]).version == 2


def test_concat_of_two_scans_is_the_error_of_polars(pair: tuple[str, str]) -> None:
    with pytest.raises(pl.exceptions.PolarsError, match=r"dao\.cell"):
        pl.concat([dao.scan(uri).select("cell") for uri in pair]).collect()
    help_text = " ".join((Cell.__doc__ or "").split())
    assert "dao.scan([uri, uri])" in help_text
    assert "dao.scan([uri, uri])" in " ".join((dao.scan.__doc__ or "").split())


TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", *string.ascii_uppercase[:3]]))
COLUMNS = {
    "kind": (pl.String, TEXTS),
    "n": (pl.Int64, st.one_of(st.none(), st.integers(-9, 9))),
    "x": (pl.Float64, st.floats(-1, 1)),
    "store": (pl.String, TEXTS),
    "is_it": (pl.Boolean, st.booleans()),
}


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Study]:
    found = {}
    for name in draw(st.lists(st.sampled_from(["p", "q", "r"]), max_size=3, unique=True)):
        n = draw(st.integers(0, 9))
        names = draw(st.lists(st.sampled_from(list(COLUMNS)), unique=True))
        columns = [
            pl.Series(c, draw(st.lists(COLUMNS[c][1], min_size=n, max_size=n)), COLUMNS[c][0])
            for c in names
        ]
        obs = pl.DataFrame(columns) if columns else pl.DataFrame({"n": [0] * n})
        wide = draw(st.dictionaries(st.sampled_from(["organism", "store"]), st.sampled_from("uv")))
        found[name] = Study(obs, wide)
    return found


@given(st.lists(studies(), min_size=1, max_size=4), st.data())
def test_random_stores(
    tmp_path_factory: pytest.TempPathFactory, stores: list[dict[str, Study]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("random")
    uris = [str(make_store(folder / str(i), s, f"id-{i}")) for i, s in enumerate(stores)]
    own = [dao.scan(uri).collect_schema().names() for uri in uris]
    frames = []
    for place, uri in enumerate(uris):
        alone = plain(dao.scan(uri)).with_columns(C("cell") + place * SHIFT)
        if len(uris) > 1:
            new = {"store": "obs_store"} if "store" in own[place] else {}
            alone = alone.rename(new).with_columns(store=pl.lit(uri))
        frames.append(alone)
    expected = pl.concat(frames, how="diagonal_relaxed")
    expected = expected.select(sorted(expected.columns))
    both = dao.scan(uris)
    assert plain(both).equals(expected)
    conditions = [
        C(name).cast(pl.String) == data.draw(st.sampled_from(["a", "p", "q", "u", uris[-1]]))
        for name in ("kind", "dataset", "store", "obs_store", "organism")
        if name in expected.columns
    ]
    condition = data.draw(st.sampled_from(conditions))
    assert plain(both.filter(condition)).equals(expected.filter(condition))
    n = data.draw(st.integers(0, 12))
    assert plain(both.head(n).filter(~condition)).equals(expected.head(n).filter(~condition))
    columns = data.draw(st.lists(st.sampled_from(expected.columns), unique=True, min_size=1))
    assert plain(both.select(columns)).equals(expected.select(sorted(columns)))


# --- what the keys say


def test_keys_name_all_stores_in_their_order(pair: tuple[str, str], tmp_path: Path) -> None:
    both = dao.load_store(pair)
    cell = cell_type(both.schema)
    a, b = (dao.load_store(uri) for uri in pair)
    assert cell.stores == (CellStore(a.uri, a.id), CellStore(b.uri, b.id))
    assert (cell.uri, cell.id, cell.version) == (both.uri, both.id, None)
    assert cell == cell_type(dao.scan(pair).collect_schema())
    assert cell != cell_type(dao.scan(pair[::-1]).collect_schema())
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert repr(cell) == f"Cell({cell.ext_metadata()})"
    first, second = (f'{{"id": "{store.id}", "uri": "{store.uri}"}}' for store in (a, b))
    assert cell.ext_metadata() == f'{{"stores": [{first}, {second}]}}'
    dao.scan(pair).select("cell").collect().write_parquet(tmp_path / "cells.parquet")
    again = pl.read_parquet(tmp_path / "cells.parquet")
    assert cell_type(again.schema) == cell
    assert again.join(dao.scan(pair).collect(), on="cell").height == both.n_obs
    pinned = cell_type(dao.scan(pair, version=[None, 2]).collect_schema())
    assert [store.version for store in pinned.stores] == [None, 2]
    assert Cell.of([CellStore("/a", "1", 3)]) == Cell("/a", "1", 3)
    for metadata in ('{"stores": []}', '{"stores": [{"uri": "a"}]}', '{"stores": 3}', "[]"):
        with pytest.raises(dao.DaoCorruptError, match="'stores' with these"):
            Cell.ext_from_params("dao.cell", pl.UInt64(), metadata).stores  # noqa: B018


def test_versions_are_asked_for_one_by_one(pair: tuple[str, str]) -> None:
    both = dao.load_store(pair, version=[1, 4])
    assert [store.version for store in both.stores] == [1, 4]
    assert both.version is None
    assert both.datasets["id"].to_list() == [
        "pbmc_human",
        "heart_human",
        "pbmc_human",
        "pancreas_mouse",
    ]
    assert both.n_obs == 500 + 200 + 350 + 300
    with pytest.raises(dao.DaoTypeError, match="version=3 for 2 stores; expected a list"):
        dao.scan(pair, version=3)
    with pytest.raises(dao.DaoTypeError, match="version='12' for 2 stores"):
        dao.scan(pair, version="12")  # type: ignore[arg-type]
    with pytest.raises(dao.DaoValueError, match="version= has 3 for 2 stores"):
        dao.scan(pair, version=[1, 2, 3])
    with pytest.raises(dao.DaoValueError, match="no version 77"):
        dao.scan(pair, version=[None, 77])
    with pytest.raises(dao.DaoTypeError, match=r"version=\[1\]"):
        dao.scan(pair[0], version=[1])


# --- the store


def test_what_the_store_says(pair: tuple[str, str]) -> None:
    both = dao.load_store(pair)
    a, b = both.stores
    assert (a.uri, b.uri) == pair
    assert a.stores == (a,)
    assert both.uri == f"{pair[0]} + {pair[1]}"
    assert both.id == f"{a.id} + {b.id}"
    assert both.n_obs == a.n_obs + b.n_obs == 1744
    table = both.datasets
    assert table.columns[:2] == ["id", "store"]
    assert table.height == 5
    assert table["store"].dtype == pl.Enum(pair)
    alone = pl.concat([a.datasets, b.datasets])
    assert table.drop("store").equals(alone)
    assert both.verify().is_empty()
    assert both.verify().columns == [
        "dataset",
        "store",
        "path",
        "problem",
    ]
    assert both.has_gene_index() is False
    copy = pickle.loads(pickle.dumps(both))
    assert [s.version for s in copy.stores] == [s.version for s in both.stores]
    assert copy.scan().collect().equals(both.scan().collect())


def test_datasets_of_one_name_are_two(pair: tuple[str, str]) -> None:
    both = dao.load_store(pair)
    a, b = both.stores
    with pytest.raises(dao.DaoValueError, match=r"is in 2 of the stores.*first/pbmc_human"):
        both.var("pbmc_human")
    with pytest.raises(dao.DaoValueError, match="is in 2 of the stores"):
        both.uns("pbmc_human")
    for store in (a, b):
        address = f"{store.uri}/pbmc_human"
        assert both.var(address).equals(store.var("pbmc_human"))
        assert both.uns(address) == store.uns("pbmc_human")
    assert both.uns(f"{b.uri}/pbmc_human")["citation"] == "another"
    assert both.var("heart_human").equals(b.var("heart_human"))
    with pytest.raises(dao.DaoKeyError, match=r"no dataset 'pbmc'.*nearest"):
        both.var("pbmc")
    with pytest.raises(dao.DaoValueError, match="4 feature spaces"):
        both.var()
    pbmc = dao.load_store(pair, version=[1, None])
    with pytest.raises(dao.DaoValueError, match="feature spaces"):
        pbmc.var()


def test_how_it_shows_itself(pair: tuple[str, str]) -> None:
    both = dao.load_store(pair)
    text, html = repr(both), both._repr_html_()
    for shown in (text, html):
        assert "2 stores as one" in shown
        assert "5 datasets, 1,744 cells" in shown
        assert pair[0] in shown
        assert pair[1] in shown
        assert shown.count("pbmc_human") == 2
        assert shown.count("obs: " if shown is text else "<b>obs</b>") == 1
        assert "store (2 categories)" not in shown


def test_what_changes_a_store_says_to_open_it_alone(pair: tuple[str, str], tmp_path: Path) -> None:
    both = dao.load_store(pair)
    cells = both.scan().select("cell")
    for change in (
        lambda: both.versions(),
        lambda: both.vacuum(),
        lambda: both.restore(1),
        lambda: both.add_gene_index(),
        lambda: both.edit("x"),
        lambda: both.remove_dataset("heart_human"),
        lambda: both.rename_dataset("heart_human", "heart"),
        lambda: both.drop_obs("donor"),
        lambda: both.update_obs(cells.with_columns(x=1)),
        lambda: both.remove_cells(cells.head(1)),
    ):
        with pytest.raises(dao.DaoValueError, match=r"2 stores that were opened as one.*[Aa]lone"):
            change()
    with pytest.raises(dao.DaoValueError, match=r"2 stores that were.*copied.*alone"):
        dao.copy(pair, tmp_path / "copy")  # type: ignore[arg-type]
    with pytest.raises(dao.DaoValueError, match="expected one store, found a list of 2"):
        cells.dao.write_dataset(list(pair), dataset="x")  # type: ignore[arg-type]


def test_what_is_no_list_of_stores(pair: tuple[str, str], tmp_path: Path) -> None:
    a, b = pair
    with pytest.raises(dao.DaoValueError, match="expected one store or more"):
        dao.scan([])
    with pytest.raises(dao.DaoTypeError, match="found a list in it; write the stores in one flat"):
        dao.scan([a, [b]])  # type: ignore[list-item]
    with pytest.raises(dao.DaoTypeError, match="found a int in it"):
        dao.scan([a, 3])  # type: ignore[list-item]
    with pytest.raises(dao.DaoTypeError, match="an order"):
        dao.scan({a, b})
    with pytest.raises(dao.DaoTypeError, match="found dict"):
        dao.scan({a: 1})
    with pytest.raises(dao.DaoTypeError, match="found bytes"):
        dao.scan(a.encode())  # type: ignore[arg-type]
    with pytest.raises(dao.DaoValueError, match="is there twice"):
        dao.scan([a, b, f"{a}/"])
    copied = str(shutil.copytree(a, tmp_path / "copied"))
    with pytest.raises(dao.DaoValueError, match=r"are one store: both have id.*[Dd]ao\.copy"):
        dao.scan([a, copied])
    with pytest.raises(dao.DaoFileNotFoundError, match="nowhere"):
        dao.scan([a, str(tmp_path / "nowhere")])
    other = dao.copy(a, tmp_path / "other", progress=False)
    assert dao.load_store([a, other.uri]).n_obs == 2 * other.n_obs


def test_stores_of_sfaira_and_of_ours(pair: tuple[str, str]) -> None:
    uris = (str(SFAIRA), pair[1])
    both = dao.load_store(uris)
    alone = dao.load_store(SFAIRA)
    assert both.n_obs == alone.n_obs + dao.load_store(pair[1]).n_obs
    assert plain(both.scan()).equals(of_each(alone.uri, pair[1]))
    assert plain(dao.scan(uris[::-1])).equals(of_each(pair[1], alone.uri))
    for name in alone.datasets["id"]:
        assert both.var(name).equals(alone.var(name))
        assert both.uns(name).keys() == alone.uns(name).keys()
    assert both.datasets["organism"].to_list() == [
        *alone.datasets["organism"],
        *dao.load_store(pair[1]).datasets["organism"],
    ]
    assert [store.version for store in both.stores] == [None, 5]


def test_stores_here_and_behind_a_server(pair: tuple[str, str]) -> None:
    with serving(Path(pair[1]).parent, "second") as server:
        uris = (pair[0], server.url)
        options = {"timeout": "30 s"}  # of the one that has a use for it
        both = dao.scan(uris, storage_options=options)
        expected = of_each(*pair).with_columns(C("store").replace({pair[1]: uris[1]}))
        assert plain(both).equals(expected)
        found = both.filter(C("dataset") == "pbmc_human").select("cell", dao.gene("B2M")).collect()
        local = dao.scan(pair).filter(C("dataset") == "pbmc_human").select(dao.gene("B2M"))
        assert found["B2M"].equals(local.collect()["B2M"])
        x, _ = next(iter(found.dao.iter_batches(10_000, genes=["B2M"], layout="dense")))
        assert x[:, 0].tolist() == found["B2M"].to_list()


def test_a_store_that_numbers_too_many_parts_is_refused(tmp_path: Path) -> None:
    study = Study(pl.DataFrame({"x": [1, 2]}))
    a = make_store(tmp_path / "a", {"p": study}, "a")
    for number, is_read in ((2**24 - 1, True), (2**24, False)):
        study = Study(pl.DataFrame({"x": [1, 2]}), number=number)
        uri = make_store(tmp_path / str(number), {"p": study}, str(number))
        assert dao.scan(uri).collect().height == 2
        if is_read:
            keys = plain(dao.scan([uri, a]))["cell"].to_list()
            assert keys == [number << 32, (number << 32) + 1, SHIFT, SHIFT + 1]
        else:
            with pytest.raises(dao.DaoValueError, match=r"2\^24 parts"):
                dao.scan([a, uri])


def test_as_many_stores_as_keys_can_tell_apart(tmp_path: Path) -> None:
    study = {"p": Study(pl.DataFrame({"x": [1]}))}
    uris = [make_store(tmp_path / str(i), study, str(i)) for i in range(257)]
    frame = dao.scan(uris[:256]).collect()
    keys = plain(frame)["cell"]
    assert keys.to_list() == [place * SHIFT for place in range(256)]
    assert frame["store"].to_list() == list(map(str, uris[:256]))
    with pytest.raises(dao.DaoValueError, match="at most 256, found 257"):
        dao.scan(uris)
