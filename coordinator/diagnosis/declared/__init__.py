"""What both sides declare before the first step, and what of it matters."""
