"""ViewCrafter and its small relatives: latent video diffusion conditioned on the renders of an incomplete scene."""
