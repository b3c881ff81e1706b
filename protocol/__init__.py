"""All that the two sides of the wire share: messages, tensors, framing, sockets, errors. Imports no framework."""
