"""Keeps the README true: every block of output in it is made by a command or read from a committed file.

    python docs/readme.py            rewrites the blocks
    python docs/readme.py --check    exits 1 where one is out of date

A marker `<!-- run: ubench variants -->` or `<!-- file: results/… -->` stands before the block it fills.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- (run|file): (.+?) -->\n+```\w*\n)(.*?)(```\n)", re.DOTALL)


def output_of(kind: str, what: str) -> str:
    """What a marker's block must hold."""
    if kind == "file":
        return (ROOT / what).read_text()
    words = shlex.split(what)
    assert words[0] == "ubench", "only this project's own command is run"
    code = "from uniformer_bench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words[1:]], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def rewritten(text: str) -> str:
    """The README with every block made anew."""
    return BLOCK.sub(lambda found: found[1] + output_of(found[2], found[3]).rstrip() + "\n" + found[5], text)


def main() -> int:
    """Rewrites the README, or checks it."""
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = rewritten(old)
    if "--check" in sys.argv:
        return int(new != old)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
