"""What runs in a worker's interpreter: bootstrap, the step loop, the `Training` contract and the two frameworks' twins;
and `attach`, for scripts that own their loop.

Python 3.9 and up; imports the standard library, numpy, and `stepalign.protocol` only, outside the twins.
"""

from stepalign.workers.attach import attach
from stepalign.workers.training import Training

__all__ = ["Training", "attach"]
