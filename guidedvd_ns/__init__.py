"""GuidedVD-3DGS for Nerfstudio: Gaussian splatting from a few photographs, completed by a grounded video prior."""
