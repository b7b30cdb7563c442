"""The cells of a frame: collected once, split into parts, sampled.

Owns the step from a polars frame to the keys that the core reads. Must not know what is read of
them.
"""
