"""The wheel holds what the package needs beside its code."""

import subprocess
import sys
import zipfile
from pathlib import Path

import uniformer_bench
from uniformer_bench.space_file import CHECKOUT

ROOT = Path(__file__).parent.parent


def test_spaces_and_assets_travel_in_the_wheel(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert f"-{uniformer_bench.__version__}-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"uniformer_bench/search_spaces/{path.name}" for path in CHECKOUT.glob("*.yaml")} <= names
    assert "uniformer_bench/report/assets/report.css" in names
    assert not any(name.startswith(("tests/", "results/", "reports/")) for name in names)
