"""Random architectures over every option, for tests where two routes must agree."""

import random

from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec

CLIP = {"frames": 4, "size": 32}
ODD = (1, 3, 5)


def random_spec(seed: int) -> ArchSpec:
    """One to four stages of any mixer, tube, DPE, FFN and scale, on a small clip."""
    rng = random.Random(seed)
    head_dim = rng.choice((2, 4, 8))
    stages = tuple(_random_stage(rng, head_dim) for _ in range(rng.randint(1, 4)))
    conv_stem = rng.random() < 0.2
    stem = PatchSpec(kernel=(1, 3, 3), stride=(1, 2, 2), kind="conv", layers=rng.choice((1, 2)))
    return ArchSpec(
        stages=stages,
        in_channels=rng.choice((1, 3)),
        stem=stem if conv_stem else PatchSpec(kernel=(rng.choice((1, 3)), 2, 2), stride=(rng.choice((1, 2)), 2, 2)),
        downsample=PatchSpec(kernel=(rng.choice((1, 3)), 2, 2), stride=(1, 2, 2), kind=rng.choice(("patch", "conv"))),
        head_dim=head_dim,
        mlp_ratio=rng.choice((1, 1.5, 4)),
        drop_path=rng.choice((0.0, 0.1)),
    )


def _random_stage(rng: random.Random, head_dim: int) -> StageSpec:
    def odd():
        return tuple(rng.choice(ODD) for _ in range(3))

    return StageSpec(
        mixer=rng.choice(("local", "global", "split")),
        depth=rng.randint(1, 2),
        width=8 * rng.randint(1, 3),
        kernel=odd(),
        head_dim=rng.choice((None, 2, head_dim)),
        mlp_ratio=rng.choice((None, 2)),
        dpe_kernel=rng.choice((None, odd())),
        ffn=rng.random() < 0.8,
        layer_scale=rng.choice((None, None, 1e-6)),
    )
