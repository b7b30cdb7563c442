"""homeobox: its iterable dataset (uniformly shuffled) over an atlas that ``add_from_anndata`` wrote
from the backed .h5ad (bit-packed 32-bit counts, in chunks of 8,192 values, which random cells are
read faster from than from its 40,960), as CSR arrays with two obs columns. So many cells are read
at a time, with as many such blocks in flight as said: 65,536 × 4 is what its own benchmark has,
65,536 × 2 what it does by default. The dataset is iterated itself, since a DataLoader would hand on
what it yields. For dense batches the query has the wanted genes. It takes no floats without counts
beside them."""

import anndata as ad
import scipy.sparse as sp
from homeobox import (
    DatasetSchema,
    FeatureBaseSchema,
    HoxBaseSchema,
    PointerField,
    SparseZarrPointer,
    add_from_anndata,
    create_or_open_atlas,
)
from homeobox.atlas import RaggedAtlas
from homeobox.feature_layouts import reindex_registry
from homeobox.obs_alignment import align_obs_to_schema

TITLE = "homeobox"
PACKAGES = ("homeobox", "zarr", "lancedb", "polars", "numpy")
SPACE = "gene_expression"


class Cell(HoxBaseSchema):
    gene_expression: SparseZarrPointer | None = PointerField.declare(feature_space=SPACE)
    cell_type: str
    sample: str


class Gene(FeatureBaseSchema):
    pass


def write(task):
    atlas = create_or_open_atlas(
        str(task.store),
        obs_schemas={"cells": Cell},
        dataset_table_name="datasets",
        dataset_schema=DatasetSchema,
        registry_schemas={SPACE: Gene},
    )
    adata = ad.read_h5ad(task.source, backed="r")
    atlas.register_features(SPACE, [Gene(uid=name) for name in adata.var_names])
    reindex_registry(atlas.registry_tables[SPACE])
    adata.var["uid"] = adata.var_names
    align_obs_to_schema(adata, Cell, inplace=True)
    record = DatasetSchema(zarr_group=SPACE, feature_space=SPACE)
    add_from_anndata(
        atlas,
        adata,
        field_name=SPACE,
        zarr_layer="counts",
        dataset_record=record,
        chunk_shape=(8_192,),
    )
    atlas.snapshot()


class Csr:
    """A batch as measure.py looks at it."""

    def __init__(self, batch):
        self.shape = (len(batch), batch.n_features)
        self.data = batch.layers["counts"]


def dense(batch):
    shape = (len(batch), batch.n_features)
    return sp.csr_matrix((batch.layers["counts"], batch.indices, batch.offsets), shape).toarray()


def dataset(cells, blocks, *, shuffle=True, chosen=False, panel=False):
    def open_atlas(task):
        place = getattr(task, "url", None) or task.store
        atlas = RaggedAtlas.checkout_latest(f"{place}/lance_db", {"cells": Cell})
        query = atlas.query()
        if chosen:
            query = query.where(f"cell_type = '{task.cell_type}'")
        if panel:
            names = ad.read_h5ad(task.source, backed="r").var_names[: task.panel]
            query = query.features(list(names), SPACE)
        batches = query.to_unimodal_dataset(
            SPACE,
            ["counts"],
            list(task.obs),
            mode="iterable",
            batch_size=task.batch,
            io_batch_size=cells,
            prefetch=blocks,
            shuffle=shuffle,
        )
        convert = dense if panel else Csr
        return lambda: ((convert(batch), batch.metadata["sample"]) for batch in batches)

    return open_atlas


def settings(*sizes, **options):
    return {f"{n:,} × {m}": dataset(n, m, **options) for n, m in sizes}


def counts_bytes(task):
    place = task.store / "zarr_store"
    return sum(f.stat().st_size for f in place.glob("**/*") if f.is_file())


WRITES = {"": write}
READS = {
    "in order": settings((8_192, 4), shuffle=False),
    "shuffled": settings((65_536, 4), (65_536, 2), (8_192, 2)),
    "first epoch": settings((65_536, 2)),
    "batches of 256": settings((65_536, 2)),
    "selection": settings((65_536, 2), chosen=True),
    "dense": settings((65_536, 2), panel=True),
}
CLOUDS = {
    "in order": settings((8_192, 4), shuffle=False),
    "random": settings((65_536, 2)),
}
