"""What errors and warnings advise, in the words of the command line.

The functions name their arguments; who types a command has options. What no rule knows stays as it
is: it is advice for Python, which is right too.
"""

from __future__ import annotations

import re

_RULES = (
    (r"layers=True keeps them", "--all-layers keeps them"),
    (r"obsm=True keeps them", "without --obsm and --no-obsm they are kept"),
    (r"layer='raw'", "--layer raw"),
    (r"genes=store\.var\(dataset\)", "--genes-of DATASET"),
    (r"genes=store\.var\(('[^']*')\)", r"--genes-of \1"),
    (r'duplicates="first", "sum" or "drop"', "--duplicates first, sum or drop"),
    (r"\(gene_key='gene_ids', say\)", "(--gene-key gene_ids, say)"),
    (r"\bgene_key='([^']*)'", r"--gene-key '\1'"),
    (r"\bgene_key=(?!')", "--gene-key"),
    (r"\bgenes=(?!')", "--genes"),
    (r"\bshuffle=True\b", "--shuffle"),
    (r"\bstorage_options\[[\"']([^\"']*)[\"']\]", r"--storage-option \1"),
    (r'\bstorage_options=\{"(\w+)": True\}', r"--storage-option \1=true"),
    (r'\bstorage_options=\{"(\w+)": …\}', r"--storage-option \1=…"),
    (r"\bstorage_options\b", "--storage-option"),
    (r"Choose another name with dataset=", "Choose another name"),
    (r"\bstore\.datasets lists them all", "`dao-polars ls` lists them all"),
    (r"\bStore\.rename_dataset\b", "`dao-polars rename`"),
    (r"\b(?:dao\.)?write_dataset (?=makes a store)", "`dao-polars write` "),
    (r"with dao\.write_dataset$", "with `dao-polars write`"),
    (r"\buri='", "store '"),
    (r"dao\.write_dataset\(store, source\)", "`dao-polars write STORE SOURCE`"),
    (r"dao\.write_dataset\('atlas', ('[^']*')\)", r"`dao-polars write atlas \1`"),
    (r"dao\.copy\(source, target\)", "`dao-polars copy SOURCE TARGET`"),
)


def as_typed(message: str) -> str:
    """A message of the package, with options instead of arguments where it names them."""
    for pattern, words in _RULES:
        message = re.sub(pattern, words, message)
    return message
