"""The page in a real browser, from disk: it draws, fills its table and says nothing on the console."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.make_run import make_run, save_run
from uniformer_bench.report import write_report

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=10000 --dump-dom"
)


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.environ.get("UBENCH_REQUIRE_BROWSER"):
        pytest.fail("a browser is required here, and there is none")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def opened(chromium, page: Path, profile: Path) -> tuple[str, str]:
    """(the page's elements after its scripts ran, what it said on the console), with every host unreachable."""
    flags = [*FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    done = subprocess.run([chromium, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(console)


def test_a_page_opens_from_disk_without_a_network(chromium, tmp_path):
    run = save_run(make_run(60), tmp_path / "run")
    elements, console = opened(chromium, write_report(run, tmp_path), tmp_path / "profile")
    assert console == ""
    assert "main-svg" in elements  # plotly drew
    assert len(re.findall(r"<tr[ >]", elements)) > 40  # the table of trials was filled
    markup = re.sub(r"<script.*?</script>", "", elements, flags=re.DOTALL)  # plotly's own text names hosts
    assert not re.findall(r"(?:src|href)=[\"']https?:", markup)


def test_an_empty_page_opens_too(chromium, tmp_path):
    run = save_run(make_run(0), tmp_path / "run")
    elements, console = opened(chromium, write_report(run, tmp_path), tmp_path / "profile")
    assert console == ""
    assert "The answer" in elements
