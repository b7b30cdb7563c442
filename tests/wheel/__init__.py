"""The package as people install it: what is in ``dist/``, and what works where nothing else is.

``make wheel`` builds ``dist/`` and runs the scripts; ``test_release.py`` is a test like others.
"""
