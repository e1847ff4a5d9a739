"""Training of the bundled prior: VAE, then diffusion network, on clips of procedural rooms."""
