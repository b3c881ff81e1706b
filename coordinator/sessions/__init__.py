"""Two workers of one case: configured, matched by name, given the same weights, stepped together."""
