"""Training of the network; the only other place than `models` that imports torch."""
