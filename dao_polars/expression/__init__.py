"""Genes as columns of a query: `dao.gene`, `dao.genes`, `dao.qc` and the expression namespace.

Owns the public functions and what they tell the plugin. Must not know how cells are looked up.
"""
