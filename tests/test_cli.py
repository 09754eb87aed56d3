"""The verbs, as a script and as a person meets them: documents, exit codes, one line for an error."""

import json
import re
import subprocess
import sys

import pytest

import uniformer_bench
from tests.make_run import make_run, save_run
from uniformer_bench.variants import VARIANTS


def ubench(*words, **keywords):
    code = "from uniformer_bench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **keywords,
    )


def test_profile_prints_the_contracts_document():
    done = ubench("profile", "--variant", "micro", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=pytest.fail)  # no NaN, no Infinity
    keys = "schema_version variant spec_id spec num_classes protocol params macs flops counters latency_ms"
    assert {*keys.split(), "throughput_clips_per_s", "memory", "stages", "environment"} <= set(document)
    assert {c["macs"] for c in document["counters"].values()} == {document["macs"]} == {8_418_048}
    assert set(document["counters"]) == {"closed_form", "torch", "fvcore", "ptflops"}
    assert {"median", "p10", "p90", "ci95", "n", "warnings"} <= set(document["latency_ms"])
    assert [stage["name"] for stage in document["stages"]] == ["stage1", "stage2", "stage3", "stage4"]
    protocol = {
        "device",
        "precision",
        "batch",
        "frames",
        "size",
        "threads",
        "implementation",
        "compile",
        "warmup",
        "repeats",
    }
    assert protocol <= set(document["protocol"])


def test_profile_reads_a_spec_file_and_prints_a_table(tmp_path):
    (tmp_path / "x.yaml").write_text("head_dim: 8\nstages: [{mixer: global, depth: 1, width: 8}]")
    done = ubench(
        "profile", "--spec", tmp_path / "x.yaml", "--frames", 4, "--size", 16, env={"NO_COLOR": "1", "PATH": "/usr/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert "stage1" in done.stdout
    assert "\x1b" not in done.stdout


def test_variants_and_spaces_are_listed():
    found = json.loads(ubench("variants", "--json").stdout)
    assert [row["variant"] for row in found["variants"]] == list(VARIANTS)
    assert next(row for row in found["variants"] if row["variant"] == "s")["macs"] == 41_662_541_824
    assert "21,400,400" in ubench("variants").stdout
    assert {"tiny", "compact_112", "small_224", "base_224", "paper_ablation"} == {
        row["space"] for row in json.loads(ubench("spaces", "--json").stdout)["spaces"]
    }


@pytest.mark.parametrize("space", ["small_224", "compact_112"])
def test_a_dry_run_builds_twenty_and_says_what_to_expect(space, tmp_path):
    done = ubench("search", "--space", space, "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["built"] == len(document["architectures"]) == 20
    assert document["size"] > 1_000_000
    low, high = document["range"]["macs"]
    assert 0 < low < high
    assert document["expected_s"] > 0
    assert list(tmp_path.iterdir()) == []  # a dry run writes nothing


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["profile", "--variant", "ss"], 1, r"unknown variant 'ss', did you mean s"),
        (["profile", "--spec", "none.yaml"], 1, "none.yaml cannot be read: No such file or directory"),
        (["profile", "--variant", "s", "--size", "16"], 1, "a clip must leave a token at every stage"),
        (["profile", "--variant", "micro", "--device", "cuda:99"], 1, "device must be .* got 'cuda:99'"),
        (
            ["profile", "--variant", "micro", "--precision", "fp8"],
            1,
            "precision must be one of fp32, bf16, fp16, got 'fp8'",
        ),
        (["profile", "--variant", "micro", "--implementation", "slow"], 1, "unknown implementation 'slow'"),
        (["search", "--space", "tinny"], 1, "unknown space 'tinny', did you mean tiny"),
        (["search", "--sampler", "x", "--space", "tiny", "--device", "cpu"], 1, "sampler must be one of .* got 'x'"),
        (["search", "--objectives", "acuracy,latency"], 1, "unknown objective 'acuracy', did you mean accuracy"),
        (["search", "--data", "nowhere"], 1, "nowhere"),
        (["search", "--max-params-m", "0.00001"], 3, "some architecture must meet"),
        (["report", "nowhere"], 1, "a run is a folder with run.json and trials.json, got nowhere"),
    ],
)
def test_bad_input_is_one_line_and_a_code(words, code, line, tmp_path):
    done = ubench(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert re.search(line, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_bad_specs_are_one_line_with_the_place(tmp_path):
    for text, line in (
        ("stages: [{mixer: local, depth: 1, width: 8}, {mixer: local, depth: 1, width: 8, kernel: [4, 5, 5]}]",
         "kernel must be odd, got (4, 5, 5) in stages[1]"),
        ("stages: [{mixer: global, depth: 1, width: 100}]",
         "head_dim must divide width, got head_dim 64 and width 100 in stages[0]"),
    ):  # fmt: skip
        (tmp_path / "bad.yaml").write_text(text)
        done = ubench("profile", "--spec", tmp_path / "bad.yaml")
        assert (done.returncode, done.stderr) == (1, f"ubench: {line}\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["profile"],
        ["profile", "--variant", "s", "--spec", "x.yaml", "--checkpoint", "x.pth"],
        ["profile", "--batch", "0"],
        ["search", "--budget", "soon"],
        ["nonsense"],
    ],
)
def test_usage_errors_are_two(words):
    done = ubench(*words)
    assert done.returncode == 2
    assert "Usage" in done.stderr + done.stdout


def test_debug_shows_the_traceback():
    done = ubench("profile", "--variant", "ss", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_version_and_completion():
    assert ubench("--version").stdout == f"ubench, version {uniformer_bench.__version__}\n"
    script = ubench(env={"_UBENCH_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"}).stdout
    assert "_ubench_completion" in script


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import uniformer_bench", ("torch", "optuna", "plotly", "pandas", "numpy")),
        ("from uniformer_bench import cli", ("torch", "optuna", "plotly", "pandas", "numpy", "yaml", "rich")),
        ("from uniformer_bench.measure import profile", ("optuna", "plotly", "pandas")),
    ],
)
def test_imports_are_light(code, heavy):
    check = f"{code}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_are_there():
    import uniformer_bench as ub

    spec = ub.variant("micro")
    model = ub.build(spec, num_classes=3)
    assert sum(p.numel() for p in model.parameters()) == ub.cost(spec, frames=8, size=32, num_classes=3).params
    assert callable(ub.load_official_state_dict)
    assert callable(ub.load_run)
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        ub.biuld  # noqa: B018  # to ask for it is what is tested


