"""dao-polars without its extras, as ``pip install dao-polars`` leaves it.

Run by the Python of a bare environment, from outside the checkout. Nothing here may need anndata:
a store is written without it from no source, so one is made of sfaira's files.

python bare.py path/to/sfaira_store
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import polars as pl

import dao_polars as dao


def main(store: Path) -> None:
    """What works, and what says which extra is missing."""
    here = Path(dao.__file__).resolve()
    assert Path(sys.prefix).resolve() in here.parents, f"not the installed package: {here}"
    version = importlib.metadata.version("dao-polars")
    assert version == dao.__version__, f"{version} was installed, {dao.__version__} runs"
    assert (here.parent / "py.typed").is_file(), "type checkers look for py.typed"
    for extra in ("anndata", "pandas", "zarr", "h5py", "tqdm"):
        assert importlib.util.find_spec(extra) is None, f"the environment is not bare: {extra}"

    cells = dao.scan(store)
    n_obs = cells.select(pl.len()).collect().item()
    batches = [batch.x for batch in cells.dao.iter_batches(64, genes="union")]
    assert n_obs == sum(x.shape[0] for x in batches) > 0, f"{n_obs} cells, other batches"

    for what, call in {
        "to_anndata": lambda: cells.dao.to_anndata(progress=False),
        "write_dataset": lambda: dao.write_dataset("atlas", __file__, progress=False),
    }.items():
        said = ""
        try:
            call()
        except dao.DaoImportError as error:
            said = str(error)
        assert 'pip install "dao-polars[anndata]"' in said, f"{what} without anndata: {said}"
        print(f"{what}: {said}")
    print(f"dao-polars {version} without extras: {n_obs} cells in batches")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
