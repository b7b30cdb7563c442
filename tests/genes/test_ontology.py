"""Ontologies against their own publishers' closures, and conditions by them on real cells."""

from __future__ import annotations

import functools
import gzip
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import networkx as nx
import pandas as pd
import polars as pl
import pytest
from cellxgene_ontology_guide.ontology_parser import OntologyParser
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import dao_polars as dao
from dao_polars.genes import ontology as module
from dao_polars.genes.ontology import Ontology, is_a, load_ontology
from dao_polars.scan.plan import ScanPlan, make_plan
from tests.storefab import part_path

C = pl.col
ENGINES = ("streaming", "in-memory")
GUIDE = OntologyParser()


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_loaded", {})


def closure(term: str) -> set[str]:
    return set(GUIDE.get_term_descendants(term, include_self=True))


@functools.cache
def table(name: str) -> dict[str, dict]:
    return {i: t for i, t in GUIDE.cxg_schema.ontology(name).items() if not t["deprecated"]}


def words(ids: set[str]) -> set[str]:
    """Ids and labels: what a column may hold."""
    labels = {table(i.split(":")[0])[i]["label"] for i in ids}
    return (ids | labels) - {""}


# --- the published ontologies


@pytest.mark.parametrize(("name", "step"), [("CL", 7), ("UBERON", 500), ("EFO", 700)])
def test_closures_are_the_guides(name: str, step: int) -> None:
    ontology = load_ontology(name)
    terms = table(name)
    assert (ontology.name, len(ontology)) == (name, len(terms))
    assert ontology.version == GUIDE.cxg_schema.supported_ontologies[name]["version"]
    for term in sorted(terms)[::step]:
        assert ontology.descendants(term) == sorted(closure(term))
        above = GUIDE.get_term_ancestors(term, include_self=True)
        assert ontology.ancestors(term) == sorted(above)
        assert ontology.id(terms[term]["label"] or term) == term
        assert ontology.label(term) == (terms[term]["label"] or term)


def test_a_development_stage_is_part_of_a_longer_one() -> None:
    stages = load_ontology("HsapDv")
    for term in table("HsapDv"):
        assert stages.descendants(term) == sorted(closure(term))


def test_excluded_subtrees_are_taken_out() -> None:
    cells = load_ontology("CL")
    lymphocytes, t, b = closure("CL:0000542"), closure("CL:0000084"), closure("CL:0000236")
    assert t < lymphocytes
    assert cells.descendants("lymphocyte", excluded="T cell") == sorted(lymphocytes - t)
    both = cells.descendants("CL:0000542", excluded=["CL:0000084", "B cell"])
    assert both == sorted(lymphocytes - t - b)
    assert cells.descendants("T cell", excluded="cell") == []
    assert cells.descendants("T cell", excluded="hepatocyte") == sorted(t)


def test_terms_are_found_by_id_label_case_and_synonym() -> None:
    cells = load_ontology("CL")
    for term in ("CL:0000084", "T cell", "t CELL", "T-lymphocyte", "t lymphocyte"):
        assert cells.id(term) == "CL:0000084"
        assert cells.label(term) == "T cell"
    assert "CL:0000084" in cells
    assert "T cell" in cells
    for no_term in ("t CELL", "CL:0000003", "", None, 84, ["T cell"]):
        assert no_term not in cells


def test_an_ontology_tells_what_it_is_and_survives_pickle() -> None:
    cells = load_ontology("CL")
    assert repr(cells) == f"Ontology(CL {cells.version}, {len(table('CL')):,} terms)"
    again = pickle.loads(pickle.dumps(cells))
    assert again.descendants("neuron") == cells.descendants("neuron")
    with pytest.raises(AttributeError):
        cells.name = "other"  # type: ignore[misc]


# --- OBO files

