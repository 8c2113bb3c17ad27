"""Our own Lava processes: they feed a network from an array and record it into memory-mapped files.

Lava executes every module of a Process's folder at each compile: nothing else may live here, and imports are absolute.
"""

from rmp_deploy.converters.lava.compat import import_lava

import_lava()
