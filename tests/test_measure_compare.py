"""Comparisons by a machine of our own making: verdicts as often right as claimed, documents, subjects, refusals."""

import json
import math
import random
import statistics

import pytest
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure import compare as room
from uniformer_bench.measure import subjects
from uniformer_bench.measure.compare import Arm, Arms, Clock, clock_for, compare, take
from uniformer_bench.measure.comparison import (
    Block,
    Comparison,
    Ratio,
    comparison_text,
    exceeds,
    parse_percent,
)
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.subjects import (
    Input,
    Ready,
    Subject,
    make_ready,
    named_subject,
    parse_subject,
    usual_input,
)
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.inference import for_inference
from uniformer_bench.spec import ArchSpec
from uniformer_bench.variants import variant

AT = Protocol(device="cpu", frames=8, size=(32, 32))


class Machine:
    """A machine whose runs take rigged times: `noise` of each run and `place` of each copy as standard deviations
    of the logarithm, `spikes` the share of runs that take twice as long, `drift` a speed that wanders."""

    def __init__(self, seed, noise=0.0, place=0.0, spikes=0.0, drift=0.0):
        self.rng, self.seconds, self.runs, self.speed = random.Random(seed), 0.0, 0, 0.0
        self.noise, self.place, self.spikes, self.drift = noise, place, spikes, drift
        self.clock = Clock("process", self.time, lambda: self.seconds, lambda: 0.0, 2)

    def arm(self, seconds):
        at_place = seconds * math.exp(self.rng.gauss(0, self.place))

        def run():
            self.runs += 1
            self.speed += self.rng.gauss(0, self.drift)
            spike = 2 if self.rng.random() < self.spikes else 1
            self.seconds += at_place * spike * math.exp(self.rng.gauss(0, self.noise) + self.speed)

        return Arm(run, lambda: None)

    def time(self, run, n):
        before = self.seconds
        for _ in range(n):
            run()
        return self.seconds - before

    def compared(self, a, b, budget_s=3.6):
        rng = random.Random(self.rng.random())
        rounds = take(lambda: Arms(self.arm(a), self.arm(b), self.arm(a)), budget_s=budget_s, rng=rng, clock=self.clock)
        return Comparison(tuple(rounds))


NOISY = {"noise": 0.03, "place": 0.003, "spikes": 0.05, "drift": 0.003}


def test_equal_models_are_called_equal_19_times_in_20():
    verdicts = [Machine(seed, **NOISY).compared(0.011, 0.011).verdict for seed in range(200)]
    assert verdicts.count("no difference seen") >= 190


def test_a_difference_of_5_percent_is_found_9_times_in_10():
    assert sum(Machine(seed, **NOISY).compared(0.0110, 0.01155).verdict == "faster" for seed in range(100)) >= 90
    assert sum(Machine(seed, **NOISY).compared(0.01155, 0.0110).verdict == "slower" for seed in range(100)) >= 90


def test_the_interval_covers_the_ratio_where_places_in_memory_matter_more_than_noise():
    """Where copies differ by 2 % and runs by 1 %, an interval over blocks instead of rounds is far too narrow."""
    found = [Machine(seed, noise=0.01, place=0.02).compared(0.012, 0.011).ratio for seed in range(300)]
    covered = sum(ratio.low <= 12 / 11 <= ratio.high for ratio in found)
    exact = 1 - 2 * sum(math.comb(12, i) for i in range(3)) / 2**12  # rank 3 of 12
    assert exact == pytest.approx(0.961, abs=5e-4)
    assert abs(covered / 300 - exact) < 4 * math.sqrt(exact * (1 - exact) / 300)


def test_without_noise_the_ratio_is_exact_and_the_budget_kept():
    machine = Machine(0)
    found = machine.compared(0.02, 0.01, budget_s=3.0)
    assert found.ratio == pytest.approx(Ratio(2, 2, 2))
    assert found.control == pytest.approx(Ratio(1, 1, 1))
    assert (found.verdict, len(found.rounds)) == ("slower", 12)
    assert found.resolution == pytest.approx(0)
    assert 3.0 <= machine.seconds < 3.0 + 0.07  # the last block and the rest of its round's warm-up


