"""Optional dependencies: imported when used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import DaoImportError

_EXTRAS = {
    "anndata": "anndata",
    "anndata.io": "anndata",
    "cellxgene_ontology_guide.supported_versions": "ontology",
    "dask.array": "dask",
    "h5py": "anndata",
    "obonet": "ontology",
    "pandas": "anndata",
    "skmisc.loess": "hvg",
    "distributed": "dask",
    "ray.data": "ray",
    "scvi": "scvi",
    "zarr": "anndata",
}


def require(module: str, purpose: str) -> ModuleType:
    """The module of this name, imported.

    Raises:
        DaoImportError: it is not installed; names ``purpose`` and the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = _EXTRAS.get(module, module)
        raise DaoImportError(
            f'{purpose} needs {module} ({error}): pip install "dao-polars[{extra}]"'
        ) from error
