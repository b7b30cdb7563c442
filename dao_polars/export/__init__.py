"""Selections as files of AnnData, written in blocks of cells.

Owns how such a file is laid out and put in its place. Must not know how cells are selected.
"""
