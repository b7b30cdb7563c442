"""Studies and selections into a store: what is kept of them, in which order it is written.

Owns both ways to write a dataset, of a source and of a frame's cells, and copies between stores.
Must not know how matrices reach the disk: that is the core's.
"""
