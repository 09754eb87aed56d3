"""Fidelity: agreement on planted orders, proxies on cases worked by hand, and the verb on a tiny run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import kendalltau
from torch import nn

from uniformer_bench.cli import cli
from uniformer_bench.data import load_clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.report.fidelity import correlations, points
from uniformer_bench.search import fidelity
from uniformer_bench.search.agreement import agreement, equal_cost_bands, stratified, tau_b, top_share
from uniformer_bench.search.fidelity import Point, card_of, learnt, sample_of
from uniformer_bench.search.proxies import grad_norm, jacob_cov

SPACE = """name: grid
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
stages:
  - {mixer: [local, global], depth: 1, width: [8, 16], kernel: [[1, 3, 3], [3, 3, 3]]}
recipe: {epochs: 0.1, batch: 32}
"""


def record(number, macs, accuracy, **more):
    metrics = {"macs": macs, "params": 10 * macs, "accuracy": accuracy}
    return {"number": number, "state": "complete", "metrics": metrics, "seconds": {"train": 1.0}, **more}


def test_tau_is_scipys_with_and_without_ties():
    rng = np.random.default_rng(0)
    for levels in (3, 1000):
        x, y = rng.integers(0, levels, (2, 15)).astype(float)
        same, once = np.ones((15, 15)), np.ones((1, 15))
        assert tau_b(x, y, same, once)[0] == pytest.approx(kendalltau(x, y).statistic)


def test_a_bootstrap_sample_counts_the_pairs_of_its_different_trials():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    weights = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    # trial 0 with 1 agrees, 1 with 2 disagrees; one trial alone has no pair; pairs 01: 2, 02: 1, 12: -2 of 5
    np.testing.assert_allclose(tau_b(x, y, np.ones((3, 3)), weights), [1, -1, np.nan, 1 / 5])


def test_inside_bands_only_pairs_of_one_band_count():
    short, long = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11]  # the dearer are better, and in a band all is reversed
    assert agreement(short, long, seed=0)["tau"] == pytest.approx((9 - 6) / 15)
    inside = agreement(short, long, seed=0, bands=[0, 0, 0, 1, 1, 1])
    assert (inside["tau"], inside["ci95"], inside["n"]) == (-1, None, 6)
    assert "no spread" in inside["reason"]


def test_the_interval_holds_a_planted_correlation_and_its_seed_repeats_it():
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)  # correlation 1 / sqrt 2, for which tau is 2 / pi asin(1 / sqrt 2) = 1 / 2
    found = agreement(list(x), list(y), seed=3)
    low, high = found["ci95"]
    assert low < 0.5 < high
    assert high - low < 0.2
    assert found == agreement(list(x), list(y), seed=3)
    assert found != agreement(list(x), list(y), seed=4)


def test_what_is_too_little_is_unknown_with_a_reason():
    few = agreement([1, 2, 3, None], [1, 2, 3, 4], seed=0)
    assert few == {"tau": None, "ci95": None, "n": 3, "reason": "at least 4 trials are needed"}
    assert agreement([1, 1, 1, 1], [1, 2, 3, 4], seed=0)["reason"] == "every pair of trials is tied"


def test_bands_shares_and_samples():
    assert equal_cost_bands([50, 10, 40, 20, 30, 60], 3) == [2, 0, 1, 0, 1, 2]
    assert top_share([0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.4, 0.0], 0.25) == [1, 3]
    # Forty of 1 to 2, three of 2 to 4, ten of 4 to 8: as many of each octave.
    costs = [*np.linspace(1, 1.9, 40), 2.1, 3.0, 3.9, *np.linspace(4.1, 8, 10)]
    drawn = stratified(costs, 9, seed=5)
    assert sorted(int(np.log2(min(costs[i], 7.9))) for i in drawn) == [0] * 3 + [1] * 3 + [2] * 3
    assert len(set(stratified(costs, 20, seed=5))) == 20
    assert len(stratified([1.0] * 9, 4, seed=5)) == 4
    assert drawn == stratified(costs, 9, seed=5) != stratified(costs, 9, seed=6)
    assert stratified(costs[:4], 9, seed=5) == [0, 1, 2, 3]


def test_a_sample_is_of_complete_trials_with_an_accuracy():
    records = [record(0, 1, 0.5), record(1, 2, None), record(2, 3, 0.5) | {"state": "pruned"}]
    assert [each["number"] for each in sample_of(learnt(records), 24, 0)] == [0]
    with pytest.raises(UbenchError, match="needs complete trials with an accuracy, got none"):
        learnt(records[1:])


def planted(short_of, n=24):
    """Trials with long accuracies in an order that MACs have no part in."""
    order = [7 * i % n for i in range(n)]
    rungs = [[{"epochs": 0.5, "loss": 2 - i / 100}] for i in range(n)]
    return [
        Point(record(i, order[i] + 1, short_of(i), rungs=rungs[i]), 0.5 + i / 100, None, {"grad_norm": -i})
        for i in range(n)
    ]


def test_the_card_says_what_agrees_and_doubts_the_rest():
    card = card_of(planted(lambda i: 0.3 + i / 100), seed=0)
    found = {each.of: each for each in correlations(card)}
    assert found["overall"].tau == found["rungs: loss after 0.5 epochs"].tau == pytest.approx(1)
    assert found["straw men: grad norm"].tau == -1
    assert found["inside 3 bands of equal MACs"].n == 24
    assert found["top quarter by short accuracy"].n == 6
    assert found["straw men: MACs"] == found["straw men: parameters"]._replace(of="straw men: MACs")
    assert [(each.trial, each.short, each.long) for each in points(card)][1] == (1, 0.31, 0.51)
    said = " ".join(card["warnings"])
    assert "straw men: MACs: the 95 % interval" in said
    assert "overall: tau has no interval" in said
    assert not any("straw men: grad norm" in each for each in card["warnings"])


def test_a_short_run_without_use_is_warned_of_and_a_lost_one_named():
    found = planted(lambda i: min(i, 23 - i) / 100)  # up, then down again: tau is 0
    found[3] = found[3]._replace(long=None, reason="diverged: loss")
    card = card_of(found, seed=0)
    assert card["n"] == 23
    assert card["warnings"][0] == "1 of 24 longer runs came to no accuracy and are left out (trial 3: diverged: loss)"
    assert card["warnings"][1].startswith("overall: the 95 % interval of tau")


def test_top_quarter_of_too_few_is_unknown():
    card = card_of(planted(lambda i: i / 100, n=8), seed=0)
    assert card["top quarter by short accuracy"]["tau"] is None
    assert "top quarter by short accuracy: tau is unknown, 2 trials: at least 4 trials are needed" in card["warnings"]


def test_grad_norm_by_hand():
    model = nn.Linear(1, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    # softmax is (1/2, 1/2): the gradient in the logits is (-1/2, 1/2), in the weights 3 times that
    found = grad_norm(model, torch.tensor([[3.0]]), torch.tensor([0]))
    assert found == pytest.approx((1 + 3) * math.sqrt(0.5))


def test_jacob_cov_by_hand():
    class Halved(nn.Module):
        def forward(self, x):
            return (x**2).flatten(1) / 2  # so that a clip's gradient is the clip

    different = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]])  # correlation 0: eigenvalues 1 and 1
    k = 1e-5
    assert jacob_cov(Halved(), different, torch.zeros(2)) == pytest.approx(-2 * (math.log(1 + k) + 1 / (1 + k)))
    alike = torch.tensor([[1.0, -1, 0, 0], [2, -2, 0, 0]])  # correlation 1: eigenvalues 2 and 0
    expected = -(math.log(2 + k) + 1 / (2 + k) + math.log(k) + 1 / k)
    assert jacob_cov(Halved(), alike, torch.zeros(2)) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a search over a small grid, written by hand: five complete trials and one that is not."""
    folder = tmp_path_factory.mktemp("fidelity")
    card = load_clips("builtin", 4, (16, 16), 0, folder / "cache").card
    info = {
        "schema_version": 1, "name": "grid", "seed": 0, "space_text": SPACE, "space_name": "grid",
        "objectives": ["accuracy", "macs"], "constraints": {},
        "protocol": {"precision": "fp32", "implementation": "fast"},
        "recipe": {"epochs": 0.1, "batch": 32}, "data": card, "notes": [], "environment": {}, "trials_asked": 6,
        "input": {"frames": 4, "size": [16, 16], "batch": 1}, "command": "", "version": "0", "elapsed_s": 1.0,
    }  # fmt: skip
    picks = [
        ("local", 8, "1x3x3"),
        ("local", 16, "1x3x3"),
        ("local", 8, "3x3x3"),
        ("global", 8, None),
        ("global", 16, None),
    ]
    trials = [_trial(number, *pick) for number, pick in enumerate(picks)]
    trials.append(_trial(5, "local", 16, "3x3x3") | {"state": "pruned"})
    path = folder / "grid"
    path.mkdir()
    (path / "run.json").write_text(json.dumps(info))
    (path / "trials.json").write_text(json.dumps(trials))
    return path


