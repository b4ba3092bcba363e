"""From trials to work: cohorts, jobs, lineage and estimates. Knows no torch and no scheduler."""
