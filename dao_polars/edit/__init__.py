"""Edits of a store: tables, embeddings, cells and datasets changed, as one new version.

Owns what each edit does to a part, which edits of others it conflicts with, and that it is made
again on top of those it does not. Must not know how files reach the disk or how a version is made:
that is the core's.
"""
