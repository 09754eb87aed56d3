"""Two hundred files that something is odd or wrong with: each is read right, or listed with its reason.

Read right means that the sampled frames are those that were encoded, which are others for every file: nothing is
taken from elsewhere, shifted or made up. Every file goes through another process first, so that a crash or a hang
is a failure here.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.videos import rotate, textured_clip, write_picture, write_sound, write_timed, write_video
from uniformer_bench.data import video as video_module
from uniformer_bench.data.listing import Video
from uniformer_bench.data.reading import read_video
from uniformer_bench.data.video import UnreadableError, read_clip, sample_indices

FRAMES, SIZE, LENGTH = 4, (24, 32), 12
EACH = 10  # files of a kind


class Case(NamedTuple):
    """A file, and the clip (T, H, W, 3) that is in it where it must or may be read."""

    path: Path
    clip: np.ndarray | None
    must_read: bool


Make = Callable[[Path, np.ndarray, int], tuple[Path, np.ndarray | None, bool]]


def cut(path: Path, number: int, first: float = 0.2, last: float = 0.85) -> Path:
    """Ends the file after a part of it, another part for each number."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * (first + (last - first) * number / (EACH - 1)))])
    return path


def zero(path: Path, number: int) -> Path:
    """Zeroes a twentieth of the file, somewhere else for each number."""
    data = bytearray(path.read_bytes())
    start = len(data) * (2 * number + 1) // (2 * EACH)
    data[start : start + len(data) // 20] = bytes(len(data[start : start + len(data) // 20]))
    path.write_bytes(data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def odd(path: Path, clip: np.ndarray, number: int) -> tuple[Path, np.ndarray, bool]:
    clip = textured_clip(LENGTH, (17 + 2 * (number % 5), 23 + 2 * (number // 5)), number)
    return write_timed(path.with_suffix(".mp4"), clip, list(range(0, 4 * LENGTH, 4)), "yuv444p"), clip, True


def rotated(path: Path, clip: np.ndarray, number: int) -> tuple[Path, np.ndarray, bool]:
    quarters = number % 4
    turned = np.rot90(clip, -quarters, (1, 2))  # numpy turns anticlockwise
    return rotate(write_video(path.with_suffix(".mp4"), clip), quarters), turned, True


def variable(path: Path, clip: np.ndarray, number: int) -> tuple[Path, np.ndarray, bool]:
    gaps = np.random.default_rng(number).integers(1, 60, LENGTH)
    suffix = (".mp4", ".mkv")[number % 2]
    return write_timed(path.with_suffix(suffix), clip, np.cumsum(gaps).tolist()), clip, True


def misnamed(path: Path, clip: np.ndarray, number: int) -> tuple[Path, np.ndarray, bool]:
    real, shown = ((".mp4", ".avi"), (".mkv", ".mp4"), (".mp4", ".mpg"), (".mkv", ".gif"))[number % 4]
    return write_video(path.with_suffix(real), clip).rename(path.with_suffix(shown)), clip, True


JUNK = (
    b"x", b"\0", b"hello, this is text\n" * 50, b"<html><body>404 Not Found</body></html>", b"\xff" * 999,
    b"#EXTM3U\n#EXTINF:1,\nintact0.mp4\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile intact0.mp4\n",
    b"RIFF\xff\xff\xff\xffAVI LIST", b"\0\0\0\x18ftypisom\0\0\0\0isom", b"\x1a\x45\xdf\xa3\xff\xff\xff\xff",
)  # fmt: skip

KINDS: dict[str, Make] = {
    "intact": lambda path, clip, n: (write_video(path.with_suffix((".mp4", ".mkv")[n % 2]), clip), clip, True),
    "odd": odd,
    "rotated": rotated,
    "variable": variable,
    "misnamed": misnamed,
    "one_frame": lambda path, clip, n: (write_video(path.with_suffix(".mp4"), clip[:1]), clip[:1], True),
    "short": lambda path, clip, n: (write_video(path.with_suffix(".mp4"), clip[: 1 + n % 3]), clip[: 1 + n % 3], True),
    "with_sound": lambda path, clip, n: (
        write_timed(path.with_suffix((".mp4", ".mkv")[n % 2]), clip, list(range(0, 4 * LENGTH, 4)), sound=True),
        clip,
        True,
    ),
    "long_name": lambda path, clip, n: (
        write_video(path.with_name(f"{n} [b]'; $(x) ünï 猫 %s" + "n" * 150 + ".mp4"), clip), clip, True
    ),
    "empty": lambda path, clip, n: (written(path.with_suffix((".mp4", ".avi")[n % 2]), b""), None, False),
    "junk": lambda path, clip, n: (written(path.with_suffix((".mp4", ".mpg")[n % 2]), JUNK[n]), None, False),
    "random": lambda path, clip, n: (
        written(path.with_suffix((".mp4", ".mpg", ".mkv")[n % 3]), np.random.default_rng(n).bytes(3000)), None, False
    ),
    "all_zero": lambda path, clip, n: (written(path.with_suffix((".mp4", ".mpg")[n % 2]), bytes(1 << n)), None, False),
    "sound_alone": lambda path, clip, n: (write_sound(path.with_suffix((".mp4", ".mkv")[n % 2])), None, False),
    "picture": lambda path, clip, n: (
        write_picture(path.with_suffix((".png", ".jpg")[n % 2]), clip[0]).rename(path.with_suffix(".mp4")), None, False
    ),
    "cut": lambda path, clip, n: (cut(write_video(path.with_suffix(".mp4"), clip), n), None, False),
    "cut_behind_index": lambda path, clip, n: (
        cut(write_video(path.with_suffix(".mp4"), clip, movflags="faststart"), n), None, False
    ),
    "cut_mkv": lambda path, clip, n: (cut(write_video(path.with_suffix(".mkv"), clip), n), None, False),
    "cut_avi": lambda path, clip, n: (cut(write_video(path.with_suffix(".avi"), clip, "mpeg4"), n, 0.3), None, False),
    "zeroed": lambda path, clip, n: (
        zero(write_video(path.with_suffix((".mp4", ".mkv")[n % 2]), clip), n), clip, False
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    """Twenty kinds, ten of each, in two classes."""
    root = tmp_path_factory.mktemp("damaged")
    made = []
    for place, (kind, make) in enumerate(KINDS.items()):
        for number in range(EACH):
            folder = root / ("left", "right")[number % 2]
            folder.mkdir(exist_ok=True)
            made.append(
                Case(*make(folder / f"{kind}{number}", textured_clip(LENGTH, SIZE, 100 * place + number), number))
            )
    return made


@pytest.fixture(scope="module")
def document(cases) -> dict:
    """What `ubench data check` says of them all, from a process that may neither crash nor hang."""
    code = "from uniformer_bench.cli import main; main()"
    words = ["data", "check", str(cases[0].path.parents[1]), "--frames", FRAMES, "--size", 24, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout)


def test_there_are_two_hundred(cases, document):
    assert len(cases) == len({case.path for case in cases}) == document["looked_at"] == 200


def test_each_is_read_or_listed_with_its_reason(cases, document):
    bad = {entry["path"]: entry["reason"] for entry in document["bad"]}
    root = cases[0].path.parents[1]
    for case in cases:
        reason = bad.get(case.path.relative_to(root).as_posix())
        assert (reason is None) or not case.must_read, f"{case.path.name} must be read: {reason}"
        assert reason or case.clip is not None, f"{case.path.name} must be listed"
        assert reason != "", case.path.name
        assert str(root) not in (reason or "")


def test_what_is_read_is_read_right(cases):
    read = 0
    for case in cases:
        if case.clip is None:
            continue
        row = np.zeros((FRAMES, *case.clip.shape[1:]), np.uint8)
        reading, facts = read_video(Video(case.path, case.path.name, 0, None, None), row)
        if reading.fault is None:
            read += 1
            assert facts.frames == len(case.clip)
            expected = case.clip[sample_indices(len(case.clip), FRAMES)]
            np.testing.assert_allclose(row.astype(int), expected, atol=4, err_msg=case.path.name)
    assert read >= 9 * EACH


def test_a_file_that_decodes_for_too_long_is_left_out(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", textured_clip(LENGTH, SIZE, 0))
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(video_module.time, "monotonic", lambda: next(clock))
    with pytest.raises(UnreadableError, match="decoding takes longer than 600 s"):
        read_clip(path, np.zeros((FRAMES, *SIZE, 3), np.uint8))
