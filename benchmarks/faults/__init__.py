"""The fault matrix: each fault in each phase, as a real run of the command line. `catalogue` has all of them."""
