"""Says why two sides differ: declared differences before the first step, evidence from the numbers after it."""
