"""Between this IR and other representations: torch modules, Lava processes."""
