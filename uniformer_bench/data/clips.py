"""What a data set is to the rest: three splits of uint8 clips, names for the classes, and a card."""

from typing import Any, NamedTuple

import numpy as np

from uniformer_bench.data.reading import StreamedClips


class Split(NamedTuple):
    """`clips` (N, T, H, W, 3) uint8, C-contiguous and perhaps memory-mapped, or streamed; `labels` (N) int64."""

    clips: np.ndarray | StreamedClips
    labels: np.ndarray


class Clips(NamedTuple):
    """A data set at one number of frames and one size. `test` is read once, for finalists only.

    `card` is plain data for pages: name, hash, counts, what was left out and why.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    card: dict[str, Any]
