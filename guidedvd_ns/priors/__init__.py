"""Video diffusion priors behind the one interface of `base.VideoPrior`."""
