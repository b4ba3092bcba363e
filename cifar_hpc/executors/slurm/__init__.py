"""Trials as Slurm job arrays."""