OBO = r"""format-version: 1.2
data-version: releases/2024-02-30
ontology: zoo

[Term]
id: ZOO:0000
name: animal

[Term]
id: ZOO:0001
name: bird
synonym: "Feathered Friend" EXACT []
synonym: "flier" EXACT [PMID:1]
synonym: "biped" BROAD []
is_a: ZOO:0000 ! animal

[Term]
id: ZOO:0002
name: duck \{Anas\}
alt_id: ZOO:0902
synonym: "duck \"quack\"" EXACT []
is_a: ZOO:0001 {is_inferred="true"} ! bird
is_a: ZOO:0003 ! swimmer
relationship: part_of POND:0001 ! pond

[Term]
id: ZOO:0003
name: swimmer
synonym: "flier" EXACT []
is_a: ZOO:0000

[Term]
id: ZOO:0004
name: Swimmer
is_a: ZOO:0000 ! animal

[Term]
id: ZOO:0005
name: twin
is_a: ZOO:0000

[Term]
id: ZOO:0006
name: twin
is_a: ZOO:0000

[Term]
id: ZOO:0007
name: hen
is_a: ZOO:0008 ! egg
is_a: ZOO:0001

[Term]
id: ZOO:0008
name: egg
is_a: ZOO:0007 ! hen

[Term]
id: ZOO:0009
is_a: ZOO:0007

[Term]
id: ZOO:0010
name: eider
is_a: ZOO:0002
is_a: SEA:0001 ! seafarer

[Term]
id: ZOO:0900
name: obsolete dodo
alt_id: ZOO:0904
is_a: ZOO:0001 ! bird
is_obsolete: true
replaced_by: ZOO:0002

[Term]
id: ZOO:0901
name: obsolete unicorn
is_obsolete: true

[Term]
id: ZOO:0903
name: obsolete fowl
is_obsolete: true
consider: ZOO:0007
consider: ZOO:0002

[Typedef]
id: part_of
name: part of
is_transitive: true
"""


@pytest.fixture
def zoo_file(tmp_path: Path) -> Path:
    path = tmp_path / "zoo.obo"
    path.write_text(OBO)
    return path


@pytest.fixture
def zoo(zoo_file: Path) -> Ontology:
    return load_ontology(zoo_file)


def short(ids: list[str]) -> str:
    return " ".join(i.removeprefix("ZOO:00") for i in ids)


def test_an_obo_file(zoo: Ontology) -> None:
    assert repr(zoo) == "Ontology(ZOO releases/2024-02-30, 12 terms)"
    assert short(zoo.descendants("animal")) == "00 01 02 03 04 05 06 07 08 09 10"
    assert short(zoo.descendants("bird")) == "01 02 07 08 09 10"
    assert short(zoo.descendants("bird", excluded=["egg"])) == "01 02 10"
    assert short(zoo.descendants("swimmer")) == "02 03 10"
    assert zoo.descendants("SEA:0001") == ["SEA:0001", "ZOO:0010"]  # named, but not described
    assert "POND:0001" not in zoo
    assert short(zoo.ancestors("ZOO:0002")) == "00 01 02 03"
    for term in ("hen", "egg"):  # each a kind of the other
        assert short(zoo.descendants(term)) == "07 08 09"
        assert short(zoo.ancestors(term)) == "00 01 07 08"


