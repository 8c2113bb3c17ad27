"""Lava's own processes with faster models: same ports, same parameters, same numbers.

In fixed point every spike and every potential is equal bit for bit; in floating point sums are added in another order,
so currents are equal up to float64 rounding. Lava's models stay the referee.
"""

from rmp_deploy.converters.lava.compat import import_lava

import_lava()
