"""Expressions say what they are; fields of qc get another name; filters by terms are looked at."""

from __future__ import annotations

import pickle
import warnings

import polars as pl
import pytest

import dao_polars as dao
from tests.conftest import study


@pytest.mark.parametrize(
    ("expr", "shown"),
    [
        (dao.gene("INS"), "dao.gene('INS')"),
        (
            dao.gene("INS", layer="raw", normalize="cp10k"),
            "dao.gene('INS', layer='raw', normalize='cp10k')",
        ),
        (dao.gene("INS", dtype="uint16"), "dao.gene('INS', dtype='uint16')"),
        (dao.genes(["a", "b"], as_array=True), "dao.genes(['a', 'b'], as_array=True)"),
        (
            dao.genes([f"g{i}" for i in range(2000)]),
            "dao.genes(['g0', 'g1', 'g2', 'g3', 'g4', … 1,995 more])",
        ),
        (dao.qc(), "dao.qc()"),
        (dao.qc({"mt": "^MT-"}, prefix="q_"), "dao.qc({'mt': '^MT-'}, prefix='q_')"),
        (pl.col("nearest").dao.gene("INS"), "col(\"nearest\").dao.gene('INS')"),
    ],
)
def test_an_expression_is_shown_as_it_is_written(expr, shown):
    assert str(expr) == shown
    assert repr(expr) == f"<Expr {shown}>"
    assert "_core" not in expr._repr_html_()
    assert "<code>" in expr._repr_html_()
    assert str(pickle.loads(pickle.dumps(expr))) == shown


def test_a_pickled_expression_reads_the_same(real_store):
    lf = real_store.scan().filter(pl.col("dataset") == "pancreas_human").head(50)
    gene = dao.gene("INS")
    again = pickle.loads(pickle.dumps(gene))
    assert lf.select(again).collect().equals(lf.select(gene).collect())
    assert lf.select(gene.alias("x") + 1).collect()["x"].sum() > 0


def test_fields_of_qc_do_not_collide(tmp_path):
    adata = study(1, 30, ["a", "MT-b", "c"])
    adata.obs["total_counts"] = -1.0
    lf = dao.write_dataset(tmp_path / "s", adata, dataset="s").scan()
    with pytest.raises(pl.exceptions.DuplicateError):
        lf.with_columns(dao.qc()).unnest("qc").collect()
    found = lf.with_columns(dao.qc({"mt": "^MT-"}, prefix="qc_")).unnest("qc").collect()
    plain = lf.select(dao.qc({"mt": "^MT-"})).unnest("qc").collect()
    assert found["total_counts"].unique().to_list() == [-1.0]
    for name in plain.columns:
        assert found[f"qc_{name}"].equals(plain[name])
    assert found["qc_total_counts"].to_list() == adata.X.sum(axis=1).A1.tolist()
    with pytest.raises(dao.DaoTypeError, match="prefix=1"):
        dao.qc(prefix=1)


def test_a_filter_by_terms_that_a_column_has_none_of(real_store):
    lf = real_store.scan()
    wrong = r"is_a\('T cell'\): column 'donor' holds no term of CL; columns that"
    with pytest.warns(UserWarning, match=f"{wrong} have some: 'cell_type', 'cell_onto"):
        assert lf.filter(pl.col("donor").dao.is_a("T cell")).collect().is_empty()
    mouse = pl.col("dataset") == "pancreas_mouse"
    with pytest.warns(UserWarning, match="column 'donor'"):
        assert lf.filter(mouse, pl.col("donor").dao.is_a("T cell")).collect().is_empty()
    right = pl.col("cell_type_ontology_term_id").dao.is_a("T cell")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lf.filter(right).collect()
        assert found.height == lf.filter(right | (pl.col("donor") == "no")).collect().height
        assert set(found["cell_ontology_class"].cast(pl.String)) == {"T cell"}
        lf.filter(pl.col("donor").cast(pl.String).is_in(["none"])).collect()  # a plain one
        kind = pl.col("cell_ontology_class").dao.is_a("hepatocyte")  # terms, but none of these
        assert lf.filter(kind).collect().is_empty()