def test_labels_and_synonyms_of_an_obo_file(zoo: Ontology) -> None:
    assert zoo.label("ZOO:0002") == "duck {Anas}"
    assert zoo.id('DUCK "Quack"') == "ZOO:0002"
    assert zoo.id("feathered friend") == "ZOO:0001"
    assert zoo.label("ZOO:0009") == "ZOO:0009"
    assert [zoo.id("swimmer"), zoo.id("Swimmer")] == ["ZOO:0003", "ZOO:0004"]
    for term in ("SWIMMER", "twin", "flier"):
        with pytest.raises(dao.DaoValueError, match=f"'{term}' is ambiguous in ZOO.*'ZOO:0.*'ZOO"):
            zoo.id(term)
    with pytest.raises(dao.DaoKeyError):
        zoo.id("biped")  # broader than a bird


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("ZOO:0900", r"\(obsolete dodo\) is obsolete.*use 'ZOO:0002' \(duck \{Anas\}\) instead"),
        ("obsolete dodo", r"'ZOO:0900' .*is obsolete.*use 'ZOO:0002'"),
        ("ZOO:0901", r"\(obsolete unicorn\) is obsolete.*no replacement is known"),
        ("ZOO:0902", r"'ZOO:0902' is obsolete.*use 'ZOO:0002'"),
        ("ZOO:0904", r"'ZOO:0904' is obsolete.*use 'ZOO:0002'"),
        ("ZOO:0903", r"use 'ZOO:0007' \(hen\) or 'ZOO:0002'"),
        ("anmial", r"'anmial' is no term of ZOO.*Nearest: 'ZOO:0000' \(animal\)"),
        ("SWIMER", r"Nearest: .*'ZOO:0003' \(swimmer\), 'ZOO:0004' \(Swimmer\)"),
        ("ZOO:00005", r"Nearest: .*'ZOO:0005' \(twin\)"),
        ("ZOO_0001", r"Nearest: .*'ZOO:0001' \(bird\)"),
        ("", "'' is no term of ZOO"),
    ],
)
def test_what_is_no_term(zoo: Ontology, term: str, message: str) -> None:
    for ask in (zoo.id, zoo.label, zoo.descendants, zoo.ancestors):
        with pytest.raises(dao.DaoKeyError, match=message):
            ask(term)
    with pytest.raises(dao.DaoKeyError, match=message):
        zoo.descendants("animal", excluded=term)


def test_wrong_types(zoo: Ontology) -> None:
    for wrong in (None, 7, ["bird"], b"bird"):
        for ask in (zoo.id, zoo.label, zoo.descendants, zoo.ancestors):
            with pytest.raises(dao.DaoTypeError, match="expected an id or a label"):
                ask(wrong)
    for wrong in (None, 7, ["bird", 7], b"bird"):
        with pytest.raises(dao.DaoTypeError, match="excluded= holds"):
            zoo.descendants("animal", excluded=wrong)
        with pytest.raises(dao.DaoTypeError, match="term= holds"):
            is_a(C("x"), wrong)
        with pytest.raises(dao.DaoTypeError, match="excluded= holds"):
            is_a(C("x"), "bird", excluded=wrong)
    for wrong in ("cell_type", None, pl.Series(["bird"])):
        with pytest.raises(dao.DaoTypeError, match="expected one, such as"):
            is_a(wrong, "bird")
    for wrong in (None, 7, ["CL"]):
        with pytest.raises(dao.DaoTypeError, match="expected a path, or a name"):
            load_ontology(wrong)
    with pytest.raises(dao.DaoTypeError, match="expected a path, or a name"):
        is_a(C("x"), "bird", ontology=7)
    with pytest.raises(dao.DaoTypeError, match="name=7"):
        load_ontology("CL", name=7)


def test_packed_files_and_texts_as_paths(zoo: Ontology, tmp_path: Path) -> None:
    packed = tmp_path / "packed.obo.gz"
    packed.write_bytes(gzip.compress(OBO.encode()))
    for source in (packed, str(packed), str(tmp_path / "zoo.obo")):
        assert load_ontology(source).descendants("bird") == zoo.descendants("bird")


