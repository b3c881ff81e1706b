"""The paddle side: all that touches paddle, and nothing else in stepalign does.

The twin of `stepalign.workers.torch_worker`: the same files, the same functions in the same order with the same
signatures, so that the two can be read side by side. Importing this package does not import paddle; `adapter` does,
and the runtime imports it only once the process is isolated.
"""

FRAMEWORK = "paddle"