def test_short_runs_are_repeated_until_a_sample_lasts_10_ms():
    machine, timed = Machine(0), []
    clock = machine.clock._replace(time=lambda run, n: timed.append(n) or machine.time(run, n))
    arms = Arms(machine.arm(0.0015), machine.arm(0.004), machine.arm(0.0015))
    rounds = take(lambda: arms, budget_s=1.0, rng=random.Random(0), clock=clock)
    assert timed[:6] == [1] * 6  # the price of each
    assert set(timed[6:]) == {7, 3}
    assert rounds[0][0] == pytest.approx(Block(0.0015, 0.004, 0.0015))


@pytest.mark.parametrize(("budget_s", "rounds"), [(72.5, 12), (71.5, 9), (53.5, 6), (0.1, 6)])
def test_slow_models_get_fewer_rounds_and_never_under_six(budget_s, rounds):
    # A round of 1 s runs takes 3 to warm up and a block of 3.
    found = Machine(0).compared(1.0, 1.0, budget_s)
    assert len(found.rounds) == rounds
    assert found.ratio == Ratio(1, 1, 1)


def test_the_order_within_blocks_is_random_and_seeded():
    def order(seed):
        machine, said = Machine(0), []
        arms = Arms(*(Arm(machine.arm(0.01).run, lambda name=name: said.append(name)) for name in "abc"))
        take(lambda: arms, budget_s=2.0, rng=random.Random(seed), clock=machine.clock)
        blocks = ["".join(said[i : i + 3]) for i in range(3, len(said), 3)]
        assert set(map("".join, map(sorted, blocks))) == {"abc"}
        return blocks

    assert len(set(order(0))) == 6
    assert order(0) == order(0) != order(1)


def test_a_clock_that_stands_still_is_refused():
    machine = Machine(0)
    clock = machine.clock._replace(time=lambda run, n: 0.0)
    with pytest.raises(UbenchError, match=r"must take time on the clock, got 0\.0 s by process time"):
        take(lambda: Arms(*[machine.arm(0.01)] * 3), budget_s=1.0, rng=random.Random(0), clock=clock)


def _comparison(ratios, controls, clips=(1, 1)):
    """One block a round, with that ratio of A to B and of A to its copy."""
    pairs = zip(ratios, map(math.sqrt, controls), strict=True)
    return Comparison(tuple((Block(ratio * root, 1.0, ratio / root),) for ratio, root in pairs), clips)


def test_a_verdict_needs_an_interval_without_1_and_more_than_the_control_shows():
    still, shaken = [1.0] * 6, [0.97, 0.98, 1.0, 1.0, 1.01, 1.02]
    above = [1.01, 1.02, 1.02, 1.02, 1.03, 1.03]
    assert _comparison(above, still).verdict == "slower"
    assert _comparison([1 / x for x in above], still).verdict == "faster"
    assert _comparison([0.999, *above[1:]], still).verdict == "no difference seen"
    assert _comparison(above, shaken).verdict == "no difference seen"  # 1.02 is within 1/0.97
    assert _comparison([x + 0.02 for x in above], shaken).verdict == "slower"
    assert _comparison([1 / (x + 0.02) for x in above], shaken).verdict == "faster"
    found = _comparison(above, shaken)
    assert found.ratio == pytest.approx(Ratio(1.02, 1.01, 1.03))
    assert found.resolution == pytest.approx(1 / 0.97 - 1)
    assert _comparison(above, still).resolution == pytest.approx(1.02 / 1.01 - 1)


