"""The lazy frame of a store: cell keys, columns, planning, and the IO source that polars calls.

Owns what a row of the frame is and which files a query has to read. Must not know matrices, genes
or ``Store``: it is told where a store is and what its tables hold.
"""