def _trial(number, mixer, width, kernel):
    stage = {"mixer": mixer, "depth": 1, "width": width} | ({"kernel": kernel} if kernel else {})
    params = {f"stage1.{name}": str(value) for name, value in stage.items() if name != "depth"}
    spec = {"stages": [dict(stage, **({"kernel": [int(k) for k in kernel.split("x")]} if kernel else {}))]}
    return record(number, 1000 * (number + 1), 0.1 + number / 100, params=params, spec=spec, spec_id=str(number),
                  reason=None, baseline=None, pattern="L", intervals={}, finished_s=1.0, front=False)  # fmt: skip


def verb(run, *options, code=0):
    """What the verb prints with --json, and what it says; or its error."""
    where = ["--cache", str(run.parent / "cache"), "--reports", str(run.parent / "reports"), "--device", "cpu"]
    done = CliRunner().invoke(
        cli, ["fidelity", str(run), "--json", "--workers", "1", "--times", "0.5", *where, *options]
    )
    assert done.exit_code == code, (done.output, done.exception)
    return (json.loads(done.stdout), done.stderr) if code == 0 else done.exception


def test_the_verb_trains_writes_and_goes_on(run):
    document, said = verb(run, "--sample", "3")
    kept = json.loads((run / "fidelity.json").read_text())["trainings"]
    assert len(kept) == said.count("after 0.05 epochs") == 3
    assert document["fidelity"]["n"] == 3
    assert document["fidelity"]["drawn"] == "3 of 5 complete trials, evenly over log MACs"
    more, said = verb(run)
    assert said.count("after 0.05 epochs") == 2  # three of five were there
    assert more["fidelity"]["drawn"] == "all 5 complete trials"
    card = json.loads((run / "run.json").read_text())["fidelity"]
    assert card == more["fidelity"]
    assert [row["trial"] for row in card["points"]] == [0, 1, 2, 3, 4]
    assert {row["trial"]: row["accuracy"] for row in kept}.items() <= {
        r["trial"]: r["long"] for r in card["points"]
    }.items()
    assert all(card["straw men"][name]["n"] == 5 for name in ("parameters", "MACs", "grad_norm", "jacob_cov"))
    assert "How far the short run can be trusted" in Path(more["report"]).read_text()
    again, said = verb(run)
    assert (again["fidelity"], said) == (card, "")


def test_other_clips_are_refused(run, tmp_path):
    info = json.loads((run / "run.json").read_text())
    for name, data, rule in (
        ("older", {"hash": "digits-older"}, "must be taken on its own clips, got hash digits-"),
        ("videos", {"kind": "folder"}, "--data must name the run's clips"),
    ):
        other = tmp_path / name
        other.mkdir()
        (other / "run.json").write_text(json.dumps(info | {"data": info["data"] | data}))
        (other / "trials.json").write_text((run / "trials.json").read_text())
        where = ["--cache", str(run.parent / "cache"), "--device", "cpu"]
        done = CliRunner().invoke(cli, ["fidelity", str(other), *where])
        with pytest.raises(UbenchError, match=rule):
            raise done.exception


def test_longer_runs_start_from_what_a_person_named_and_not_from_the_searchs_own_donor(tmp_path):
    """A pick is trained from nothing in the end: that is what short runs from a donor are to predict."""
    assert fidelity._start({"donor": {"file": "donor.pt"}}) is None
    with pytest.raises(UbenchError, match=r"none\.pt cannot be read"):
        fidelity._start({"init": {"path": str(tmp_path / "none.pt"), "sha256": "0"}})
