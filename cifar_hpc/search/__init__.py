"""A search instead of a grid: which point comes next, and what of it is on disk. Knows no executor and trains nothing."""
