"""Mini-batches: epochs as a user sees them, for loops, PyTorch and TensorFlow.

Owns which cells come when, who shares them, where an epoch is resumed, and how batches become
tensors. Must not know files: reading is the core's.
"""
