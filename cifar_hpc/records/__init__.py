"""The records on disk: the seam between the half that trains and the half that reports."""
