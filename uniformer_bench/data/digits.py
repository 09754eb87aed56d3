"""Digits in motion: the built-in clips, made of real handwritten digits that move, turn, meet and hide.

A clip shows two digits: a round one (0, 3, 6, 8, 9), which acts, and a straight one (1, 4, 7), which does
something of its own and is often the dimmer. The label is what the round one does, so it takes appearance
to know whom to watch, local motion to see it move, and order over the whole clip to tell the later classes
apart. Contrast, noise and speed are drawn clip by clip from easy to nearly hopeless, so that accuracy climbs
steadily and no model reaches 100 %.

The digits are scikit-learn's bundled UCI set; an image is in one split only. Coordinates are in units of
half the picture, x to the right and y down, times run from 0 to 1 over the clip.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uniformer_bench.data.cache import cache_dir, cached_arrays
from uniformer_bench.data.clips import Clips, Split

VERSION = 5  # of the recipe: part of the key of the cache
CLASSES = (
    "moves left", "moves right", "moves up", "moves down",
    "turns clockwise", "turns anticlockwise",
    "stops", "turns back",
    "moves, then turns", "turns, then moves",
    "hides and returns", "hides and another returns",
    "meets and passes", "meets and bounces",
)  # fmt: skip
COUNTS = {"train": 3072, "validation": 2048, "test": 2048}
PLENTY = 4  # times as many training clips where they are small: a long training then learns them less by heart
PLENTY_BYTES = 320 << 20  # what the training clips may take for that
ROUND, STRAIGHT = (0, 3, 6, 8, 9), (1, 4, 7)
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of the handwritten images
SPRITE = 8  # pixels of a handwritten digit
FULL_TURN = 2 * np.pi


class Actor(NamedTuple):
    """One digit over all clips: arrays of (N, T), and `images` (N, T, 8, 8) in 0 to 1."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    brightness: np.ndarray
    images: np.ndarray


def counts_of(frames: int, size: tuple[int, int]) -> dict[str, int]:
    """How many clips each split has at this number of frames and size."""
    many = PLENTY * COUNTS["train"]
    fits = many * frames * size[0] * size[1] * 3 <= PLENTY_BYTES
    return {**COUNTS, "train": many if fits else COUNTS["train"]}


def load_digits_in_motion(*, frames: int, size: tuple[int, int], seed: int, cache: Path | None = None) -> Clips:
    """The built-in clips at this number of frames and size: made once for each seed, then read from the cache."""
    counts = counts_of(frames, size)
    text = f"digits in motion {VERSION} {frames} {size} {seed} {counts}"
    key = f"digits-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    arrays = cached_arrays(cache_dir(cache), key, lambda: _make(frames, size, seed))
    splits = {name: Split(arrays[f"{name}_clips"], arrays[f"{name}_labels"]) for name in counts}
    card = {
        "name": "digits in motion", "kind": "builtin", "version": VERSION, "hash": key, "seed": seed,
        "frames": frames, "size": list(size), "classes": list(CLASSES), "counts": counts, "left_out": [],
    }  # fmt: skip
    return Clips(splits["train"], splits["validation"], splits["test"], CLASSES, card)


def _make(frames: int, size: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    rng, counts = np.random.default_rng(seed), counts_of(frames, size)
    arrays = {}
    for name, images in _image_splits(rng).items():
        labels = np.arange(counts[name], dtype=np.int64) % len(CLASSES)
        rng.shuffle(labels)
        arrays[f"{name}_labels"] = labels
        arrays[f"{name}_clips"] = draw(labels, images, frames, size, rng)
    return arrays


def _image_splits(rng: np.random.Generator) -> dict[str, dict[int, np.ndarray]]:
    """The handwritten images of every digit, dealt out so that none is in two splits."""
    from sklearn.datasets import load_digits  # half a second, and only when clips are made

    pictures, names = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, SPRITE, SPRITE).astype(np.float32) / 16
    bounds = np.cumsum([0, *SHARES.values()])
    splits: dict[str, dict[int, np.ndarray]] = {name: {} for name in SHARES}
    for digit in (*ROUND, *STRAIGHT):
        own = rng.permutation(pictures[names == digit])
        for name, low, high in zip(SHARES, bounds, bounds[1:], strict=False):
            splits[name][digit] = own[round(low * len(own)) : round(high * len(own))]
    return splits


