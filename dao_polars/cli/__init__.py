"""The command line, ``dao-polars``: what the package does, for shells and scripts.

Owns commands, their options, what they print and their exit codes. Must not know how anything is
done: each command is a call or two of the public functions.
"""
