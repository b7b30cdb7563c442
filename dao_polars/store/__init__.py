"""An open store, as users see it: what is in it, its tables, how it shows itself.

Owns ``Store``, `load_store` and `scan`, and the text that `uns` is stored as.
Must not know selections, batches, or how a dataset is written.
"""