def draw(
    labels: np.ndarray,
    images: dict[int, np.ndarray],
    frames: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """A clip for every label: (N, T, H, W, 3) uint8."""
    target, other = _script(labels, images, frames, rng)
    n = len(labels)
    noise = rng.uniform(0.02, 0.12, n)
    colours = rng.uniform(0.45, 1.0, (2, n, 3)).astype(np.float32)
    scale = rng.uniform(0.30, 0.42, (2, n)).astype(np.float32)
    background = rng.uniform(0.0, 0.25, (n, 3)).astype(np.float32)
    clips = np.empty((n, frames, *size, 3), np.uint8)
    for start in range(0, n, 256):  # a part at a time, so that memory stays small
        part = slice(start, start + 256)
        picture = background[part, None, None, None, :]
        for actor, colour, extent in zip((other, target), colours, scale, strict=True):
            ink = _ink(Actor(*(field[part] for field in actor)), extent[part], size)[..., None]
            picture = picture * (1 - ink) + ink * colour[part, None, None, None, :]
        shape = (*picture.shape[:4], 1)
        grain = rng.standard_normal(shape, dtype=np.float32) * noise[part, None, None, None, None]
        clips[part] = np.clip((picture + grain) * 255, 0, 255).astype(np.uint8)
    return clips


def _ink(actor: Actor, extent: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much of each pixel the digit covers: (N, T, H, W), by sampling its image under the pixel."""
    import torch
    import torch.nn.functional as F

    n, frames = actor.x.shape
    cos, sin = np.cos(actor.angle) / extent[:, None], np.sin(actor.angle) / extent[:, None]
    shift_x = -(cos * actor.x + sin * actor.y)
    shift_y = -(-sin * actor.x + cos * actor.y)
    rows = np.stack([np.stack([cos, sin, shift_x], -1), np.stack([-sin, cos, shift_y], -1)], -2)
    theta = torch.from_numpy(rows.reshape(n * frames, 2, 3).astype(np.float32))
    grid = F.affine_grid(theta, [n * frames, 1, *size], align_corners=False)
    sprites = torch.from_numpy(actor.images.reshape(n * frames, 1, SPRITE, SPRITE))
    covered = F.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    ink: np.ndarray = covered.numpy().reshape(n, frames, *size)
    return ink * actor.brightness[..., None, None].astype(np.float32)


class _Course(NamedTuple):
    """Where a digit goes: through `centre` along `heading`, arrays of (N, 2); all the way is `reach` (N)."""

    centre: np.ndarray
    heading: np.ndarray
    reach: np.ndarray

    def at(self, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y (N, T) after this part (N, T) of the way from the centre; before it where negative."""
        along = self.reach[:, None] * gone
        return self.centre[:, :1] + self.heading[:, :1] * along, self.centre[:, 1:] + self.heading[:, 1:] * along


def _script(
    labels: np.ndarray, images: dict[int, np.ndarray], frames: int, rng: np.random.Generator
) -> tuple[Actor, Actor]:
    """Who is where in every frame: the digit that acts, and the other."""
    n = len(labels)
    time = np.tile((np.arange(frames) + 0.5) / frames, (n, 1))
    middle = rng.uniform(0.3, 0.7, (n, 1))
    course = _Course(rng.uniform(-0.2, 0.2, (n, 2)), _headings(labels, rng), rng.uniform(0.4, 0.9, n))
    gone, turned = _motion(labels, time, middle, rng)
    x, y = course.at(gone)
    hidden = _is(labels, "hides and returns", "hides and another returns") & (abs(time - middle) < 0.15)
    swapped = _is(labels, "hides and another returns") & (time > middle)
    first, second = _two_images(images, ROUND, rng, n)
    target = Actor(x, y, turned, np.where(hidden, 0.0, 1.0), np.where(swapped[..., None, None], second, first))
    return target, _other(labels, course, gone, images, time, rng)


def _is(labels: np.ndarray, *names: str) -> np.ndarray:
    """(N, 1): whether a clip is of one of these classes."""
    return np.isin(labels, [CLASSES.index(name) for name in names])[:, None]


def _headings(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (N, 2): along the label's direction within 20 degrees, else anywhere."""
    angle = rng.uniform(0, FULL_TURN, len(labels))
    jitter = rng.uniform(-1, 1, len(labels)) * FULL_TURN / 18
    for name, quarter in (("moves right", 0), ("moves down", 1), ("moves left", 2), ("moves up", 3)):
        angle = np.where(_is(labels, name)[:, 0], quarter * FULL_TURN / 4 + jitter, angle)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _motion(
    labels: np.ndarray, time: np.ndarray, middle: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the way gone, and the angle turned by, at every time: (N, T) each.

    Both are counted from half-time, for those who meet from when they meet, so that where a digit is and
    how it lies in the middle of the clip says nothing of its class.
    """
    centre = np.where(_is(labels, "meets and passes", "meets and bounces"), middle, 0.5)
    gone, turned = (
        now - then for now, then in zip(_phases(labels, time, middle), _phases(labels, centre, middle), strict=True)
    )
    sign = rng.choice([-1.0, 1.0], (len(labels), 1))
    sign = np.where(_is(labels, "turns clockwise"), 1.0, np.where(_is(labels, "turns anticlockwise"), -1.0, sign))
    tilt = rng.uniform(-0.3, 0.3, sign.shape)
    return gone, tilt + sign * turned * rng.uniform(0.15, 0.5, sign.shape) * FULL_TURN


def _phases(labels: np.ndarray, time: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far along its way, and along its turn, an actor of this class is at a time in 0 to 1."""
    before, after = np.clip(time / middle, 0, 1), np.clip((time - middle) / (1 - middle), 0, 1)
    gone = np.where(_is(labels, "turns back", "meets and bounces"), before - after, time)
    gone = np.where(_is(labels, "stops", "moves, then turns"), before, gone)
    gone = np.where(_is(labels, "turns, then moves"), after, gone)
    gone = np.where(_is(labels, "turns clockwise", "turns anticlockwise"), 0.0, gone)
    turned = np.where(_is(labels, "turns clockwise", "turns anticlockwise"), time, 0.0)
    turned = np.where(_is(labels, "moves, then turns"), after, turned)
    return gone, np.where(_is(labels, "turns, then moves"), before, turned)


def _other(
    labels: np.ndarray,
    course: _Course,
    gone: np.ndarray,
    images: dict[int, np.ndarray],
    time: np.ndarray,
    rng: np.random.Generator,
) -> Actor:
    """The straight digit: it comes to meet the round one where the label says so, else moves or rests beside it."""
    n = len(labels)
    angle = rng.uniform(0, FULL_TURN, n)
    aside = np.stack([-course.heading[:, 1], course.heading[:, 0]], -1) * rng.uniform(0.15, 0.6, (n, 1))
    centre = course.centre + aside * rng.choice([-1.0, 1.0], (n, 1))
    own = _Course(centre, np.stack([np.cos(angle), np.sin(angle)], -1), rng.uniform(0.0, 0.8, n))
    meets = _is(labels, "meets and passes", "meets and bounces")
    pairs = zip(course.at(-gone), own.at(time - 0.5), strict=True)
    x, y = (np.where(meets, towards, alone) for towards, alone in pairs)
    brightness = np.repeat(rng.uniform(0.25, 0.9, (n, 1)), time.shape[1], axis=1)
    turned = rng.uniform(-0.3, 0.3, (n, 1)) + time * rng.choice([0.0, 0.0, -1.5, 1.5], (n, 1))
    image, _ = _two_images(images, STRAIGHT, rng, n)
    return Actor(x, y, turned, brightness, np.repeat(image, time.shape[1], axis=1))


def _two_images(
    images: dict[int, np.ndarray], digits: tuple[int, ...], rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two images (N, 1, 8, 8) each, of two different digits out of `digits`."""
    choice = rng.integers(len(digits), size=n)
    other = (choice + rng.integers(1, len(digits), size=n)) % len(digits)
    first, second = (np.stack([rng.choice(images[digits[c]]) for c in row])[:, None] for row in (choice, other))
    return first, second
