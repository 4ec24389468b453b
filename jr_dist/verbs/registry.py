"""The verbs by name, in the order in which they are used."""

from jr_dist.verbs.compare import COMPARE
from jr_dist.verbs.evaluate import EVALUATE
from jr_dist.verbs.fit import FIT
from jr_dist.verbs.ingest import INGEST
from jr_dist.verbs.render import RENDER
from jr_dist.verbs.sweep import SWEEP
from jr_dist.verbs.synthesize import SYNTHESIZE
from jr_dist.verbs.train import TRAIN
from jr_dist.verbs.verb import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb for verb in (SYNTHESIZE, INGEST, RENDER, TRAIN, SWEEP, COMPARE, EVALUATE, FIT)
}
