"""Training in torch: neurons, surrogate gradients, RMP-Loss, models, data, the loop. Import its modules by name."""
