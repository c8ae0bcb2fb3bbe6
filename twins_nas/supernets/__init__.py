"""Supernets compared by how well each training of them ranks networks trained alone."""
