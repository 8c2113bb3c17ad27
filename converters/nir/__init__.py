"""NIR (Neuromorphic Intermediate Representation, 1.0.x) to the spiking IR and back: docs/nir.md."""

from rmp_deploy.converters.nir.from_nir import from_nir
from rmp_deploy.converters.nir.rules import RULES
from rmp_deploy.converters.nir.to_nir import to_nir, to_nir_graph

__all__ = ["RULES", "from_nir", "to_nir", "to_nir_graph"]
