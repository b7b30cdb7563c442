"""Stores that sfaira wrote: pandas' parquet tables and pickles, read as what our own tables are.

Owns the only code that knows of them in Python. Must not execute anything that a pickle names.
"""
