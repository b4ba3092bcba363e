"""A trial's full configuration, its identity and the names that it may use. Knows no torch, no files of results."""
