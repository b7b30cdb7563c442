"""Makes ``sfaira_store`` from the studies in ``data/``, with sfaira's own ``write_dao``.

It needs an environment of its own, in which sfaira lacks what only its models need:

    python3.11 -m venv env
    env/bin/pip install --no-deps sfaira==0.3.12
    env/bin/pip install "zarr==2.18.*" "numcodecs<0.16" "pandas==2.3.*" "anndata==0.11.*" \\
        "numpy<2.3" pyarrow "dask[array,dataframe]"
    env/bin/python tests/data/make_sfaira_store.py made

The store is made at the path given and then held against the one beside this script: arrays, how
they are stored, tables and uns must be the same. Bytes may differ: a parquet file names the
library that wrote it.
"""

import importlib.util
import json
import pickle
import sys
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from numcodecs import Blosc

HERE = Path(__file__).parent
STUDIES = HERE.parent.parent / "data"
VERSIONS = {"sfaira": "0.3.12", "zarr": "2.18", "pandas": "2.3"}

#: Source, number of cells, chunk (cells, genes), compressor, whether cells are shuffled.
DATASETS = {
    "human_pancreas_2016_indrop_baron_001": (
        "pancreas_human",
        600,
        (128, 2000),
        Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE),
        False,
    ),
    "human_blood_2021_10x_hao_001": (
        "pbmc_human",
        400,
        (100, 1000),
        Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE),
        True,
    ),
    "mouse_pancreas_2016_indrop_baron_001": ("pancreas_mouse", 300, (64, 1500), None, False),
}


def sfairas_writer():
    """``write_dao``, from its file: importing the package would import its models' frameworks."""
    package = Path(importlib.util.find_spec("sfaira").origin).parent
    path = package / "data" / "store" / "io" / "io_dao.py"
    spec = importlib.util.spec_from_file_location("io_dao", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_dao


def make(target):
    write_dao = sfairas_writer()
    sources = {name: ad.read_h5ad(STUDIES / f"{name}.h5ad") for name, *_ in DATASETS.values()}
    # The human studies have one feature space: the first of their common genes by name.
    human = set(sources["pbmc_human"].var_names) & set(sources["pancreas_human"].var_names)
    genes = {
        "pbmc_human": sorted(human)[:2000],
        "pancreas_human": sorted(human)[:2000],
        "pancreas_mouse": list(sources["pancreas_mouse"].var_names[:1500]),
    }
    for dataset, (source, n_obs, chunks, compressor, shuffled) in DATASETS.items():
        adata = sources[source][:n_obs, genes[source]].copy()
        adata.uns["id"] = dataset
        adata.uns |= {  # all kinds of values that the reader of pickles builds
            "doi_journal": "10.0/test",
            "annotated": True,
            "counts": np.array([1.5, 2.5]),
            "nested": {"k": [1, 2, "three"], "none": None},
        }
        np.random.seed(0)  # noqa: NPY002  write_dao shuffles with this generator
        write_dao(
            str(target / dataset),
            adata,
            chunks=chunks,
            compression_kwargs={"compressor": compressor},
            shuffle_data=shuffled,
        )


def check(made, kept):
    """Stops at the first difference between two stores."""
    assert sorted(p.name for p in made.iterdir()) == sorted(p.name for p in kept.iterdir())
    for dataset in DATASETS:
        one, other = made / dataset, kept / dataset
        files = [
            sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
            for root in (one, other)
        ]
        assert files[0] == files[1], dataset
        layouts = [json.loads((root / "zarr/X/.zarray").read_text()) for root in (one, other)]
        assert layouts[0] == layouts[1], (dataset, layouts)
        arrays = [zarr.open(str(root / "zarr"), mode="r")["X"][...] for root in (one, other)]
        assert np.array_equal(*arrays), dataset
        for table in ("obs", "var"):
            frames = [pd.read_parquet(root / f"parquet/{table}.parquet") for root in (one, other)]
            pd.testing.assert_frame_equal(*frames)
        values = []
        for root in (one, other):
            with open(root / "pickle/uns.pickle", "rb") as file:
                values.append(pickle.load(file))
        assert list(values[0]) == list(values[1]), (dataset, values)
        np.testing.assert_array_equal(values[0].pop("counts"), values[1].pop("counts"))
        assert values[0] == values[1], (dataset, values)


def main():
    for package, wanted in VERSIONS.items():
        found = version(package)
        if not found.startswith(wanted):
            sys.exit(f"{package} {found}; the store is made with {wanted}. {__doc__}")
    target = Path(sys.argv[1])
    if target.exists():
        sys.exit(f"{target} is there already")
    make(target)
    check(target, HERE / "sfaira_store")
    print(f"{target}: the same as {HERE / 'sfaira_store'}")


if __name__ == "__main__":
    main()
