"""A space: what its file may say, how big it is, and that every pick is a valid architecture."""

import itertools
import random

import pytest

from uniformer_bench.cost import cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.space import Choice, Range, random_pick
from uniformer_bench.space_file import load_space, parse_space, space_files, with_overrides
from uniformer_bench.variants import variant

SMALL = """
# a title
name: small
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: 2, stride: 2}}
vary: {mlp_ratio: [1, 2]}
stages:
  - {mixer: [local, global], depth: {low: 1, high: 2}, width: 8, kernel: [[1, 3, 3], 3, 5]}
  - {mixer: [split], depth: 1, width: [8, 16], ffn: [true, false], dpe_kernel: [null, 3]}
baselines: [{name: one, pattern: LS}]
"""


def small(old="", new=""):
    assert old in SMALL
    return parse_space(SMALL.replace(old, new), "small.yaml")


def every_pick(space):
    """All architectures, by walking each choice in turn."""
    found, todo = [], [()]
    while todo:
        path = todo.pop()
        asked = []

        def pick(name, domain, path=path, asked=asked):
            asked.append(domain)
            return domain.options[path[len(asked) - 1] if len(asked) <= len(path) else 0]

        found.append(space.candidate(pick).spec)
        for i in range(len(path), len(asked)):
            chosen = path + (0,) * (i - len(path))
            todo += [(*chosen, option) for option in range(1, len(asked[i].options))]
    return found


def test_the_size_is_the_number_of_different_architectures():
    # stage 1: 2 depths x (3 tubes for local + 1 for global); stage 2: 2 widths x 2 FFNs x 2 DPEs; 2 ratios
    assert small().size() == 2 * (2 * (3 + 1)) * (2 * 2 * 2) == 128
    specs = every_pick(small())
    assert len(specs) == len({spec.id for spec in specs}) == 128


def test_what_is_inactive_is_not_asked_for():
    asked = set()

    def pick(name, domain):
        asked.add(name)
        return "global" if name == "stage1.mixer" else domain.options[0]

    small().candidate(pick)
    assert asked == {"mlp_ratio", "stage1.mixer", "stage1.depth", "stage2.width", "stage2.ffn", "stage2.dpe_kernel"}


def test_a_baseline_has_its_pattern_and_the_middle_of_the_rest():
    ((name, picks),) = small().baseline_picks()
    assert name == "one"
    assert picks["stage1.mixer"] == "local"
    assert picks["stage1.kernel"] == "3"  # the middle of three, by its label
    assert picks["stage1.depth"] == 2  # a number of a range stays one


def test_ranges_and_labels():
    assert Range(1, 2, 0.25).options == (1, 1.25, 1.5, 1.75, 2)
    assert Choice(([1, 3, 3], None, True, 4)).labels == ("1x3x3", "none", "yes", "4")


@pytest.mark.parametrize("name", space_files())
def test_packaged_spaces_load_and_say_how_to_run_them(name):
    space = load_space(name)
    assert space.name == name
    assert f"--space {name}" in space.text or name == "tiny"
    assert space.title
    assert "ubench search" in space.text
    rng = random.Random(0)
    for _ in range(30):
        space.candidate(random_pick(rng)).spec.grids(space.input.frames, space.input.size)


def test_the_tiny_space_holds_over_a_million_architectures():
    assert load_space("tiny").size() > 1_000_000


@pytest.mark.parametrize(("space", "name"), [("small_224", "s"), ("base_224", "b")])
def test_the_first_baseline_of_a_full_space_is_the_papers_model(space, name):
    found = load_space(space)
    _, picks = next(found.baseline_picks())

    def pick(parameter, domain):
        return domain.options[domain.labels.index(picks[parameter])] if isinstance(domain, Choice) else picks[parameter]

    assert found.candidate(pick).spec == variant(name)


