"""What executes on a node: jobs, attempts, checkpoints. Knows no schedulers."""
