"""The faulty ports, by where the mistake lies."""
