"""jr_dist: joint retrieval and deformation of part-structured 3D models, distributed with Ray."""

__version__ = "0.1.0"