@pytest.mark.parametrize(
    ("name", "gmacs", "params"),
    [
        ("LLGG", 41.6625, 21_400_400),
        ("LLLL", 31.57, None),
        ("LLLG", 31.521, 22_418_000),
        ("LGGG", 81.094, 21_416_464),
        ("GGGG", 216.067, 19_771_344),
        ("LLSS (divided attention)", 36.6799, 27_847_504),
        ("LLGG tube 3", 40.88, 21_331_408),
        ("LLGG tube 7", 43.41, 21_553_872),
        ("LLGG tube 9", 46.51, 21_825_616),
    ],
)
def test_the_ablation_has_the_papers_costs(name, gmacs, params):
    rows = {row.name: row for row in load_space("paper_ablation").architectures}
    total = cost(rows[name].spec, frames=16, size=224, num_classes=400)
    digits = len(str(gmacs).split(".")[1])
    assert round(total.macs / 1e9, digits) == gmacs
    assert params in (None, total.params)


def test_the_ablation_trains_the_same_pattern_at_small_scale():
    for row in load_space("paper_ablation").architectures:
        assert row.trained.pattern == row.spec.pattern
        assert [s.depth for s in row.trained.stages] == [s.depth for s in row.spec.stages]
        assert [s.dpe_kernel for s in row.trained.stages] == [s.dpe_kernel for s in row.spec.stages]
        assert row.trained.stages[0].width == 16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: a b", "name must be letters, digits, - and _, got 'a b'"),
        ("name: small\n", "", "name must be given"),
        ("vary:", "varry:", "unknown key 'varry' in the file, did you mean vary"),
        (
            "input: {frames: 4, size: 16}",
            "input: {frames: 0, size: 16}",
            "frames must be a positive integer, got 0 in input",
        ),
        ("input: {frames: 4, size: 16}", "input: {frames: 4, size: 2}", "a clip must leave a token at every stage"),
        ("input: {frames: 4, size: 16}", "input: 4", "input must be a mapping, got 4"),
        ("mlp_ratio: [1, 2]", "mlp_ratio: 2", "mlp_ratio must be a list or a range in vary, got 2"),
        ("mlp_ratio: [1, 2]", "depth: [1, 2]", "unknown key 'depth' in vary"),
        ("depth: {low: 1, high: 2}", "depth: {low: 2, high: 1}", r"a range must rise .* in stages\[0\].depth"),
        ("depth: {low: 1, high: 2}", "depth: {low: a}", "a range must have numbers for low, high and step"),
        ("[[1, 3, 3], 3, 5]", "[[1, 3, 3], 4]", r"kernel must be odd, got \(4, 4, 4\) in stages\[0\]"),
        ("[[1, 3, 3], 3, 5]", "[3, 3]", "a choice must have options that differ"),
        ("width: [8, 16]", "width: [8, 12]", r"head_dim must divide width, got head_dim 8 and width 12 in stages\[1\]"),
        ("{mixer: [split], ", "{", r"mixer must be given in stages\[1\]"),
        ("stages:", "objectives: [accuracy, speed]\nstages:", "unknown objective 'speed'"),
        ("stages:", "objectives: []\nstages:", "objectives must be a list of different metrics"),
        ("stages:", "constraints: {max_params_m: -1}\nstages:", "max_params_m must be a positive number, got -1"),
        ("stages:", "constraints: {max_params: 1}\nstages:", "unknown key 'max_params' in constraints, did you mean"),
        ("stages:", "recipe: {epochs: 0}\nstages:", "epochs must be a positive number, got 0 in recipe"),
        ("stages:", "measure: [speed]\nstages:", "unknown 'speed' in measure"),
        ("stages:", "measure: [accuracy]\nstages:", "an objective must be measured, got latency left out"),
        ("pattern: LS", "pattern: LX", "pattern must be one of L/G/S for each of 2 stages, got 'LX'"),
        ("pattern: LS", "pattern: SS", "a baseline must lie in the space, got stage1.mixer 'split' in baseline 'one'"),
        ("stages:", "architectures: []\nstages:", "either stages or architectures must be given, got both"),
        (
            "stages:",
            "donor: {pattern: L}\nstages:",
            "pattern must be one of L/G/S for each of 2 stages, got 'L' in donor",
        ),
        ("stages:", "donor: {pattern: LS, times: 0}\nstages:", "times must be a positive number, got 0 in donor"),
        ("stages:", "donor: {pattern: LS, long: 3}\nstages:", "unknown key 'long' in donor"),
        ("stages:", "donor: {pattern: LL}\nstages:", "a donor must lie in the space, got pattern 'LL'"),
    ],
)
def test_a_broken_space_is_one_line_with_the_file(old, new, message):
    with pytest.raises(UbenchError, match=message) as caught:
        small(old, new)
    assert "in space small.yaml" in str(caught.value)


