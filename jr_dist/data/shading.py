"""The colour of what rays meet: texture, one key light, light from all around, a simple highlight. Compiled loops.

Light adds up in linear units and is shown as sRGB. There are no cast shadows: what is near the floor and looks down
gets less of the light from around, which is what most of a contact shadow is.
"""

from __future__ import annotations

import math

import numpy as np

from jr_dist.data.surface import to_linear
from jr_dist.geometry.simd import compiled

#: digest of the files whose loops these call: numba keeps code by this text alone (tools/kernel_digests.py writes it)
HELPERS = "46c0ef11756dc7f5"

# rows of `light`, [5, 3] float64
DIRECTION, KEY, SKY, GROUND, FILL = range(5)

_FLOOR_REACH = 0.12  # canonical units over which the floor takes light from what stands on it
_FLOOR_SHARE = 0.45
_LINEAR = to_linear(np.arange(256) / 255)  # of the values of a texture


@compiled
def _encoded(value):
    value = min(max(value, 0.0), 1.0)
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


@compiled
def shade(
    origin, directions, face, vertices, faces, normals, uv, colours, metallic, roughness, texture_of_face, texels,
    textures, light, floor, out, depth,
):  # fmt: skip
    """What each ray shows: out [R, 3] linear light, depth [R], the ray's parameter at the face.

    Args: origin [3] and directions [R, 3] of the rays, face [R] that each meets (-1: none, out 0, depth inf); then the
    columns of `Surface`; light [5, 3]: where the key light is (unit), its colour, that of the sky, of the ground, and
    of the light at the camera; floor: the lowest height of the shape.
    """
    normal, view, half, base = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for r in range(len(face)):
        f = face[r]
        if f < 0:
            depth[r] = np.inf
            out[r] = 0.0
            continue
        t, u, v = _meet(origin, directions[r], vertices, faces[f])
        depth[r] = t
        w = 1.0 - u - v
        length = 0.0
        towards = 0.0
        for a in range(3):
            normal[a] = w * normals[f, 0, a] + u * normals[f, 1, a] + v * normals[f, 2, a]
            length += normal[a] * normal[a]
            view[a] = -directions[r, a]
            towards += view[a] * view[a]
        length, towards = math.sqrt(max(length, 1e-30)), math.sqrt(towards)
        facing = 0.0
        for a in range(3):
            normal[a] /= length
            view[a] /= towards
            facing += normal[a] * view[a]
        if facing < 0:  # both sides are lit: models have faces that look the wrong way
            facing = -facing
            for a in range(3):
                normal[a] = -normal[a]
        for a in range(3):
            base[a] = colours[f, a]
        k = texture_of_face[f]
        if k >= 0:
            first, height, width = textures[k]
            across = (w * uv[f, 0, 0] + u * uv[f, 1, 0] + v * uv[f, 2, 0]) % 1.0
            upwards = (w * uv[f, 0, 1] + u * uv[f, 1, 1] + v * uv[f, 2, 1]) % 1.0
            row = min(int((1.0 - upwards) * height), height - 1)
            column = min(int(across * width), width - 1)
            for a in range(3):
                base[a] *= _LINEAR[texels[first + row * width + column, a]]
        _light(
            normal, view, half, facing, origin[1] + t * directions[r, 1] - floor, base, metallic[f], roughness[f],
            light, out[r],
        )  # fmt: skip


