"""Mistakes that somebody could make, and the gate that plants them."""
