"""About how long each verb takes and what it holds: formulas over what was measured once, of one processor thread.

`python benchmarks/estimates.py` prints every constant of `Measured`; the defaults here are what it printed on the
machine that `machine` names. They say hours or days, not minutes: other machines, data and neighbours differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jr_dist.config import Config

MB = 10**6
FORWARD_SHARE = 1 / 3  # of an encoder's work forwards and backwards
#: a ResNet's multiplication to a PointNet's, whose widest layer doesn't go by way of the memory
PICTURE_FACTOR = 4
#: multiplications of a picture of 224 pixels through a resnet (He et al. 2016, table 1)
RESNET_MACS = {"resnet18": 1.8e9, "resnet34": 3.6e9, "resnet50": 3.8e9}


@dataclass(frozen=True)
class Measured:
    """Of one thread of `machine`, as `benchmarks/estimates.py` prints them."""

    machine: str = "one thread of a two-core Xeon"
    process_mb: float = 852  # resident at its peak, of a process that trains next to nothing
    ray_start_s: float = 3.53  # until it has started; time that passes
    ray_mb: float = 388  # of the daemons of a Ray started here
    activations: float = 1.6  # peak of a training step over the numbers that `step_bytes` counts
    synthesize_ms: float = 12.8  # a shape of 2048 points
    shape_bytes_point: float = 13.6  # of a shape on disk, mesh and all, over its points
    ingest_ms: float = 4.46  # a file, besides its bytes
    ingest_ms_mb: float = 208  # a MB of a file
    render_ms: float = 4.25  # a picture, besides its pixels: its part of the shape's drawing, files
    render_ns_pixel: float = 198  # a pixel
    picture_bytes_pixel: float = 0.12  # of its PNG
    encode_ns: float = 0.0422  # a multiplication of an encoder, forwards and backwards
    pair_us: float = 0.223  # a point of a pair: deformed, measured, forwards and backwards
    measure_s: float = 0.919  # the tables and the report, besides their pairs
    measure_us: float = 1.11  # a point of a pair of a target and a source in the tables, oracle included
    measure_ido_us: float = 7.88  # the same, with IDO
    label_us: float = 1.5  # a point of a labelled pair
    report_mb: float = 0.39  # of an evaluation's report
    fit_s: float = 0.0562  # a scan, read, and one candidate deformed, and written
    fit_refine_s: float = 0.0288  # a candidate refined


MEASURED = Measured()


def encoder_macs(config: Config, num_points: int) -> float:
    """Multiplications of an encoder for one shape, of `num_points` points; of a picture, what takes as long."""
    if config.data.images != "none":
        return PICTURE_FACTOR * RESNET_MACS[config.model.encoder] * (config.data.image_size / 224) ** 2
    return num_points * sum(a * b for a, b in pairwise((3, *config.model.encoder_channels)))


def encoded_a_step(config: Config, num_sources: int) -> int:
    """Shapes that a step of a worker sends through encoders: targets to both, and the candidates."""
    batch, k = config.train.batch_size, config.retrieval.num_candidates
    learned = config.retrieval.source_embedding == "code"
    retrieval = config.train.method != "df"
    return batch + retrieval * (batch + (0 if learned else min(batch * k, num_sources)))


def step_seconds(config: Config, num_sources: int, measured: Measured = MEASURED) -> float:
    """A training step of one worker on one thread."""
    macs = encoder_macs(config, config.data.encoder_points)
    pairs = config.train.batch_size * config.retrieval.num_candidates
    return 1e-9 * measured.encode_ns * macs * encoded_a_step(config, num_sources) + (
        1e-6 * measured.pair_us * pairs * config.data.num_points
    )


def validation_seconds(config: Config, num_sources: int, num_targets: int, measured: Measured = MEASURED) -> float:
    """One validation: all sources and targets are encoded, one pair a target is measured."""
    encoded = 2 * num_targets + num_sources
    forward = FORWARD_SHARE * measured.encode_ns * encoder_macs(config, config.data.encoder_points)
    return 1e-9 * forward * encoded + 1e-6 * measured.pair_us * num_targets * config.data.num_points


def step_bytes(config: Config, num_sources: int, measured: Measured = MEASURED) -> float:
    """What a worker holds of a step at its peak: what encoders and the deformation keep for their gradients."""
    widths = sum(config.model.encoder_channels[:-1])  # the widest layer keeps its maxima alone
    if config.data.images == "none":
        numbers = encoded_a_step(config, num_sources) * config.data.encoder_points * widths
    else:  # channels times pixels of all layers of a resnet come to about this many numbers a pixel
        numbers = encoded_a_step(config, num_sources) * config.data.image_size**2 * 90
    numbers += config.train.batch_size * config.retrieval.num_candidates * config.data.num_points * 3 * 4
    return 4 * measured.activations * numbers


def measuring_seconds(
    num_targets: int, num_sources: int, num_points: int, num_rows: int, *, ido: bool, measured: Measured = MEASURED
) -> float:
    """The tables: `num_rows` = runs times protocols."""
    each = measured.measure_ido_us if ido else measured.measure_us
    return measured.measure_s + 1e-6 * each * num_targets * num_sources * num_points * num_rows


def rendering_seconds(num_pictures: int, size: int, measured: Measured = MEASURED) -> float:
    """Pictures of `size` pixels a side."""
    return num_pictures * (1e-3 * measured.render_ms + 1e-9 * measured.render_ns_pixel * size**2)


def ingesting_seconds(sizes: Sequence[int], measured: Measured = MEASURED) -> float:
    """Files of so many bytes."""
    return 1e-3 * (len(sizes) * measured.ingest_ms + sum(sizes) / MB * measured.ingest_ms_mb)


def fitting_seconds(num_inputs: int, top_k: int, *, refine: bool, measured: Measured = MEASURED) -> float:
    """Scans by a run that is loaded."""
    return num_inputs * (measured.fit_s + top_k * refine * measured.fit_refine_s)


def dataset_bytes(num_shapes: int, num_points: int, measured: Measured = MEASURED) -> float:
    """A dataset on disk."""
    return num_shapes * num_points * measured.shape_bytes_point


def shared_by(seconds: float, processes: float) -> float:
    """What is left of a time where so many processes share the work and a processor each."""
    return seconds / max(1.0, math.floor(processes))
