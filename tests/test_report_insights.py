"""What a change does: columns and words of choices, planted effects found again, and noise that stays noise."""

import json
import math
import random

import pytest

from tests.make_run import make_run, save_run
from tests.test_cli import ubench
from uniformer_bench.report import insights as module
from uniformer_bench.report.choices import choices
from uniformer_bench.report.info import Axes, Trial
from uniformer_bench.report.insights import LEAST_TRIALS, Estimate, insights, insights_of
from uniformer_bench.report.matters import learnt
from uniformer_bench.report.page import render

AXES = Axes("accuracy", "latency")


def test_a_number_is_a_centred_column_and_a_choice_one_beside_the_plain():
    params = [{"stage1.depth": 1, "stage1.mixer": "global"}, {"stage1.depth": 3, "stage1.mixer": "local"}] * 5
    table = choices(params)
    assert table.columns == (("stage1.depth", None), ("stage1.mixer", "global"))
    assert table.rows[:2] == ((-1.0, 1.0), (1.0, 0.0))
    assert [(c.words, c.stage, c.weights) for c in table.changes] == [
        ("2 more blocks in stage 1", 1, ((("stage1.depth", None), 2.0),)),
        ("Global instead of local MHRA in stage 1", 1, ((("stage1.mixer", "global"), 1.0),)),
    ]


