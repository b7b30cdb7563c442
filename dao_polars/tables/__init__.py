"""obs and var as a store holds them, of pandas and polars frames.

Owns what each type of theirs is in a store, the notes that bring pandas' back, and how a table
becomes a file. Must not know stores, cells or genes.
"""
