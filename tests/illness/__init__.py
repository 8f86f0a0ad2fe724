"""Runs with one planted illness each, and healthy ones: what the doctor says of them is counted."""
