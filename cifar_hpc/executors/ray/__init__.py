"""Trials side by side on Ray."""