def test_times_are_compared_per_clip():
    assert _comparison([4.0] * 6, [1.0] * 6, clips=(8, 1)).ratio == pytest.approx(Ratio(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def document():
    a, b = parse_subject("micro"), parse_subject("micro@implementation=reference,batch=2")
    return compare(a, b, base=AT, num_classes=5, budget_s=0.3, fail_above=1e6)


def test_the_document_has_the_contract(document):
    assert json.loads(to_json(document)) == document
    assert document["verdict"] in ("faster", "slower", "no difference seen")
    assert document["ci95"][0] <= document["ratio"] <= document["ci95"][1]
    assert document["control"]["ci95"][0] <= document["control"]["ratio"] <= document["control"]["ci95"][1]
    assert (document["clock"], document["schema_version"], document["failed"]) == ("process", 1, False)
    assert document["pairs"] >= document["rounds"] >= 6
    assert document["b"]["protocol"] == document["a"]["protocol"] | {"implementation": "reference", "batch": 2}
    assert document["a"]["spec_id"] == variant("micro").id
    assert document["a"]["median_ms"] > 0


def _ready(word):
    """A subject whose runs say a word."""
    return Ready(lambda: lambda: word, ())


def test_a_rigged_clock_gives_the_verdict_of_the_whole_and_the_limit_its_answer():
    machine = Machine(0)

    def rigged(run, n):
        machine.seconds += n * (0.012 if run() == "slow" else 0.010)
        return n * (0.012 if run() == "slow" else 0.010)

    def compared(words, **options):
        ready = iter(words)
        with pytest.MonkeyPatch.context() as patch:
            module = room
            patch.setattr(module, "make_ready", lambda *_: _ready(next(ready)))
            a = parse_subject("micro")
            clock = machine.clock._replace(time=rigged, others=lambda: 1.5 * machine.seconds)
            return compare(a, a, base=AT, num_classes=5, budget_s=1.0, clock=clock, **options)

    slower = compared(["slow", "fast"], fail_above=0.05)
    assert (slower["verdict"], slower["failed"], slower["ratio"]) == ("slower", True, pytest.approx(1.2))
    assert compared(["slow", "fast"], fail_above=0.25)["failed"] is False
    assert compared(["fast", "slow"], fail_above=0.0)["failed"] is False
    assert compared(["fast", "slow"])["verdict"] == "faster"
    assert "failed" not in compared(["fast", "fast"])
    (warning,) = slower["warnings"]
    assert warning.startswith("other processes kept 1.5 of 2 cores busy")


def test_noise_and_an_unstill_control_are_warned_of():
    from uniformer_bench.measure.compare import _warnings

    clock = Machine(0).clock
    shaken = _comparison([1.0, 1.1, 1.2, 0.9, 1.0, 1.0], [1.01] * 6)
    assert _warnings(shaken, (AT, AT), clock, 0.0) == [
        "two copies of A differed by 1.0%, so no smaller difference is believed",
        "only a difference of 20% or more would have been seen; give it more time",
    ]
    still = _comparison([1.0] * 6, [1.0] * 6)
    assert _warnings(still, (AT, AT), clock, 0.0) == _warnings(still, (AT, AT), clock, 0.9) == []
    (busy,) = _warnings(still, (AT, AT), clock._replace(name="wall"), 1.1)
    assert busy.endswith("one thread would be timed by processor time")


def test_exceeding_needs_the_whole_interval():
    over = {"verdict": "slower", "ci95": [1.051, 1.2]}
    assert exceeds(over, 0.05)
    assert not exceeds(over, 0.06)
    assert not exceeds({"verdict": "no difference seen", "ci95": [1.051, 1.2]}, 0.05)


def test_percentages():
    assert (parse_percent("5%"), parse_percent("0%"), parse_percent("2.5%")) == (0.05, 0, 0.025)
    for text in ("5", "-1%", "x%", "", "nan%", "inf%"):
        with pytest.raises(UbenchError, match="must be a percentage such as 5%"):
            parse_percent(text)


def test_the_text_says_what_the_document_says(document):
    text = comparison_text(document)
    for part in (document["verdict"], "micro@implementation=reference,batch=2", "process time", "A/A", "passed"):
        assert part in text
    slower = document | {"verdict": "slower", "ratio": 1.25, "failed": True, "fail_above": 0.05, "warnings": ["beware"]}
    lines = comparison_text(slower).splitlines()
    assert lines[0] == "A is slower than B: it takes 1.250 times as long"
    assert lines[-2:] == ["  warning: beware", "  failed: A may be slower than B by 5.0% at most"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_s": 0}, "budget_s must be positive, got 0"),
        ({"fail_above": -0.1}, "fail_above must not be negative, got -0.1"),
        (
            {"base": Protocol(device="cpu", frames=8, size=(32, 32), mode="training")},
            "must be inference, got 'training'",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    a = parse_subject("micro")
    with pytest.raises(UbenchError, match=message):
        compare(a, a, **({"base": AT, "num_classes": 5} | options))


def test_clocks(monkeypatch):
    four, log = Protocol(device="cpu", frames=8, size=(32, 32), threads=4), []
    assert (clock_for(AT, AT).name, clock_for(AT, four).name, clock_for(four, four).name) == ("process", "wall", "wall")
    for clock in (clock_for(AT, AT), clock_for(four, four)):
        assert clock.time(lambda: log.append(sum(range(10000))), 3) > 0
    assert len(log) == 6

    class Event:
        def __init__(self, enable_timing):
            self.at = 0

        def record(self):
            self.at = len(log)

        def elapsed_time(self, end):
            assert log[-1] == "wait"
            return 1000.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", torch.device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    monkeypatch.setattr(room, "l2_flush", lambda device: lambda: log.append(f"flush {device}"))
    gpu = clock_for(*[Protocol(device="cuda:1", frames=8, size=(32, 32))] * 2)
    assert gpu.name == "events"
    assert gpu.time(lambda: log.append("run"), 3) == 3
    log.clear()
    assert gpu.cold_time(lambda: log.append("run"), 3) == 3  # seconds, the flushes before the events left out
    assert log == ["flush cuda:1", "run"] * 3 + ["wait"]


def test_subjects_with_different_threads_get_theirs_before_every_sample(monkeypatch):
    timed, before, machine = set(), torch.get_num_threads(), Machine(0)
    module = room
    monkeypatch.setattr(module, "make_ready", lambda subject, *_: _ready(subject.text))

    def rigged(run, n):
        timed.add((run(), torch.get_num_threads()))
        machine.seconds += 0.01
        return 0.01

    def compared(a, b):
        timed.clear()
        clock = machine.clock._replace(time=rigged)
        compare(parse_subject(a), parse_subject(b), base=AT, num_classes=5, budget_s=0.5, clock=clock)
        assert torch.get_num_threads() == before
        return timed

    one, two = "micro@threads=1", "micro@threads=2"
    assert compared(one, two) == {(one, 1), (two, 2)}
    assert compared(two, two) == {(two, 2)}


def test_subjects_read_every_setting(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"")
    words = "precision=bf16,implementation=reference,compile=true,threads=3,batch=8,frames=4,size=64x96"
    text = f"s@{words},checkpoint={weights}"
    subject = parse_subject(text)
    assert (subject.text, subject.variant, subject.spec, subject.checkpoint) == (text, "s", variant("s"), weights)
    assert subject.protocol(AT) == Protocol(
        device="cpu",
        frames=4,
        size=(64, 96),
        precision="bf16",
        batch=8,
        threads=3,
        implementation="reference",
        compile=True,
    )
    assert parse_subject("micro").protocol(AT) == AT
    assert parse_subject("micro@size=64,compile=no").protocol(AT).size == (64, 64)


def test_subjects_may_be_spec_files(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("stages: [{mixer: local, depth: 1, width: 8}]\n")
    subject = parse_subject(f"{path}@batch=2")
    assert (subject.variant, subject.spec) == (None, ArchSpec.load(path))
    assert usual_input(subject) == Input(16, (224, 224), 400)
    assert usual_input(parse_subject("micro")) == Input(8, (32, 32), 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("micr", "unknown variant 'micr', did you mean micro"),
        ("absent.yaml", "absent.yaml cannot be read"),
        ("absent.pth", "absent.pth cannot be read: No such file"),
        ("w.pth@checkpoint=pyproject.toml", "a file of weights has no other checkpoint, got 'w.pth@"),
        ("s@graph=maybe", "graph must be true or false, got 'maybe'"),
        ("s@precison=bf16", "unknown setting 'precison' in .*, did you mean precision"),
        ("s@bf16", "must read name=value, got 'bf16'"),
        ("s@batch=", "must read name=value, got 'batch='"),
        ("s@batch=2,batch=3", "must be given once, got batch twice"),
        ("s@batch=two", "batch must be a positive integer, got 'two'"),
        ("s@compile=perhaps", "compile must be true or false, got 'perhaps'"),
        ("s@size=64x", "size must be a positive integer, got ''"),
        ("s@checkpoint=absent.pth", "checkpoint must be a file, got 'absent.pth'"),
    ],
)
def test_bad_subjects_are_refused(text, message):
    with pytest.raises(UbenchError, match=message):
        parse_subject(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s@cache=hot", "cache must be one of cold, warm, got 'hot'"),
        ("s@cache=warm", "cache must be left out but on a CUDA device, got 'warm' on cpu"),
        ("s@graph=true", "graph must be False but on a CUDA device, got True on cpu"),
        ("s@precision=int3", "precision must be one of fp32, bf16, fp16, got 'int3'"),
        ("s@batch=0", "batch must be a positive integer, got 0"),
        ("s@size=1x2x3", r"size must be one number or two \(height, width\), got \(1, 2, 3\)"),
    ],
)
def test_bad_values_are_refused_by_the_protocol(text, message):
    with pytest.raises(UbenchError, match=message):
        parse_subject(text).protocol(AT)


def test_ready_subjects_are_the_seeded_model_at_new_places(monkeypatch):
    subject = parse_subject("micro")
    before = torch.random.get_rng_state()
    fresh = make_ready(subject, AT, 5, seed=3).fresh
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = fresh(), fresh()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = for_inference(build(subject.spec, 5).eval())
    with torch.inference_mode():
        expected = model(clips_like(subject.spec, 1, 8, (32, 32), 3))
    assert torch.equal(first(), expected)
    assert torch.equal(second(), expected)
    assert first().is_inference()
    copies = [run.__closure__ for run in (first, second)]
    places = [{p.data_ptr() for cell in cells for p in _tensors(cell.cell_contents)} for cells in copies]
    assert not places[0] & places[1]


def _tensors(value):
    return list(value.parameters()) if isinstance(value, torch.nn.Module) else [value]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a small model's, whose head_dim is the 64 that is assumed of it: LG, 7 classes."""
    stages = [{"mixer": m, "depth": 1, "width": 64, "dpe_kernel": [1, 1, 1]} for m in ("local", "global")]
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("weights") / "seven.pth"
    donor = build(ArchSpec.from_dict({"stages": stages}), 7).eval()
    torch.save({"model": donor.state_dict()}, path)
    return path, donor


def test_checkpoints_are_read_for_the_subject_that_names_one(weights, tmp_path):
    path, donor = weights
    spec = tmp_path / "spec.yaml"
    spec.write_text(to_json(donor.spec.to_dict()))
    same, other = (make_ready(parse_subject(f"{spec}@checkpoint={path}"), AT, n, seed=0) for n in (7, 5))
    with torch.inference_mode():
        assert torch.equal(same.fresh()(), for_inference(donor)(clips_like(donor.spec, 1, 8, (32, 32), 0)))
    assert same.notes[0] == "the weights are those under 'model'"
    assert "the head for 7 classes is left out: that for 5 stays as it was" in other.notes


def test_weights_alone_are_a_subject_of_their_own_architecture(weights):
    path, donor = weights
    subject = parse_subject(f"{path}@batch=2")
    assert (subject.variant, subject.checkpoint, subject.settings) == (None, path, {"batch": 2})
    assert subject.spec.id == named_subject(None, None, path).spec.id == donor.spec.id
    assert any("strides" in note and "assumed" in note for note in subject.notes)
    assert usual_input(subject) == Input(16, (224, 224), 7)
    ready = make_ready(subject, AT, 7, seed=0)
    with torch.inference_mode():
        assert torch.equal(ready.fresh()(), for_inference(donor)(clips_like(donor.spec, 1, 8, (32, 32), 0)))
    assert len(ready.notes) == len(set(ready.notes)) == 3  # container, strides, head_dim; said once each


def test_weights_of_images_are_given_clips_of_one_frame_and_released_files_their_head_dim(tmp_path):
    path = tmp_path / "uniformer_small_plus_in1k.pth"
    torch.save(build(variant("image_s_plus"), 1000).state_dict(), path)
    subject = parse_subject(str(path))
    assert usual_input(subject) == Input(1, (224, 224), 1000)
    assert subject.spec.head_dim == 32
    assert "head_dim 32, as the official uniformer_small_plus_in1k.pth was trained with" in subject.notes


def test_weights_that_64_does_not_suit_ask_for_their_architecture(tmp_path):
    torch.save(build(variant("micro"), 5).state_dict(), tmp_path / "micro.pth")
    with pytest.raises(UbenchError, match=r"micro\.pth alone makes no architecture: head_dim must divide width, got"):
        parse_subject(str(tmp_path / "micro.pth"))


def test_two_files_of_weights_are_compared_with_their_notes(weights):
    path, _ = weights
    subject = parse_subject(str(path))
    document = compare(subject, subject, base=AT, num_classes=7, budget_s=0.2)
    assert document["a"]["checkpoint"] == document["b"]["checkpoint"] == str(path)
    assert document["a"]["notes"] == document["b"]["notes"] != []
    for name in "AB":
        assert f"  {name}: {document['a']['notes'][0]}" in comparison_text(document).splitlines()


GPU = Protocol(device="cuda:0", frames=8, size=(32, 32))


def _on_gpu(monkeypatch, a, b, capture=None):
    """What is timed, how, when subjects' runs say their name on a pretended GPU; and the document."""
    timed, machine, captured = set(), Machine(0), []
    monkeypatch.setattr(room, "make_ready", lambda subject, *_: _ready(subject.text))

    def graphed(run, device):
        captured.append((run(), device))
        return (lambda: f"graph of {run()}"), None

    def rigged(how):
        def timer(run, n):
            timed.add((how, run()))
            machine.seconds += 0.01
            return 0.01

        return timer

    monkeypatch.setattr(room, "capture_graph", capture or graphed)
    clock = machine.clock._replace(time=rigged("warm"), cold_time=rigged("cold"))
    document = compare(parse_subject(a), parse_subject(b), base=GPU, num_classes=5, budget_s=0.5, clock=clock)
    return timed, captured, document


def test_on_a_gpu_caches_are_cold_or_warm_by_subject(monkeypatch):
    timed, captured, document = _on_gpu(monkeypatch, "micro", "micro@cache=warm")
    assert timed == {("cold", "micro"), ("warm", "micro@cache=warm")}
    assert captured == []
    assert (document["a"]["protocol"]["cache"], document["b"]["protocol"]["cache"]) == ("cold", "warm")


def test_on_a_gpu_graphs_are_captured_anew_at_every_place(monkeypatch):
    graph = "micro@graph=true"
    timed, captured, document = _on_gpu(monkeypatch, "micro@cache=warm", graph)
    assert timed == {("warm", "micro@cache=warm"), ("cold", f"graph of {graph}")}
    assert set(captured) == {(graph, "cuda:0")}
    assert len(captured) == 1 + document["rounds"]  # one for the plan
    assert document["b"]["protocol"]["graph"] is True


def test_a_graph_that_cannot_be_is_said_once(monkeypatch):
    timed, _, document = _on_gpu(monkeypatch, "micro@graph=yes", "micro", lambda run, device: (run, "no graph"))
    assert timed == {("cold", "micro@graph=yes"), ("cold", "micro")}
    assert document["warnings"].count("no graph") == 1


def test_no_room_to_flush_is_one_line(monkeypatch):
    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(room, "l2_flush", full)
    subject = parse_subject("micro")
    with pytest.raises(UbenchError, match="need more memory than cuda:0 has; lower batch, frames or size"):
        compare(subject, subject, base=GPU, num_classes=5)


def test_compiled_subjects_are_compiled_once_and_failures_are_one_line(monkeypatch):
    subject, compiled = Subject("micro", variant("micro")), []
    at = Protocol(device="cpu", frames=8, size=(32, 32), compile=True)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: compiled.append(model) or model)
    fresh = make_ready(subject, at, 5, 0).fresh
    assert fresh() is fresh()
    assert len(compiled) == 1
    compare(subject, subject, base=at, num_classes=5, budget_s=0.1)
    assert len(compiled) == 1 + 3  # A, B and the control are models of their own

    def broken(model, dynamic):
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UbenchError, match=r"micro: torch\.compile failed, .*: RuntimeError: no compiler$"):
        make_ready(subject, at, 5, 0)


@pytest.mark.parametrize("compiled", [False, True])
def test_out_of_memory_is_one_line_and_other_faults_are_theirs(monkeypatch, compiled):
    at = Protocol(device="cpu", frames=8, size=(32, 32), compile=compiled)
    faults = [MemoryError(), ValueError("a fault")]

    def fails(model, clips):
        raise faults[0]

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    monkeypatch.setattr(subjects, "_forward", fails)
    with pytest.raises(UbenchError, match="micro needs more memory than cpu has; lower batch or size"):
        make_ready(Subject("micro", variant("micro")), at, 5, 0)
    faults[:] = [RuntimeError("a fault")]
    if not compiled:
        with pytest.raises(RuntimeError, match="a fault"):
            make_ready(Subject("micro", variant("micro")), at, 5, 0)


def test_the_median_of_a_round_ignores_a_spike():
    blocks = (Block(1.0, 1.0, 1.0), Block(9.0, 1.0, 1.0), Block(1.0, 1.0, 1.0))
    assert Comparison((blocks,) * 6).ratio == Ratio(1, 1, 1)
    assert statistics.mean(block.a for block in blocks) > 3
