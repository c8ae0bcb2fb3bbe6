"""One training loop for supernets and single networks, its sampling policy.

Losses and checkpoints.
"""
