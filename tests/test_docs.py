"""The documents are true: blocks of output as produced, every verb and room named, no dead links."""

import importlib.util
import re
from pathlib import Path

import pytest

from uniformer_bench.cli import cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


def _script(path):
    """A script outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_published_figures_is_what_its_script_prints():
    module = _script(ROOT / "benchmarks" / "published.py")
    assert (ROOT / "docs" / "published.md").read_text() == module.markdown()


def test_every_block_of_output_is_what_its_command_prints(readme):
    module = _script(ROOT / "docs" / "readme.py")
    assert len(module.BLOCK.findall(readme)) >= 4
    assert module.rewritten(readme) == readme


@pytest.mark.parametrize("verb", cli.commands)
def test_every_verb_has_help_and_stands_in_the_readme(verb, readme):
    assert cli.commands[verb].help
    assert f"ubench {verb}" in readme


def test_every_file_that_a_document_links_to_is_there():
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_room_is_on_the_plan():
    plan = (ROOT / "docs" / "design.md").read_text()
    package = ROOT / "uniformer_bench"
    rooms = {p.name for p in package.glob("*.py")} - {"__init__.py", "errors.py", "files.py", "yaml_text.py"}
    rooms |= {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()}
    assert {room for room in rooms if room not in plan} == set()