@compiled
def _meet(origin, direction, vertices, face):
    """Ray parameter and the coordinates (u, v) within the triangle, kept inside it (Möller and Trumbore 1997).

    The face is known to be met: only rounding, or a face seen edge-on, can say otherwise.
    """
    p, q, s = vertices[face[0]], vertices[face[1]], vertices[face[2]]
    e0, e1, e2 = float(q[0]) - p[0], float(q[1]) - p[1], float(q[2]) - p[2]
    g0, g1, g2 = float(s[0]) - p[0], float(s[1]) - p[1], float(s[2]) - p[2]
    d0, d1, d2 = direction[0], direction[1], direction[2]
    h0, h1, h2 = d1 * g2 - d2 * g1, d2 * g0 - d0 * g2, d0 * g1 - d1 * g0
    o0, o1, o2 = origin[0] - p[0], origin[1] - p[1], origin[2] - p[2]
    k0, k1, k2 = o1 * e2 - o2 * e1, o2 * e0 - o0 * e2, o0 * e1 - o1 * e0
    determinant = e0 * h0 + e1 * h1 + e2 * h2
    if abs(determinant) < 1e-12:  # edge-on: the depth of the middle
        along = 0.0
        for a in range(3):
            centre = (float(p[a]) + q[a] + s[a]) / 3.0 - origin[a]
            along += centre * direction[a]
        return along / (d0 * d0 + d1 * d1 + d2 * d2), 1.0 / 3.0, 1.0 / 3.0
    u = (o0 * h0 + o1 * h1 + o2 * h2) / determinant
    v = (d0 * k0 + d1 * k1 + d2 * k2) / determinant
    t = (g0 * k0 + g1 * k1 + g2 * k2) / determinant
    u, v = min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0)
    if u + v > 1.0:
        u, v = u / (u + v), v / (u + v)
    return t, u, v


@compiled
def _light(normal, view, half, facing, height, base, metallic, roughness, light, out):
    """Lambert and a normalised Blinn-Phong highlight under the key light; hemisphere light and its reflection."""
    to_key, length, mirrored = 0.0, 0.0, 2.0 * facing * normal[1] - view[1]
    for a in range(3):
        to_key += normal[a] * light[DIRECTION, a]
        half[a] = light[DIRECTION, a] + view[a]
        length += half[a] * half[a]
    length = math.sqrt(max(length, 1e-30))
    to_half = 0.0
    for a in range(3):
        to_half += normal[a] * half[a] / length
    to_key = max(to_key, 0.0)
    alpha = max(roughness, 0.15) ** 2
    power = 2.0 / (alpha * alpha) - 2.0
    highlight = (power + 2.0) / 8.0 * max(to_half, 0.0) ** power * to_key
    grazing = (1.0 - facing) ** 5 * (1.0 - roughness)
    up = 0.5 + 0.5 * normal[1]
    mirror_up = min(max(0.5 + (0.5 + 1.5 * (1.0 - roughness)) * mirrored, 0.0), 1.0)
    open_share = 1.0 - _FLOOR_SHARE * (1.0 - 0.7 * up) * math.exp(-max(height, 0.0) / _FLOOR_REACH)
    for a in range(3):
        around = light[GROUND, a] + (light[SKY, a] - light[GROUND, a]) * up
        reflected = light[GROUND, a] + (light[SKY, a] - light[GROUND, a]) * mirror_up
        specular = 0.04 + (base[a] - 0.04) * metallic
        specular += (1.0 - specular) * grazing
        diffuse = base[a] * (1.0 - metallic)
        out[a] = diffuse * (open_share * around + light[KEY, a] * to_key + light[FILL, a] * facing) + specular * (
            open_share * reflected + light[KEY, a] * min(highlight, 6.0)
        )


@compiled
def encode(linear, shown):
    """Linear light [R, 3] as sRGB shown [R, 3] uint8."""
    for r in range(len(linear)):
        for a in range(3):
            shown[r, a] = int(_encoded(linear[r, a]) * 255.0 + 0.5)


@compiled
def rough_pixels(shown, part, threshold):
    """Pixels [H, W] of shown [H, W, 4] uint8 with a neighbour (of eight) of another colour, by more than `threshold`,
    or another part [H, W]."""
    height, width = part.shape
    found = np.zeros((height, width), np.bool_)
    for i in range(height):
        for j in range(width):
            for down, across in ((0, 1), (1, -1), (1, 0), (1, 1)):  # each pair of neighbours once
                y, x = i + down, j + across
                if y >= height or x < 0 or x >= width:
                    continue
                differ = part[y, x] != part[i, j]
                for a in range(3):
                    differ |= abs(np.int16(shown[y, x, a]) - np.int16(shown[i, j, a])) > threshold
                if differ:
                    found[i, j] = found[y, x] = True
    return found
