"""From a drawn shape to a mesh of named parts with physically based materials."""

from __future__ import annotations

import numpy as np
from trimesh import Trimesh
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.synthesize.style import Material, Shape


def part_mesh(shape: Shape) -> PartMesh:
    """The shape as a `PartMesh` in its own frame (metres), one piece a material."""
    materials = {material: _pbr(material) for part in shape.parts for _, material in part.pieces}
    pieces = tuple(
        tuple(
            Trimesh(solid.vertices, solid.faces, visual=TextureVisuals(material=materials[material]), process=False)
            for solid, material in part.pieces
        )
        for part in shape.parts
    )
    return PartMesh(tuple(part.name for part in shape.parts), pieces)


def _pbr(material: Material) -> PBRMaterial:
    srgb, alpha = np.array(material.colour[:3]), material.colour[3]
    # glTF wants factors in linear light; colours here are drawn as the eye sees them.
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return PBRMaterial(
        name=material.name,
        baseColorFactor=np.rint([*(linear * 255), alpha * 255]).astype(np.uint8),
        metallicFactor=material.metallic,
        roughnessFactor=material.roughness,
        alphaMode="BLEND" if alpha < 1 else "OPAQUE",
    )
