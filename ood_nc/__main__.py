"""``python -m ood_nc`` is the ``ood-nc`` command."""

import sys

from ood_nc.cli import main

sys.exit(main())
