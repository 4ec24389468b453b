"""The methods by the name that `train.method` gives them."""

from jr_dist.train.methods.ae import AE
from jr_dist.train.methods.dar import DAR
from jr_dist.train.methods.df import DF
from jr_dist.train.methods.fit_aware import FIT_AWARE
from jr_dist.train.methods.mds import MDS
from jr_dist.train.methods.method import Method
from jr_dist.train.methods.ours import OURS
from jr_dist.train.methods.ours_ido import OURS_IDO
from jr_dist.train.methods.uniform import UNIFORM

METHODS: dict[str, Method] = {method.name: method for method in (OURS, OURS_IDO, UNIFORM, DF, DAR, MDS, AE, FIT_AWARE)}
