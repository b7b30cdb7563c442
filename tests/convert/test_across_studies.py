"""to_anndata across studies: every study's own dtypes come back, and the result can be written."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp

import dao_polars as dao
from dao_polars.errors import DaoTypeError
from tests import conftest
from tests.legacy.test_legacy import counts, write_sfaira

C = pl.col
N = 6


def study(n_obs: int = N, genes: str = "ABCD", var: object = None, **obs: object) -> ad.AnnData:
    rng = np.random.default_rng(len(genes))
    x = sp.csr_matrix(rng.poisson(1.0, (n_obs, len(genes))).astype("float32"))
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n_obs)])
    return ad.AnnData(x, obs=frame, var=pd.DataFrame(var or {}, index=list(genes)))


def category(values: list[object], **options: object) -> pd.Categorical:
    return pd.Categorical(values, **options)


BOOLS = [True, False, True, True, False, False]
TEXTS = {
    "category": category([str(v) for v in BOOLS]),
    "missing": category(["True", None, "False", None, "True", "True"]),
    "unused": category(["True"] * N, categories=["True", "False", "unknown"]),
    "ordered": category([str(v) for v in BOOLS], categories=["True", "False"], ordered=True),
    "lower": category([str(v).lower() for v in BOOLS]),
    "object": np.array([str(v) for v in BOOLS], dtype=object),
    "upper": np.array([str(v).upper() for v in BOOLS], dtype=object),
    "string": pd.array([str(v) for v in BOOLS], dtype="string"),
}
TRUTHS = {
    "bool": np.array(BOOLS),
    "boolean": pd.array([True, None, False, True, None, True], dtype="boolean"),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("truth", TRUTHS)
def test_bools_and_their_text_come_back_as_they_were(text: str, truth: str, tmp_path: Path) -> None:
    studies = {"a": study(flag=TRUTHS[truth]), "b": study(flag=TEXTS[text]), "c": study()}
    for name, adata in studies.items():
        dao.write_dataset(tmp_path, adata, dataset=name)
    lf = dao.scan(tmp_path)
    assert lf.collect_schema()["flag"] == pl.Boolean
    for name in ("a", "b"):
        found = lf.filter(C("dataset") == name).dao.to_anndata().obs
        pd.testing.assert_series_equal(found["flag"], studies[name].obs["flag"])
    expected = [
        None if pd.isna(v) else str(v).lower() == "true"
        for name in ("a", "b")
        for v in studies[name].obs["flag"].astype(object)
    ]
    assert lf.filter(C("dataset") != "c").collect()["flag"].to_list() == expected
    both = lf.filter(C("flag")).dao.to_anndata()
    assert both.n_obs == expected.count(True)
    assert both.obs["flag"].astype(bool).all()
    part = lf.filter(C("dataset") == "b", C("flag")).dao.to_anndata().obs["flag"]
    assert {str(v).lower() for v in part} == {"true"}
    assert part.dtype.name == studies["b"].obs["flag"].dtype.name


def test_bools_among_other_text(tmp_path: Path) -> None:
    studies = {"a": study(flag=BOOLS), "b": study(flag=category(["True", "no"] * 3))}
    for name, adata in studies.items():
        dao.write_dataset(tmp_path, adata, dataset=name)
    lf = dao.scan(tmp_path)
    assert lf.collect_schema()["flag"] == pl.String
    assert lf.filter(C("flag") == "True").select(pl.len()).collect().item() == 6
    for name, adata in studies.items():
        found = lf.filter(C("dataset") == name).dao.to_anndata().obs
        pd.testing.assert_series_equal(found["flag"], adata.obs["flag"])


def test_two_spellings_in_one_study_stay_text(tmp_path: Path) -> None:
    dao.write_dataset(tmp_path, study(flag=BOOLS), dataset="a")
    mixed = study(flag=category(["True", "true", "False", "FALSE", "True", "true"]))
    dao.write_dataset(tmp_path, mixed, dataset="b")
    lf = dao.scan(tmp_path)
    assert lf.collect_schema()["flag"] == pl.String
    found = lf.filter(C("dataset") == "b").dao.to_anndata().obs["flag"]
    pd.testing.assert_series_equal(found, mixed.obs["flag"])


def test_bools_and_their_text_in_sfairas_stores(tmp_path: Path) -> None:
    index = [f"c{i}" for i in range(N)]
    flags = {"a": np.array(BOOLS), "b": TEXTS["category"], "c": TEXTS["object"]}
    for name, flag in flags.items():
        obs = pd.DataFrame({"flag": flag}, index=index)
        write_sfaira(tmp_path, name, counts(N, 3), obs)
    lf = dao.scan(tmp_path)
    assert lf.collect_schema()["flag"] == pl.Boolean
    assert lf.filter(C("flag")).select(pl.len()).collect().item() == 9
    assert lf.filter(C("dataset") == "a").dao.to_anndata().obs["flag"].dtype == bool
    for name in ("b", "c"):
        found = lf.filter(C("dataset") == name).dao.to_anndata().obs["flag"]
        assert found.dtype == "category"
        assert found.to_list() == [str(v) for v in BOOLS]


# --- columns that are nearly unique


def barcodes(n: int) -> np.ndarray:
    return np.array([f"bc{i % n:05d}" for i in range(2_004)], dtype=object)


@pytest.mark.parametrize(
    ("n", "is_category"), [(1_000, True), (1_002, True), (1_003, False), (2_004, False)]
)
@pytest.mark.parametrize("kind", ["object", "category"])
def test_a_value_a_cell_is_text(n: int, is_category: bool, kind: str, tmp_path: Path) -> None:
    values = barcodes(n) if kind == "object" else pd.Categorical(barcodes(n))
    adata = study(2_004, barcode=values)
    store = dao.write_dataset(tmp_path, adata, dataset="a")
    assert isinstance(store.schema["barcode"], pl.Enum if is_category else pl.String)
    assert (
        store.scan().filter(C("barcode") == "bc00999").collect().height
        == (2_004 - 999 + n - 1) // n
    )
    pd.testing.assert_series_equal(
        store.scan().dao.to_anndata().obs["barcode"], adata.obs["barcode"]
    )
    store = dao.write_dataset(tmp_path, study(barcode=["x"] * N), dataset="b")
    assert isinstance(store.schema["barcode"], pl.Enum if is_category else pl.String)


def test_few_cells_have_categories_whatever_they_hold(tmp_path: Path) -> None:
    store = dao.write_dataset(tmp_path, study(90, barcode=barcodes(2_004)[:90]), dataset="a")
    assert isinstance(store.schema["barcode"], pl.Enum)


def test_a_value_a_cell_is_text_in_sfairas_stores(tmp_path: Path) -> None:
    obs = pd.DataFrame({"barcode": barcodes(2_004), "few": ["x"] * 2_004})
    obs.index = obs.index.astype(str)
    write_sfaira(tmp_path, "a", counts(2_004, 2), obs)
    schema = dao.scan(tmp_path).collect_schema()
    assert schema["barcode"] == pl.String
    assert schema["few"] == pl.Enum(["x"])


# --- var across studies


@pytest.mark.parametrize(
    "genes", ["union", "intersection", ["E", "B", "C"], ["D", "E"], ["A"], ["E"]]
)
def test_var_can_be_written(genes: object, tmp_path: Path) -> None:
    vars_ = {
        "a": ("ABCD", {"text": list("wxyz"), "only_a": ["p", None, None, None], "n": [1, 2, 3, 4]}),
        "b": ("BCDE", {"text": list("stuv"), "only_b": [None, None, None, "q"], "mt": [True] * 4}),
        "c": ("EBCF", {"cat": category(["k", "l", "k", None]), "n": [0.5, 1.5, 2.5, 3.5]}),
    }
    for name, (names, var) in vars_.items():
        dao.write_dataset(tmp_path / "s", study(genes=names, var=var), dataset=name)
    if isinstance(genes, list):
        selections = [["a", "b", "c"], ["a", "b"], ["b", "c"], ["a"]]
    else:
        selections = [["a", "b", "c"], ["a", "c"]]
    for names in selections:
        out = dao.scan(tmp_path / "s").filter(C("dataset").is_in(names)).dao.to_anndata(genes=genes)
        for column in out.var:
            assert out.var[column].notna().any()
        for kind in ("h5ad", "zarr"):
            path = tmp_path / f"{'-'.join(names)}.{kind}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                getattr(out.copy(), f"write_{kind}")(path)
                back = getattr(ad, f"read_{kind}")(path)
            assert list(back.var_names) == list(out.var_names)
            for column in out.var:
                found, expected = back.var[column].to_list(), out.var[column].to_list()
                assert [None if pd.isna(v) else v for v in found] == [
                    None if pd.isna(v) else v for v in expected
                ]
            np.testing.assert_array_equal(back.X.toarray(), out.X.toarray())


def test_true_means_what_all_selected_datasets_have_in_common(tmp_path: Path) -> None:
    matrices = {"a": (["x", "y"], {"p": 2, "q": 3}), "b": (["z", "y"], {"q": 4, "p": 2, "r": 1})}
    studies = {}
    for seed, (name, (layers, obsm)) in enumerate(matrices.items()):
        adata = studies[name] = conftest.study(seed, 20 + seed, ["g1", "g2"])
        for factor, layer in enumerate(layers):
            adata.layers[layer] = adata.X * (factor + 2)
        for key, width in obsm.items():
            adata.obsm[key] = np.full((adata.n_obs, width), seed, "float32")
        dao.write_dataset(tmp_path, adata, dataset=name, layers=True, progress=False)
    lf = dao.scan(tmp_path)
    expected = np.vstack([adata.layers["y"].toarray() for adata in studies.values()])
    for wanted in (True, None):
        both = lf.dao.to_anndata(layers=wanted, obsm=wanted)
        assert (list(both.layers), list(both.obsm)) == (["y"], ["p"])
        assert (both.layers["y"].toarray() == expected).all()
    batch = next(iter(lf.dao.iter_batches(layers=True, obsm=True)))
    assert (list(batch.layers), list(batch.obsm)) == (["y"], ["p"])
    assert (batch.layers["y"].toarray() == expected).all()
    one = lf.filter(pl.col("dataset") == "b").dao.to_anndata(layers=True, obsm=True)
    assert (sorted(one.layers), sorted(one.obsm)) == (["y", "z"], ["p", "q", "r"])
    for call in (lf.dao.to_anndata, lf.dao.iter_batches):
        for setting in ("layers", "obsm"):
            for wrong in (False, 3, [True], [1]):
                with pytest.raises(DaoTypeError, match=f"{setting}=.*expected names"):
                    call(**{setting: wrong})
