"""Stores that sfaira wrote: pandas' parquet tables and pickles, read as what our own tables are.

Owns all Python code that knows such stores. Must not execute anything that a pickle names.
"""
