"""Studies to be written: AnnData in memory, .h5ad, AnnData .zarr, 10x .h5.

Owns how each is opened and what its parts are called; matrices come as blocks of bounded size.
Must not know stores, nor what of a source is wanted in one.
"""
