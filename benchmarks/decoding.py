"""Decoding videos against a bare PyAV loop, and the second start: `python benchmarks/decoding.py`.

Makes mp4s (H.264, 320x240, 64 frames) once in a temporary folder, then reads them in parts, each part by both: the
bare loop opens a file, decodes all of its frames and takes 16 of them at 112x112, and nothing more; ours also hashes
the file, checks it, turns, crops and fills the cache's row. Both read as many files at a time as there are cores.
The ratio is the median over the parts, of wall and of CPU time, so that other work touches both. Then the whole
first start, and the second, which reads the cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np

from uniformer_bench.data import load_clips
from uniformer_bench.data.listing import Video
from uniformer_bench.data.reading import read_video, side_by_side
from uniformer_bench.data.sources import read_listing
from uniformer_bench.data.video import sample_indices
from uniformer_bench.measure.protocol import default_threads

FRAMES, SIZE = 16, (112, 112)
LENGTH, HEIGHT, WIDTH = 64, 240, 320


def write_videos(root: Path, count: int) -> None:
    """`count` different videos in four classes: a textured picture that drifts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 80, 3), np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)
    for index in range(count):
        path = root / f"class{index % 4}" / f"{index:04}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shift, step = rng.integers(0, 400, 2), rng.integers(-3, 4, 2)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for t in range(LENGTH):
                view = np.roll(picture, tuple(shift + t * step), (0, 1))[:HEIGHT, :WIDTH]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(view), "rgb24")))
            container.mux(stream.encode())


def bare(video: Video) -> np.ndarray:
    """The loop that anybody would write."""
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = set(sample_indices(stream.frames, FRAMES))
        pictures = [
            frame.reformat(*SIZE, "rgb24", threads=1).to_ndarray()  # more would only get in the way of other files
            for index, frame in enumerate(container.decode(stream))
            if index in wanted
        ]
    return np.stack(pictures)


def ours(video: Video) -> np.ndarray:
    """What loading does with a file."""
    row = np.empty((FRAMES, *SIZE, 3), np.uint8)
    reading, _ = read_video(video, row)
    assert reading.fault is None, reading.fault
    return row


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def run_bare(videos: list[Video], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(bare, videos))


def compare(videos: list[Video], parts: int) -> None:
    threads = default_threads()
    ratios: list[tuple[float, float]] = []
    total = np.zeros((2, 2))
    for place, part in enumerate(np.array_split(np.arange(len(videos)), parts)):
        some = [videos[index] for index in part]
        pair = [lambda some=some: run_bare(some, threads), lambda some=some: list(side_by_side(ours, some))]
        order = (0, 1) if place % 2 == 0 else (1, 0)
        times = {which: timed(pair[which]) for which in order}
        total += [times[0], times[1]]
        ratios.append((times[0][0] / times[1][0], times[0][1] / times[1][1]))
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    for name, (seconds, cores) in zip(("bare loop", "ours"), total, strict=True):
        print(f"{name:10}{seconds:7.1f} s  {len(videos) / seconds:6.1f} videos/s  {cores / seconds:.2f} cores busy")
    print(f"ours reaches {100 * wall:.0f} % of the bare loop by wall time, {100 * cpu:.0f} % by CPU time (aim: 90 %)")


def starts(root: Path, cache: Path) -> None:
    """The first start of a search, as far as data goes, and the second."""
    for name in ("first start", "second start"):
        wall, _ = timed(lambda: load_clips(str(root), FRAMES, SIZE, 0, cache))
        print(f"{name:13}{wall:7.2f} s")


def main(count: int, parts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "videos"
        print(f"making {count} videos of {LENGTH} frames, {WIDTH}x{HEIGHT}", flush=True)
        write_videos(root, count)
        videos = read_listing(root).videos
        clip = f"{FRAMES}x{SIZE[0]}x{SIZE[1]}"
        print(f"{count} clips of {clip}, {default_threads()} files at a time, PyAV {av.__version__}", flush=True)
        compare(videos, parts)
        starts(root, Path(folder) / "cache")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="videos")
    parser.add_argument("--parts", type=int, default=20, help="pairs of timings")
    arguments = parser.parse_args()
    main(arguments.count, arguments.parts)
