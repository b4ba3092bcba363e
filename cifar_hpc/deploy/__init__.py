"""What is done with trained networks."""
