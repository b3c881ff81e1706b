"""Says whether two sides' named arrays agree, and by how much: pure functions over numpy arrays."""
