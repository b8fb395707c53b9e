"""``python -m fedcore``: the command ``fedcore``, where it is not on the path."""

import sys

from fedcore.cli import main

sys.exit(main())
