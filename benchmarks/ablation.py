"""Does a short run on the built-in clips give the paper's order of patterns? LLGG > LLLG > LLLL, and GGGG last.

    python benchmarks/ablation.py FILE --shard 0/2 &     may be stopped and started again; another FILE a shard
    python benchmarks/ablation.py FILE --shard 1/2
    python benchmarks/ablation.py FILE FILE --tell       the order that came out, with intervals over seeds

The space is search_spaces/paper_ablation.yaml (arXiv 2201.04676, table 4), its recipe that of its search, one thread.
"""

import argparse
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from samplers import interval
from table import append, read_lines, train

from uniformer_bench.data import load_clips
from uniformer_bench.space import Candidate, Space
from uniformer_bench.space_file import load_space

PATTERNS = ("LLGG", "LLLG", "LLLL", "LGGG", "GGGG")
PAPER = ("LLGG", "LLLG", "LLLL")  # in this order, and before the last
LAST = "GGGG"


def candidates(space: Space) -> dict[str, Candidate]:
    """The architectures of the five patterns by name."""
    return {found.name: found for found in space.architectures if found.name in PATTERNS}


def run(file: Path, seeds: int, shard: tuple[int, int]) -> None:
    """Trains every pattern with every seed of this shard that is not in the file."""
    torch.set_num_threads(1)
    space = load_space("paper_ablation")
    clips = load_clips("builtin", space.data.frames, space.data.size, 0, None)
    found = candidates(space)
    jobs = [(name, seed) for seed in range(seeds) for name in PATTERNS][shard[0] :: shard[1]]
    append(file, jobs, lambda name, seed: train(found[name], clips, space.recipe, seed))


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean accuracy by pattern, the order, how many seeds alone give the paper's, paired differences."""
    right = {name: {r["seed"]: r["accuracy"] or 0.0 for r in rows if r["index"] == name} for name in PATTERNS}
    out = []
    for name, by_seed in right.items():
        mean, half = interval(list(by_seed.values()))
        out.append(f"{name}  {100 * mean:5.1f} ± {100 * half:.1f} %  {len(by_seed)} seeds")
    order = sorted(right, key=lambda name: statistics.mean(right[name].values()), reverse=True)
    out.append(
        f"order: {' > '.join(order)}; the paper's: {_yes(is_papers(order))}; {LAST} last: {_yes(order[-1] == LAST)}"
    )
    whole = set.intersection(*(set(by_seed) for by_seed in right.values()))
    alone = [sorted(PATTERNS, key=lambda name, seed=seed: right[name][seed], reverse=True) for seed in sorted(whole)]
    out.append(f"seeds that give the paper's order alone: {sum(map(is_papers, alone))} of {len(alone)}")
    for better, worse in (*itertools.pairwise(PAPER), *((name, LAST) for name in PATTERNS if name != LAST)):
        both = sorted(right[better].keys() & right[worse].keys())
        mean, half = interval([right[better][seed] - right[worse][seed] for seed in both])
        out.append(f"{better} over {worse}: {100 * mean:+5.1f} ± {100 * half:.1f} points, {len(both)} seeds")
    return out


def is_papers(order: Sequence[str]) -> bool:
    """Whether the three stand as in the paper and the global one is last."""
    return tuple(name for name in order if name in PAPER) == PAPER and order[-1] == LAST


def _yes(said: bool) -> str:
    return "yes" if said else "no"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th training, from the i-th")
    parser.add_argument("--tell", action="store_true", help="print what the files have, train nothing")
    given = parser.parse_args()
    if given.tell:
        print("\n".join(lines([row for path in given.files for row in read_lines(path)])))
    else:
        part, parts = map(int, given.shard.split("/"))
        run(given.files[0], given.seeds, (part, parts))
