"""What a person sees in a terminal: tables, and a sweep while it runs. Computes nothing."""
