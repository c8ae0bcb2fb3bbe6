"""The elastic backbone: one class for every network of a space.

And for the supernet that holds them all.
"""
