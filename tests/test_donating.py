"""The donor of a search: the same weights across a stop, fewer epochs where a budget asks, and one file of it."""

import pytest
import torch

from tests.test_train import light_and_dark
from uniformer_bench.cost import cost
from uniformer_bench.data.clips import Clips
from uniformer_bench.errors import UbenchError
from uniformer_bench.recipe import Recipe
from uniformer_bench.search import donating, plan
from uniformer_bench.search.donating import Donation, donated, facts_of, train_donor
from uniformer_bench.search.donors import donor_of, start_from
from uniformer_bench.search.executors import Crew
from uniformer_bench.search.turns import Turns
from uniformer_bench.space import Input
from uniformer_bench.space_file import parse_space
from uniformer_bench.variants import variant


class StopError(Exception):
    """What ends a training in the middle, as a signal ends its worker."""


@pytest.fixture
def donation(tmp_path, monkeypatch):
    clips = Clips(light_and_dark(), light_and_dark(), light_and_dark(), ("dark", "light"), {"hash": "x"})
    turns = Turns(tmp_path)
    monkeypatch.setattr(donating, "clips_of", lambda **data: clips)
    monkeypatch.setattr(donating, "turns_of", lambda folder: turns)
    threads = torch.get_num_threads()
    yield Donation(
        spec=variant("micro"), recipe=Recipe(epochs=8, batch=8), data={"source": "builtin"}, at=Input(4, (32, 32)),
        precision="fp32", implementation="fast", seed=0, device="cpu", threads=1, turns=tmp_path,
        file=tmp_path / "donor.pt",
    )  # fmt: skip
    torch.set_num_threads(threads)
    turns.close()


def stopping_at(step, monkeypatch):
    """Has the next training end before it takes this step."""
    taken = iter(range(step))

    def offer(turns):
        if next(taken, None) is None:
            raise StopError

    monkeypatch.setattr(Turns, "offer", offer)


def test_a_donor_has_learnt_and_is_a_file_to_start_from(donation):
    train_donor(donation)
    facts = facts_of(donation.file)
    assert facts["accuracy"] == 1.0  # light and dark
    assert (facts["pattern"], facts["epochs"], facts["file"]) == ("LLGG", 8, "donor.pt")
    donor = donor_of(start_from(donation.file))
    assert facts["params"] == sum(p.numel() for p in donor.parameters())
    assert not donation.paused.exists()


def test_what_was_stopped_goes_on_to_the_same_weights(donation, monkeypatch, tmp_path):
    whole = donation._replace(file=tmp_path / "whole.pt")
    train_donor(whole)
    with monkeypatch.context() as patch:
        stopping_at(17, patch)
        with pytest.raises(StopError):
            train_donor(donation)
    held = torch.load(donation.paused, weights_only=True)
    assert 0 < held["step"] < 17
    assert not donation.file.exists()
    train_donor(donation)
    ours, theirs = (donor_of(start_from(file)).state_dict() for file in (donation.file, whole.file))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("most_s", "epochs"), [(1e-9, 1e-9), (1e9, 8)])
def test_a_budget_shortens_a_donor_and_never_lengthens_it(donation, most_s, epochs):
    """Of almost no time comes one step, over next to no epochs."""
    train_donor(donation._replace(most_s=most_s))
    assert facts_of(donation.file)["epochs"] == pytest.approx(epochs, abs=1e-4)


def test_a_shortened_donor_goes_on_with_as_many_epochs(donation, monkeypatch):
    clips = donating.clips_of()
    shorter = donating._run(donation, donation.recipe.__class__(epochs=4, batch=8), clips)
    shorter.advance(3)
    donating.write_pickled(donation.paused, shorter.state() | {"epochs": 4})
    train_donor(donation._replace(most_s=1e9))
    assert facts_of(donation.file)["epochs"] == 4


def test_a_donor_whose_loss_is_lost_is_an_error(donation):
    donation = donation._replace(recipe=Recipe(epochs=8, batch=8, lr=1e30, clip_norm=1e30))
    with pytest.raises(UbenchError, match="diverged: loss must stay finite, got"):
        train_donor(donation)


@pytest.fixture(scope="module")
def crew():
    with Crew(1) as one:
        yield one


def test_one_that_is_there_is_not_trained_again(donation, crew):
    donation.file.write_bytes(b"there")
    assert donated(donation, crew, lambda: pytest.fail("nothing is waited for"))


def test_a_stop_ends_the_training(donation, crew):
    assert not donated(donation, crew, lambda: False)
    assert not donation.file.exists()


def test_a_failure_in_the_worker_is_named(donation, crew, tmp_path):
    lost = {"source": str(tmp_path / "none"), "frames": 4, "size": (32, 32), "seed": 0, "cache": tmp_path}
    with pytest.raises(UbenchError, match=r"must be trained before its trials, got UbenchError: .*none"):
        donated(donation._replace(data=lost), crew, lambda: True)


def test_a_plan_counts_what_the_donor_takes():
    """Three short runs of 25 steps of 4 clips, of the larger of two widths."""
    text = (
        "name: one\ninput: {frames: 4, size: 16}\nspec: {stem: {kernel: 2, stride: 2}}\nrecipe: {epochs: 2, batch: 4}\n"
        "stages: [{mixer: local, depth: 1, width: [8, 16], kernel: 3}]\n"
    )
    space = parse_space(text + "donor: {pattern: L, times: 3}\n", "one.yaml")
    assert space.donor_spec().stages[0].width == 16
    macs = cost(space.donor_spec(), frames=4, size=16, num_classes=2).macs
    assert plan._donor_macs(space, plan._Data(50, 2)) == 3 * 25 * 4 * macs
    assert plan._donor_macs(parse_space(text, "one.yaml"), plan._Data(50, 2)) == 0