def test_compare_prints_a_verdict_with_its_control():
    done = ubench("compare", "micro", "micro@implementation=reference", "--budget", "3s", "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert document["verdict"] in ("faster", "slower", "no difference seen")
    low, high = document["ci95"]
    assert low <= document["ratio"] <= high
    assert {"ratio", "ci95"} <= set(document["control"])


def test_compare_fails_where_asked_to():
    done = ubench("compare", "tiny", "micro", "--budget", "3s", "--threads", 1, "--fail-above", "5%")
    assert done.returncode == 1, done.stdout  # five times the MACs
    assert "slower" in done.stdout


def test_doctor_says_what_it_found():
    document = json.loads(ubench("doctor", "--json").stdout, parse_constant=pytest.fail)
    assert document["fit"] is all(check["state"] != "warn" for check in document["checks"])
    assert ubench("doctor").returncode == 0


def test_a_profile_is_a_page_and_a_sweep_too(tmp_path):
    words = ("--variant", "micro", "--threads", 1, "--sweep", "batch", "--html", tmp_path / "page.html", "--json")
    document = json.loads(ubench("profile", *words).stdout, parse_constant=pytest.fail)
    assert [row["batch"] for row in document["sweep"]["batch"]][:2] == [1, 2]
    assert "Content-Security-Policy" in (tmp_path / "page.html").read_text()


def test_a_profile_s_page_needs_no_plotly(tmp_path):
    code = (
        "import sys; sys.modules['plotly'] = sys.modules['optuna'] = None; from uniformer_bench.cli import main; main()"
    )
    words = ("profile", "--variant", "micro", "--threads", "1", "--html", str(tmp_path / "page.html"))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").exists()


def test_energy_and_the_largest_batch_come_when_asked_for():
    words = ("profile", "--variant", "micro", "--threads", 1, "--num-classes", 3)
    document = json.loads(ubench(*words, "--energy", "--largest-batch", "--json").stdout, parse_constant=pytest.fail)
    assert document["energy"]["joules_per_clip"] is None
    assert document["energy"]["reason"].startswith("no energy counter is read on cpu")
    assert document["largest_batch"]["inference"]["batch"] > document["largest_batch"]["training"]["batch"] > 0


@pytest.mark.parametrize("verb", [("profile", "--variant", "micro"), ("compare", "micro", "micro")])
def test_a_gpu_s_settings_are_refused_elsewhere(verb):
    for words, line in (
        (("--cache", "warm"), "cache must be left out but on a CUDA device, got 'warm' on cpu"),
        (("--cache", "hot"), "cache must be one of cold, warm, got 'hot'"),
        (("--graph",), "graph must be False but on a CUDA device, got True on cpu"),
    ):
        done = ubench(*verb, *words, "--device", "cpu")
        assert (done.returncode, done.stderr) == (1, f"ubench: {line}\n")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of an image model's 2D weights: LG, 7 classes, and a token-labelling head."""
    import torch

    from uniformer_bench.model import build
    from uniformer_bench.spec import ArchSpec

    folder = tmp_path_factory.mktemp("images")
    blocks = "dpe_kernel: [1, 3, 3], depth: 1, width: 64"
    text = f"stages: [{{mixer: local, kernel: [1, 5, 5], {blocks}}}, {{mixer: global, {blocks}}}]\n"
    (folder / "video.yaml").write_text(text.replace("1, 5, 5", "3, 5, 5").replace("1, 3, 3", "3, 3, 3"))
    (folder / "image.yaml").write_text(text + "stem: {kernel: [1, 4, 4], stride: [1, 4, 4]}\n")
    weights = build(ArchSpec.load(folder / "image.yaml"), 7).state_dict()
    flat = {name: value[:, :, 0] if value.ndim == 5 else value for name, value in weights.items()}
    torch.save({"model": flat | {"aux_head.weight": torch.ones(7, 64)}}, folder / "seven.pth")
    return folder


def test_weights_alone_name_their_architecture(images):
    done = ubench("profile", "--checkpoint", images / "seven.pth", "--threads", 1, "--size", 32, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (document["variant"], document["num_classes"], document["protocol"]["frames"]) == (None, 7, 1)
    assert document["checkpoint"]["path"] == str(images / "seven.pth")
    notes = " / ".join(document["checkpoint"]["notes"])
    for words in ("those under 'model'", "strides", "aux_head", "head_dim 64 is assumed"):
        assert notes.count(words) == 1


def test_flat_weights_of_other_classes_fit_a_video_model_with_a_word(images):
    words = ("profile", "--spec", images / "video.yaml", "--checkpoint", images / "seven.pth", "--num-classes", 3)
    done = ubench(*words, "--inflate", "centre", "--threads", 1, "--size", 32, "--frames", 4)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "the head for 7 classes is left out" in text
    assert "2D kernels are inflated over time by centre" in text
    refused = ubench(*words, "--inflate", "middle", "--threads", 1, "--size", 32, "--frames", 4)
    assert refused.returncode == 1
    assert refused.stderr == "ubench: inflate must be average or centre, got 'middle'; there is average, centre\n"


def test_two_files_of_weights_are_compared(images):
    weights = images / "seven.pth"
    done = ubench("compare", weights, f"{weights}@batch=2", "--size", 32, "--budget", "1s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("head_dim 64 is assumed") == 2


def test_a_profile_takes_a_checkpoint_and_refuses_another_architectures(tmp_path):
    import torch

    from uniformer_bench.model import build
    from uniformer_bench.variants import variant

    torch.save(build(variant("micro"), 12).state_dict(), tmp_path / "micro.pth")
    words = ("profile", "--threads", 1, "--checkpoint", tmp_path / "micro.pth", "--variant")
    assert ubench(*words, "micro").returncode == 0
    refused = ubench(*words, "tiny")
    assert refused.returncode == 1
    assert "the weights must be those of" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_report_takes_several_runs_and_redacts(tmp_path):
    runs = [str(save_run(make_run(4, seed=i), tmp_path / name)) for i, name in enumerate(("x", "y"))]
    done = ubench("report", *runs, "--redact", "--json", "--reports", "pages", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["run"], document["runs"]) == (runs[0], runs)
    assert (tmp_path / document["report"]).name == "x_and_y-redacted.html"
    assert (tmp_path / document["report"]).is_file()
