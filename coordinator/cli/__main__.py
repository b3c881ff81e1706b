"""``python -m stepalign.coordinator.cli``."""

import sys

from stepalign.coordinator.cli.main import main

sys.exit(main())