def test_the_name_of_an_ontology(tmp_path: Path, zoo_file: Path) -> None:
    assert load_ontology(zoo_file, name="animals").name == "animals"
    assert load_ontology("CL", name="cells").name == "cells"
    few = "[Term]\nid: DUCK:1\nname: a\n\n[Term]\nid: POND:1\nis_a: POND:2\n"
    for head, name in {"duck/duck-basic": "DUCK", "pond": "POND", "x": "POND"}.items():
        zoo_file.write_text(f"ontology: {head}\n\n{few}")
        assert load_ontology(zoo_file).name == name
    plain = tmp_path / "plain.v2.obo"
    plain.write_text("ontology: x\n\n[Term]\nid: up\nname: Up\n\n[Term]\nid: down\nis_a: up\n")
    assert load_ontology(plain).name == "plain"
    assert load_ontology(plain).descendants("Up") == ["down", "up"]


def test_files_that_are_no_ontologies(tmp_path: Path) -> None:
    with pytest.raises(dao.DaoFileNotFoundError, match=r"none\.obo: no such file"):
        load_ontology(tmp_path / "none.obo")
    with pytest.raises(dao.DaoFileNotFoundError):
        load_ontology("./CL")
    packed = gzip.compress(OBO.encode())
    for name, content in {
        "empty.obo": b"",
        "header.obo": b"format-version: 1.2\nontology: x\n",
        "table.obo": b"id,name\nZOO:1,bird\n",
        "binary.obo": bytes(range(256)),
        "noid.obo": b"ontology: x\n\n[Term]\nname: bird\n",
        "obsolete.obo": b"ontology: x\n\n[Term]\nid: X:1\nname: a\nis_obsolete: true\n",
        "cut.obo.gz": packed[:-40],
        "damaged.obo.gz": packed[:60] + bytes(40) + packed[100:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(dao.DaoError, match=name) as caught:
            load_ontology(tmp_path / name)
        assert isinstance(caught.value, (dao.DaoValueError, dao.DaoIOError))
    with pytest.raises(dao.DaoKeyError, match=r"'CLL'.*there are .*CL, .*UBERON"):
        load_ontology("CLL")
    assert not module._loaded


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, zoo_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "obonet", None)
    with pytest.raises(dao.DaoImportError, match="an OBO file needs obonet"):
        load_ontology(zoo_file)


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
    """Acyclic: edges go from a term to one of its kinds, which has a higher rank."""
    n = draw(st.integers(1, 12))
    rank = draw(st.permutations(range(n)))
    pairs = [(rank[i], rank[j]) for i in range(n) for j in range(i + 1, n)]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else [])
    return graph


@given(graph=graphs(), data=st.data())
@settings(max_examples=60)
def test_any_obo_file(tmp_path: Path, graph: nx.DiGraph, data: st.DataObject) -> None:
    stanzas = ["ontology: x"]
    for node in graph:
        above = [f"\nis_a: X:{p} ! term {p}" for p in graph.predecessors(node)]
        stanzas.append(f"[Term]\nid: X:{node}\nname: term {node}{''.join(above)}")
    path = tmp_path / "any.obo"
    path.write_text("\n\n".join(stanzas))
    ontology = load_ontology(path)
    kinds = {n: {f"X:{d}" for d in nx.descendants(graph, n) | {n}} for n in graph}
    for node in graph:
        assert ontology.descendants(f"X:{node}") == sorted(kinds[node])
        above = {f"X:{a}" for a in nx.ancestors(graph, node) | {node}}
        assert ontology.ancestors(f"term {node}") == sorted(above)
    nodes = st.sampled_from(sorted(graph))
    term, excluded = data.draw(nodes), data.draw(st.lists(nodes, max_size=3))
    found = ontology.descendants(f"X:{term}", excluded=[f"term {e}" for e in excluded])
    assert found == sorted(kinds[term].difference(*(kinds[e] for e in excluded)))


# --- which ontology a term is looked up in


def matches(term: str | list[str], **options: object) -> set[str]:
    """Those of some words for which the condition is true."""
    values = [
        *("ZOO:0001", "bird", "ZOO:0007", "hen", "CL:0000084", "T cell", "CL:0000236", "B cell"),
        *(
            "UBERON:0000955",
            "brain",
            "UBERON:0002048",
            "lung",
            "bird ",
            "Bird",
            "unknown",
            "",
            None,
        ),
    ]
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)})
    is_true = frame.select(is_a(C("x"), term, **options).alias("x"))["x"]
    assert is_true.dtype == pl.Boolean
    assert is_true.is_null().to_list() == [value is None for value in values]
    return set(frame.filter(is_true)["x"])


