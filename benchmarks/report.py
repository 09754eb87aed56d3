"""How large a page is, how long it takes to build, and how fast a selection answers in a browser.

    python benchmarks/report.py            200 and 5,000 trials
    python benchmarks/report.py --trials 200 --no-browser

Runs are synthetic (tests/make_run.py). Limits: 5.5 MB and 3 s at 200 trials, 7 MB and 10 s at 5,000, the same bytes
twice; a selection over 5,000 trials in the front's plot has filtered the table, and is painted, within 200 ms of the
mouse's release (the median of five; it needs Chromium and playwright). Exits with 1 where a limit is broken.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import browser
from tests.make_run import make_run, save_run
from uniformer_bench.report import write_report

LIMITS = {200: (5.5e6, 3.0), 5000: (7e6, 10.0)}  # trials: bytes, seconds
SELECTION_MS = 200
REPEATS = 5
# resolves with the milliseconds from the mouse's release to the frame in which the table was filtered
WATCH = """window.waited = new Promise(done => addEventListener('pointerup', () => {
  const start = performance.now(), before = byId('trial-count').textContent;
  const look = () => byId('trial-count').textContent === before ? requestAnimationFrame(look)
    : requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  look();
}, { once: true, capture: true })); 0"""


def build(trials: int, folder: Path) -> tuple[Path, float, bool]:
    """(the page, seconds to build it, whether it came out the same twice)."""
    run = save_run(make_run(trials), folder / f"run-{trials}")
    start = time.perf_counter()
    page = write_report(run, folder)
    seconds, first = time.perf_counter() - start, page.read_bytes()
    return page, seconds, write_report(run, folder).read_bytes() == first


def selections_ms(path: Path) -> list[float]:
    """Milliseconds of some selections with the mouse, each over another part of the plot."""
    with browser.browser() as chromium, browser.tab(chromium, path) as (page, _, _):
        page.locator("#plot-front").scroll_into_view_if_needed()
        box = page.locator("#plot-front .nsewdrag").first.bounding_box()
        return [_select(page, box, 0.3 + 0.1 * i) for i in range(REPEATS)]


def _select(page, box, share: float) -> float:
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"], steps=4)
    page.wait_for_timeout(500)
    page.evaluate(WATCH)
    page.mouse.up()
    waited = page.evaluate("waited")
    page.wait_for_timeout(500)
    return waited


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=list(LIMITS))
    parser.add_argument("--no-browser", action="store_true")
    given = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        for trials in given.trials:
            page, seconds, same = build(trials, Path(folder))
            most_bytes, most_s = LIMITS.get(trials, (float("inf"), float("inf")))
            size = page.stat().st_size
            twice = "the same bytes twice" if same else "OTHER BYTES when built again"
            print(f"{trials:>6} trials: {size / 1e6:.2f} MB, built in {seconds:.2f} s, {twice}")
            kept &= same and size <= most_bytes and seconds <= most_s
            if not given.no_browser:
                found = selections_ms(page)
                middle = statistics.median(found)
                print(f"               selection: {middle:.0f} ms ({min(found):.0f} to {max(found):.0f})")
                kept &= middle <= SELECTION_MS
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