def test_what_a_trial_does_not_have_is_zero_and_text_of_numbers_is_a_number():
    params = [{"mlp_ratio": "1"}, {"mlp_ratio": "3", "stage1.kernel": "3x3x3"}, {"stage1.kernel": "1x3x3"}]
    table = choices([*params, *params])
    assert table.columns == (("mlp_ratio", None), ("stage1.kernel", "3x3x3"))
    assert table.rows[:3] == ((-1.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    assert table.changes == ()  # each is seen twice only


def test_every_kind_of_change_has_its_words():
    first = {"stage1.mixer": "local", "stage2.mixer": "local", "stage1.ffn": "yes", "stage1.kernel": "3x3x3",
             "stage1.dpe_kernel": "3x3x3", "stage1.width": 16, "mlp_ratio": 2, "head_dim": "a"}  # fmt: skip
    other = {"stage1.mixer": "global", "stage2.mixer": "global", "stage1.ffn": "no", "stage1.kernel": "5x5x5",
             "stage1.dpe_kernel": "none", "stage1.width": 48, "mlp_ratio": 2.5, "head_dim": "b"}  # fmt: skip
    words = [change.words for change in choices([first] * 6 + [other] * 5).changes]
    assert words == [
        "head dim b instead of a",
        "MLP ratio higher by 0.5",
        "No DPE instead of 3x3x3 in stage 1",
        "Leaving out the FFN in stage 1",
        "A 5x5x5 tube instead of 3x3x3 in stage 1",
        "Global instead of local MHRA in stage 1",
        "32 more channels in stage 1",
        "Global instead of local MHRA in stage 2",
        "Moving global MHRA from stage 2 to stage 1",
    ]


def _trials(n, seed, accuracy=lambda params: 0.0, cost=lambda params: 0.0):
    """Trials with choices at random; accuracy has noise of 2 points, latency of 5 %."""
    rng = random.Random(seed)
    found = []
    for number in range(n):
        params = {"mlp_ratio": rng.choice([1, 2, 3])}
        for i in (1, 2, 3):
            params[f"stage{i}.mixer"] = rng.choice(["local", "global", "split"])
            params[f"stage{i}.depth"] = rng.choice([1, 2])
            params[f"stage{i}.width"] = rng.choice([16, 32, 48])
            params[f"stage{i}.ffn"] = rng.choice(["yes", "no"])
            if params[f"stage{i}.mixer"] == "local":
                params[f"stage{i}.kernel"] = rng.choice(["3x3x3", "1x5x5"])
        values = {
            "accuracy": 0.6 + accuracy(params) + rng.gauss(0, 0.02),
            "latency": 4 * math.exp(cost(params) + rng.gauss(0, 0.05)),
        }
        found.append(Trial(number, params=params, values=values))
    return found


def _accuracy(params):
    late = 0.05 * (params["stage3.mixer"] == "global")
    return late + 0.02 * (params["stage2.mixer"] == "global") + 0.03 * (params["stage1.depth"] - 1)


def _cost(params):
    slow = math.log(1.3) * (params["stage2.mixer"] == "global") + math.log(1.1) * (params["stage3.mixer"] == "global")
    return slow + math.log(0.9) * (params["stage1.ffn"] == "no")


PLANTED = {  # change: accuracy, latency
    "Global instead of local MHRA in stage 3": (0.05, 0.1),
    "Global instead of local MHRA in stage 2": (0.02, 0.3),
    "Moving global MHRA from stage 3 to stage 2": (-0.03, 1.3 / 1.1 - 1),
    "Moving global MHRA from stage 2 to stage 1": (-0.02, 1 / 1.3 - 1),
    "One more block in stage 1": (0.03, 0.0),
    "Leaving out the FFN in stage 1": (0.0, -0.1),
}


def test_an_effect_that_the_trials_all_but_do_not_tell_is_not_said(monkeypatch):
    """Few trials may leave a change an interval of any width, which as a factor no number holds."""
    monkeypatch.setattr(module, "_intervals", lambda x, y, contrasts: [(0.1, 800.0)] * len(contrasts))
    assert insights(_trials(300, 0, _accuracy, _cost), AXES).found == ()


@pytest.mark.parametrize("seed", range(3))
def test_planted_effects_are_found_and_lie_in_their_intervals(seed):
    found = {each.words: each for each in insights(_trials(300, seed, _accuracy, _cost), AXES).found}
    assert set(PLANTED) <= set(found)
    for words, planted in PLANTED.items():
        for key, truth in zip(AXES, planted, strict=True):
            estimate = found[words].effects[key]
            assert estimate.low <= truth <= estimate.high, (words, key)
            assert estimate.is_seen or abs(truth) < 0.03, (words, key)
            assert not estimate.is_seen or truth != 0, (words, key)
    assert len(set(found) - set(PLANTED)) <= 1  # none, but for one run in twenty


def test_what_quality_shows_comes_first_and_the_rest_is_counted():
    given = insights(_trials(300, 0, _accuracy, _cost), AXES)
    quality = [each.effects["accuracy"].is_seen for each in given.found]
    assert quality == sorted(quality, reverse=True)
    sure = [abs(e.value) / (e.high - e.low) for f in given.found if (e := f.effects["accuracy"]).is_seen]
    assert sure == sorted(sure, reverse=True)
    # 1 ratio; in each of 3 stages 2 mixers, depth, width, FFN, tube; 2 mixers moved over 2 steps
    assert len(given.found) + given.unseen == 1 + 3 * 6 + 4
    assert given.trials == {"accuracy": 300, "latency": 300}
    assert given.reasons == ("MACs needs 20 trials for so many choices, and has 0",)


def test_the_search_that_stops_trials_early_still_learns_their_cost():
    trials = [t._replace(state="pruned") if t.number >= 60 else t for t in _trials(200, 1, _accuracy, _cost)]
    given = insights(trials, AXES)
    assert given.trials == {"accuracy": 60, "latency": 200}


def test_noise_is_hardly_ever_a_finding():
    """20 looks at noise with 23 changes each: at 5 % a look, more than 4 have a chance of 0.3 %."""
    said = [bool(insights(_trials(80, seed), AXES).found) for seed in range(20)]
    assert sum(said) <= 4


def test_choices_are_left_out_where_trials_are_few_and_it_is_said():
    # 19 columns: the ratio, and in each of 3 stages 2 mixers, depth, width, FFN and the tube
    given = insights(_trials(38, 0, _accuracy, _cost), AXES)
    assert not any(each.startswith("of validation") for each in given.reasons)
    given = insights(_trials(37, 0, _accuracy, _cost), AXES)
    assert "of validation accuracy, DPE and tubes are left out: 37 trials are too few" in given.reasons
    assert given.trials == {"accuracy": 37, "latency": 37}


def test_what_is_computed_and_what_is_always_chosen_together():
    trials = [t._replace(params={**t.params, "stage2.depth": t.params["stage1.depth"]}) for t in _trials(200, 0)]
    exact = [t._replace(values={**t.values, "latency": 2.0 ** t.params["stage3.depth"]}) for t in trials]
    (found,) = [each for each in insights(exact, AXES).found if each.words == "One more block in stage 3"]
    assert found.effects["latency"].value == pytest.approx(1.0, abs=1e-6)  # twice, without noise
    words = {each.words for each in insights(exact, AXES).found}
    assert not {"One more block in stage 1", "One more block in stage 2"} & words  # nobody can tell one from the other


def test_few_trials_are_a_reason():
    given = insights(_trials(LEAST_TRIALS - 1, 0), AXES)
    assert (given.found, given.unseen, given.trials) == ((), 0, {})
    assert "validation accuracy needs 2" in given.reasons[0]
    assert "What a change does" in learnt(given)
    alike = [t._replace(params={"architecture": "LLGG"}) for t in _trials(30, 0)]
    assert insights(alike, AXES).found == ()
    assert insights([], AXES).trials == {}


def test_sentences():
    both = insights(_trials(300, 0, _accuracy, _cost), AXES).found
    by_words = {each.words: each.sentence for each in both}
    assert by_words["Global instead of local MHRA in stage 2"].startswith(
        "Global instead of local MHRA in stage 2 costs 3"
    )
    assert " % more latency (" in by_words["Global instead of local MHRA in stage 2"]
    assert " for +" in by_words["Global instead of local MHRA in stage 2"]
    assert " saves " in by_words["Leaving out the FFN in stage 1"]
    assert ", with no effect on validation accuracy seen (" in by_words["Leaving out the FFN in stage 1"]
    assert " gains " in by_words["One more block in stage 1"]


def test_the_page_and_the_document_say_the_same(tmp_path):
    run = make_run(120)
    given = insights_of(run)
    assert given.found
    text = render(run)
    assert all(f"<b>{each.words}</b>" in text for each in given.found[:8])
    folder = save_run(run, tmp_path / "run")
    done = ubench("report", folder, "--json", "--reports", tmp_path / "pages")
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)["insights"]
    assert document == {"run": str(folder), **json.loads(json.dumps(given.to_dict()))}


def test_an_estimate_is_seen_where_its_interval_leaves_zero_out():
    assert [Estimate(0, low, 1).is_seen for low in (-1, 0, 0.1)] == [False, False, True]
    assert Estimate(-1, -2, -0.1).is_seen