def test_ids_load_the_ontology_of_their_prefix(zoo: Ontology) -> None:
    assert matches("CL:0000084") == {"CL:0000084", "T cell"}
    assert matches("UBERON:0000955") == {"UBERON:0000955", "brain"}
    assert matches("ZOO:0001") == {"ZOO:0001", "bird", "ZOO:0007", "hen"}
    mixed = ["CL:0000542", "bird", "UBERON:0002048"]
    out = ["T cell", "egg"]
    found = {"ZOO:0001", "bird", "CL:0000236", "B cell", "UBERON:0002048", "lung"}
    assert matches(mixed, excluded=out) == found
    assert list(module._loaded) == ["ZOO"]  # what a term loads is not there for labels


def test_labels_are_looked_up_in_what_is_loaded_then_in_cl(zoo_file: Path) -> None:
    assert matches("lymphocyte") == {"CL:0000084", "T cell", "CL:0000236", "B cell"}
    with pytest.raises(dao.DaoKeyError, match=r"'brain' is no term of CL.*load_ontology\(\"UBERON"):
        matches("brain")
    with pytest.raises(dao.DaoKeyError, match=r"Nearest: 'CL:0000542' \(lymphocyte\)"):
        matches("lymphocite")
    load_ontology("UBERON")
    assert matches("Brain") == {"UBERON:0000955", "brain"}
    assert matches("lymphocyte", excluded=["B cell"]) == {"CL:0000084", "T cell"}
    load_ontology(zoo_file)
    assert matches(["bird", "brain"], excluded="hen") == {
        *("ZOO:0001", "bird", "UBERON:0000955", "brain")
    }
    with pytest.raises(dao.DaoKeyError, match=r"'birdd' is no term of UBERON .*, ZOO .*, CL .*"):
        matches("birdd")


def test_excluded_labels_are_looked_up_where_the_term_is() -> None:
    assert matches("UBERON:0000955", excluded="brain") == set()


def test_obsolete_terms_are_no_conditions() -> None:
    with pytest.raises(
        dao.DaoKeyError, match=r"native cell\) is obsolete.*use 'CL:0000000' \(cell"
    ):
        is_a(C("x"), "CL:0000003")
    with pytest.raises(dao.DaoKeyError, match="is obsolete"):
        is_a(C("x"), "obsolete native cell")


def test_a_label_in_two_loaded_ontologies_is_ambiguous(zoo: Ontology, zoo_file: Path) -> None:
    load_ontology(zoo_file, name="other")
    with pytest.raises(dao.DaoValueError, match=r"'bird' is in several .*ZOO \(ZOO:0001\), other"):
        matches("bird")
    assert matches("bird", ontology="other") == matches("bird", ontology=zoo)
    assert matches("ZOO:0007") == {"ZOO:0007", "hen"}
    text = OBO.replace("name: hen\n", "name: rooster\n")
    zoo_file.write_text(text)
    load_ontology(zoo_file)  # again: in place of the one before
    assert matches("ZOO:0007") == {"ZOO:0007"}
    assert matches("hen") == {"ZOO:0007", "hen"}


def test_the_ontology_can_be_given(zoo: Ontology, zoo_file: Path) -> None:
    for given_ in (zoo, "ZOO", zoo_file, str(zoo_file)):
        assert matches("hen", ontology=given_) == {"ZOO:0007", "hen"}
    assert matches("brain", ontology="UBERON") == {"UBERON:0000955", "brain"}
    with pytest.raises(dao.DaoKeyError, match="no term of ZOO"):
        matches("CL:0000084", ontology=zoo)
    with pytest.raises(dao.DaoKeyError, match="no term of ZOO"):
        matches("hen", excluded="T cell", ontology=zoo)
    assert list(module._loaded) == ["ZOO"]


