"""What several tests share: fakes at the process boundary, clusters, tiny data."""
