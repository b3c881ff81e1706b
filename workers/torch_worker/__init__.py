"""The torch side: all that touches torch, and nothing else in stepalign does.

The twin of `stepalign.workers.paddle_worker`: the same files, the same functions in the same order with the same
signatures, so that the two can be read side by side. Importing this package does not import torch; `adapter` does,
and the runtime imports it only once the process is isolated.
"""

FRAMEWORK = "torch"
