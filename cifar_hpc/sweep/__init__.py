"""What a command does with a sweep: run, submit, cancel, retry, refit, reproduce, prune. Tells a listener, prints nothing."""
