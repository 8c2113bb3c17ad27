"""SpikingGraph -> standard Lava processes; lava-nc itself is imported through `compat.import_lava` only."""
