"""Names of genes and of cell types: what a request for genes means, and what an ontology says.

Owns the way from `genes=` and `gene_key=` to the core, which decides which columns are meant. Must
not know frames of cells, matrices or batches.
"""