def test_no_term_matches_nothing(zoo: Ontology) -> None:
    assert matches([]) == matches("bird", excluded="animal") == set()
    assert matches(pl.Series(["hen"])) == matches(iter(["hen"])) == {"ZOO:0007", "hen"}


def test_columns_of_any_kind(zoo: Ontology) -> None:
    texts = pl.Series("x", ["hen", "CL:7", None, "lamp"])
    for dtype in (pl.String, pl.Categorical, pl.Enum(["CL:7", "hen", "lamp"])):
        frame = pl.DataFrame([texts.cast(dtype)])
        for got in (frame, frame.lazy().collect(engine="streaming")):
            assert got.select(is_a(C("x"), "bird"))["x"].to_list() == [True, False, None, False]
    for other in ([1, 2, None], [None, None, None]):
        found = pl.DataFrame({"x": other}).select(is_a(C("x"), "bird"))["x"]
        assert found.to_list() == [None if value is None else False for value in other]


def test_a_guide_that_is_not_there(monkeypatch: pytest.MonkeyPatch, zoo_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide.supported_versions", None)
    module._from_guide.cache_clear()
    for term in ("T cell", "CL:0000084"):
        with pytest.raises(dao.DaoImportError, match="pip install"):
            matches(term)
    load_ontology(zoo_file)
    assert matches("ZOO:0007") == matches("hen") == {"ZOO:0007", "hen"}
    with pytest.raises(dao.DaoKeyError, match="'CL:0000084' is no term of ZOO"):
        matches("CL:0000084")


# --- on a store

CASES = {
    "endocrine": ("CL:0000164", ()),
    "endocrine but beta": ("CL:0000164", ("CL:0000169",)),
    "leukocytes": ("CL:0000738", ()),
    "leukocytes but lymphocytes": ("CL:0000738", ("CL:0000542", "CL:0000576")),
    "everything": ("CL:0000000", ()),
    "hepatocytes": ("CL:0000182", ()),
}
COLUMNS = ("cell_type_ontology_term_id", "cell_type", "cell_ontology_class")


@pytest.fixture(scope="module")
def obs(real: dict[str, ad.AnnData]) -> pl.DataFrame:
    """The three columns of all cells, as anndata reads them."""
    frames = []
    for name, adata in real.items():
        text = adata.obs.reindex(columns=list(COLUMNS)).astype(object)
        frame = pl.from_pandas(text.where(pd.notna(text), None).reset_index(names="obs_name"))
        frames.append(frame.cast(pl.String).with_columns(dataset=pl.lit(name)))
    return pl.concat(frames)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES)
def test_cells_of_a_kind(
    real_store: dao.Store, obs: pl.DataFrame, case: str, column: str, engine: str
) -> None:
    term, excluded = CASES[case]
    wanted = words(closure(term) - {d for e in excluded for d in closure(e)})
    value = pl.Series(
        [v in wanted if v is not None else None for v in obs[column]], dtype=pl.Boolean
    )
    condition = is_a(C(column), term, excluded=excluded)
    found = real_store.scan().filter(condition).select("dataset", "obs_name", column)
    assert_frame_equal(
        found.collect(engine=engine).cast(pl.String).sort("dataset", "obs_name"),
        obs.filter(value).select("dataset", "obs_name", column).sort("dataset", "obs_name"),
    )
    every = real_store.scan().select("dataset", "obs_name", is_a=condition)
    assert_frame_equal(
        every.collect(engine=engine).with_columns(C("dataset", "obs_name").cast(pl.String)),
        obs.select("dataset", "obs_name", is_a=value),
        check_row_order=False,
    )


