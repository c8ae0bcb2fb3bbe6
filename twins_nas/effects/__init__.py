"""What a trained supernet tells of its space: effects of each dimension, and of pairs of them."""
