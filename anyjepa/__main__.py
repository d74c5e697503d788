"""``python -m anyjepa``."""

import sys

from anyjepa.cli import main

sys.exit(main())
