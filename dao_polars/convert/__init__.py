"""Tables and selections in the forms of other libraries: pandas frames, AnnData.

Owns what each pandas type is in a store and how it comes back. Must not know how files are read or
written.
"""
