"""The one training loop and what it stands on. Knows tensors and trials; knows nothing of sweeps, executors or reports."""