def test_the_cases_tell_cells_apart(real_store: dao.Store) -> None:
    counts = {
        case: real_store.scan()
        .filter(is_a(C(COLUMNS[0]), term, excluded=excluded))
        .select(pl.len())
        .collect()
        .item()
        for case, (term, excluded) in CASES.items()
    }
    assert 0 == counts["hepatocytes"] < counts["leukocytes but lymphocytes"]
    assert counts["leukocytes but lymphocytes"] < counts["leukocytes"] < counts["everything"]
    assert counts["endocrine but beta"] < counts["endocrine"] < counts["everything"]


def test_it_composes_with_other_conditions(real_store: dao.Store, obs: pl.DataFrame) -> None:
    kind = is_a(C("cell_type_ontology_term_id"), "endocrine cell")
    leukocyte = closure("CL:0000738")
    endocrine = closure("CL:0000164")
    lf = real_store.scan()
    for condition, keep in (
        (
            kind & (C("dataset") != "pancreas_mouse"),
            lambda i, d: i in endocrine and "mouse" not in d,
        ),
        (~kind, lambda i, d: i is not None and i not in endocrine),
        (kind.fill_null(True), lambda i, d: i is None or i in endocrine),
        (
            kind | is_a(C("cell_type_ontology_term_id"), "leukocyte"),
            lambda i, d: i in endocrine | leukocyte,
        ),
    ):
        expected = [keep(i, d) for i, d in obs.select(COLUMNS[0], "dataset").iter_rows()]
        found = lf.filter(condition).select("obs_name").collect()
        assert sorted(found["obs_name"]) == sorted(obs.filter(pl.Series(expected))["obs_name"])


# --- what is read, and what not


def planned(store: dao.Store, predicate: pl.Expr) -> ScanPlan:
    return make_plan(store._scanned.parts, store.schema, None, predicate, None)


def read(plan: ScanPlan) -> set[str]:
    return {dataset.name for group in plan.groups for dataset in group.parts}


def test_the_condition_is_pushed_to_the_files(real_store: dao.Store, obs: pl.DataFrame) -> None:
    column = "cell_type_ontology_term_id"
    assert isinstance(real_store.schema[column], pl.Enum)
    plan = planned(real_store, is_a(C(column), "endocrine cell"))
    assert "pbmc_human" not in read(plan)  # it lacks the column
    texts = obs.select(column).unique()
    for part in plan.groups:
        assert part.residual is None
        assert part.pushed is not None
        passed = set(texts.filter(part.pushed)[column])
        assert passed == closure("CL:0000164") & set(texts[column])


def test_a_kind_that_no_category_is_reads_nothing(real_store: dao.Store) -> None:
    for column in COLUMNS:
        assert not planned(real_store, is_a(C(column), "hepatocyte")).groups
    assert not planned(real_store, is_a(C("cell_type"), "cell", excluded="cell")).groups


@pytest.fixture
def files(real_store: dao.Store, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "atlas"
    shutil.copytree(real_store.uri, path)
    yield path
    shutil.rmtree(path)


def test_datasets_without_the_kind_are_not_opened(files: Path, obs: pl.DataFrame) -> None:
    (part_path(files, "pbmc_human") / "obs.parquet").unlink()
    lf = dao.scan(files)
    for engine in ENGINES:
        found = lf.filter(is_a(C(COLUMNS[0]), "T cell")).select("obs_name").collect(engine=engine)
        expected = obs.filter(C(COLUMNS[0]).is_in(sorted(closure("CL:0000084"))))
        assert sorted(found["obs_name"]) == sorted(expected["obs_name"])
    for name in set(obs["dataset"]) - {"pbmc_human"}:
        (part_path(files, name) / "obs.parquet").unlink()
    for engine in ENGINES:
        for column in COLUMNS:
            found = lf.filter(is_a(C(column), "hepatocyte")).collect(engine=engine)
            assert found.height == 0
