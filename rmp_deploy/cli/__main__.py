"""`python -m rmp_deploy.cli`, for where the `rmp-deploy` script is not on the path."""

import sys

from rmp_deploy.cli import main

sys.exit(main())
