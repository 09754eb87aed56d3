"""What is known of an architecture before it is built, and whether a space has any that its limits allow."""

import random
from collections import Counter

from uniformer_bench.cost import Cost, cost
from uniformer_bench.errors import NothingFeasibleError
from uniformer_bench.metrics import LIMITS, broken_limit
from uniformer_bench.space import Candidate, Space, random_pick

FEASIBILITY_SAMPLES = 2000


def closed_form_metrics(total: Cost) -> dict[str, float]:
    """What is known of an architecture before it is built, by metric."""
    return {"params": total.params, "macs": total.macs, "flops": total.flops}


def cost_of(candidate: Candidate, space: Space, num_classes: int) -> Cost:
    """The cost of what is measured, on the clips that it is measured on."""
    frames, size = space.clip_of(candidate)
    return cost(candidate.spec, frames=frames, size=size, num_classes=num_classes)


def check_feasible(space: Space, num_classes: int, seed: int) -> None:
    """Raises NothingFeasibleError where no sampled architecture passes the limits that closed forms know."""
    rng, reasons = random.Random(seed), Counter[str]()
    least: dict[str, float] = {}
    for _ in range(min(FEASIBILITY_SAMPLES, 4 * space.size())):
        metrics = closed_form_metrics(cost_of(space.candidate(random_pick(rng)), space, num_classes))
        if broken_limit(metrics, space.constraints) is None:
            return
        for key in space.constraints:
            value = metrics.get(LIMITS[key].metric)
            if value is not None:
                least[key] = min(least.get(key, value), value)
        reasons[str(broken_limit(metrics, space.constraints))] += 1
    found = ", ".join(f"the least {k} found is {v / LIMITS[k].scale:.4g} {LIMITS[k].unit}" for k, v in least.items())
    raise NothingFeasibleError(
        f"some architecture must meet {dict(space.constraints)}, got none of {reasons.total()}; {found}"
    )


def sample_candidates(space: Space, count: int, seed: int) -> list[Candidate]:
    """Random architectures of the space; all of them where it is a smaller grid."""
    if space.architectures:
        return list(space.architectures)[:count]
    rng = random.Random(seed)
    return [space.candidate(random_pick(rng)) for _ in range(count)]
