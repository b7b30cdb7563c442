"""Statistics of genes over groups of cells: pseudobulk, variable genes, marker genes.

Owns the grouping and the formulas. Must not know files or batches: sums come from the core in one
pass.
"""
