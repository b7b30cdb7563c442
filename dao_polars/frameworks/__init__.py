"""Batches as the frameworks want them: PyTorch, TensorFlow, Ray, scvi-tools.

Owns tensors, elements and blocks, and what workers of a loader agree on. Each module but
``encoding`` and ``worker_epochs`` imports its framework: only ``frame`` imports these, when asked
to. Must not know what is read or in which order: ``batches`` does.
"""
