"""Several processes that train one trial: how they start, meet and agree. Knows no specs and no results."""
