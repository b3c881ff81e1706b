from stepalign.coordinator.api import Result as Result
from stepalign.coordinator.api import Verdict as Verdict
from stepalign.coordinator.api import optimizer as optimizer
from stepalign.coordinator.api import record as record
from stepalign.coordinator.api import run as run
from stepalign.coordinator.api import schedule as schedule
from stepalign.protocol.errors import CaseError as CaseError
from stepalign.protocol.errors import StepalignError as StepalignError

__version__: str
__all__ = ["CaseError", "Result", "StepalignError", "Verdict", "__version__", "optimizer", "record", "run", "schedule"]
