"""Do the built-in clips separate architectures? What docs/log.md says of them comes from here.

    python benchmarks/clips.py            about 8 minutes on one core

Five questions, by short runs of the tiny space on its own clips:
1. the spread of accuracy between random architectures, against that between seeds of each baseline;
2. the best short run, and the same architecture trained 8 times as long;
3. what is left when the frames of every clip are shuffled (trained and tested so);
4. what a model reaches that sees one frame only, repeated;
5. the time a short run takes.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Split
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.space import Choice, Domain, Space, random_pick
from uniformer_bench.space_file import load_space
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import short_run, to_input


def run(spec: ArchSpec, train: Split, test: Split, recipe: Recipe, classes: int, seed: int) -> tuple[float, float]:
    """(validation accuracy, seconds of training)."""
    torch.manual_seed(seed)
    model = build(spec, classes)
    outcome = short_run(model, train, recipe, device="cpu", seed=seed)
    assert outcome.diverged is None, outcome.diverged
    return accuracy(model, test, to_input=to_input, device="cpu").value, outcome.seconds


def shuffled(split: Split) -> Split:
    """The frames of every clip in an order of its own."""
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(split.clips.shape[1]) for _ in split.labels])
    return Split(np.take_along_axis(split.clips, orders[:, :, None, None, None], axis=1), split.labels)


def one_frame(split: Split) -> Split:
    """The middle frame of every clip, in place of all."""
    frames = split.clips.shape[1]
    return Split(np.repeat(split.clips[:, frames // 2, None], frames, axis=1), split.labels)


def baselines(space: Space) -> Iterator[tuple[str, ArchSpec]]:
    """The space's baselines by name: the paper's pattern and its ablations."""
    for name, picks in space.baseline_picks():

        def pick(parameter: str, domain: Domain, picks=picks) -> object:
            label = picks[parameter]
            return domain.options[domain.labels.index(label)] if isinstance(domain, Choice) else label

        yield name, space.candidate(pick).spec


def main(architectures: int, seeds: int) -> None:
    torch.set_num_threads(1)
    space = load_space("tiny")
    clips = load_clips("builtin", space.data.frames, space.data.size, 0, None)
    classes, recipe, rng = len(clips.classes), space.recipe, random.Random(0)
    started = time.perf_counter()

    def trained(
        spec: ArchSpec, seed: int = 0, recipe: Recipe = recipe, change=lambda split: split
    ) -> tuple[float, float]:
        return run(spec, change(clips.train), change(clips.validation), recipe, classes, seed)

    specs = [space.candidate(random_pick(rng)).spec for _ in range(architectures)]
    runs = [trained(spec) for spec in specs]
    found = [value for value, _ in runs]
    print(f"random architectures: {', '.join(f'{v:.3f}' for v in found)}", flush=True)
    best, between = specs[int(np.argmax(found))], statistics.stdev(found)
    print(f"1. spread (standard deviation) between {len(specs)} random architectures {between:.4f}", flush=True)
    for name, spec in baselines(space):
        same = [trained(spec, seed)[0] for seed in range(seeds)]
        within = statistics.stdev(same)
        print(f"   between seeds of {name} ({', '.join(f'{v:.3f}' for v in same)}) {within:.4f}: ", end="")
        print(f"ratio {between / within:.1f}", flush=True)
    longer = trained(best, recipe=replace(recipe, epochs=8 * recipe.epochs))[0]
    print(f"2. best short run {max(found):.3f} ({best.pattern} {best.id}); 8 times as long {longer:.3f}")
    mixed = trained(best, change=shuffled)[0]
    print(f"3. frames shuffled {mixed:.3f}: costs {100 * (max(found) - mixed):.0f} points")
    single = trained(best, change=one_frame)[0]
    print(f"4. one frame {single:.3f}: {100 * (single - 1 / classes):.0f} points above chance, {1 / classes:.3f}")
    seconds = [value for _, value in runs]
    print(
        f"5. a short run takes {statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s at most, on one core"
    )
    print(f"all in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    main(arguments.architectures, arguments.seeds)