GRID = """
name: grid
input: {frames: 4, size: 32}
scale: {width: [8], head_dim: 8}
short_run_scale: {width: [8], head_dim: 8}
architectures: [{name: a, pattern: G, depth: [1]}]
measure: [accuracy]
objectives: [accuracy, macs]
"""


def test_a_donor_is_the_largest_of_its_pattern():
    """2 blocks of 8 channels at the tube of 5, then 16 channels with FFN, at ratio 2, and the DPE of 3."""
    spec = small("stages:", "donor: {pattern: LS}\nstages:").donor_spec()
    first, second = spec.stages
    assert (first.mixer, first.depth, first.width, first.kernel) == ("local", 2, 8, (5, 5, 5))
    assert (second.mixer, second.width, second.ffn, second.dpe_kernel) == ("split", 16, True, (3, 3, 3))
    assert spec.mlp_ratio == 2
    macs = [cost(each, frames=4, size=16, num_classes=2).macs for each in every_pick(small()) if each.pattern == "LS"]
    assert cost(spec, frames=4, size=16, num_classes=2).macs == max(macs)


def test_a_donor_varies_in_shape_alone():
    """The area of a picture counts, and of rates and head widths the first is taken."""
    space = small("mlp_ratio: [1, 2]", "head_dim: [4, 8], drop_path: [0, 0.1], size: [16, [8, 16]], frames: [4, 2]")
    spec = parse_space(space.text + "donor: {pattern: GS}\n", "varied.yaml").donor_spec()
    assert (spec.pattern, spec.head_dim, spec.drop_path) == ("GS", 4, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "measure:",
            "donor: {pattern: G}\nmeasure:",
            "a space must have stages for donor, got a list of architectures",
        ),
        ("pattern: G", "pattern: X", r"name, depth and a pattern of L/G/S must be given in architectures\[0\]"),
        (
            "scale: {width: [8], head_dim: 8}\nshort",
            "scale: {width: [8, 8], head_dim: 8}\nshort",
            "width and depth must be given",
        ),
        ("depth: [1]", "depth: [1], tube: 3", r"unknown key 'tube' in architectures\[0\]"),
    ],
)
def test_a_broken_grid_says_where(old, new, message):
    assert parse_space(GRID, "grid.yaml").size() == 1
    with pytest.raises(UbenchError, match=message):
        parse_space(GRID.replace(old, new), "grid.yaml")


def test_unknown_spaces_name_the_near_ones(tmp_path):
    with pytest.raises(UbenchError, match="unknown space 'tinny', did you mean tiny"):
        load_space("tinny")
    with pytest.raises(UbenchError, match="cannot be read"):
        load_space(str(tmp_path / "none.yaml"))


def test_overrides_are_checked_as_the_file_is():
    space = with_overrides(small(), objectives=("macs",), constraints={"max_gmacs": 1})
    assert (space.objectives, dict(space.constraints)) == (("macs",), {"max_gmacs": 1})
    with pytest.raises(UbenchError, match="unknown objective 'x'"):
        with_overrides(small(), objectives=("x",), constraints={})
    with pytest.raises(UbenchError, match="an objective must be measured, got energy left out"):
        with_overrides(small(), objectives=("accuracy", "energy"), constraints={})


def test_energy_is_measured_on_request_only():
    assert "energy" not in small().measure
    asked = small("stages:", "measure: [accuracy, energy]\nobjectives: [accuracy, energy]\nstages:")
    assert (asked.measure, asked.objectives) == (("accuracy", "energy"),) * 2
    assert list(itertools.islice(small().baseline_picks(), 1))


def test_a_number_is_no_yes_and_no_no():
    assert Choice((1, 2, 0, True, False, None, [3, 5, 5], "local")).labels == (
        "1", "2", "0", "yes", "no", "none", "3x5x5", "local"
    )  # fmt: skip
