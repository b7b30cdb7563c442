"""Studies into a store: what a source holds, what is kept of it, in which order it is written.

Owns the sources (AnnData in memory, .h5ad, AnnData .zarr, 10x .h5) and `write_dataset`. Must not
know how matrices reach the disk: that is the core's.
"""
