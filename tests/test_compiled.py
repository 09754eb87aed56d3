"""Compiled models agree with themselves uncompiled, are compiled once on a machine, and fall back with a word."""

import gc
import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.test_measure_clocks import Cuda
from uniformer_bench.measure.clocks import capture_graph
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.compiled import FOLDER, compile_model
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec

CLIP = 1, 4, (16, 16)
SPEC = ArchSpec(
    stem=PatchSpec(kernel=(1, 3, 3), stride=(1, 2, 2), kind="conv", layers=2),
    stages=(
        StageSpec(mixer="local", depth=1, width=8, kernel=(3, 1, 1), dpe_kernel=None, layer_scale=0.5),
        StageSpec(mixer="split", depth=1, width=16, head_dim=8, ffn=False),
        StageSpec(mixer="global", depth=1, width=16, head_dim=8),
    ),
)
OTHER_PROCESS = """
import json, torch
from torch._dynamo.utils import counters
from tests.test_compiled import SPEC, compiled_like
torch.set_num_threads(1)
compiled_like(SPEC)
print(json.dumps(counters["inductor"]))
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Like a worker, and like the other process of these tests."""
    with thread_count(1):
        yield


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """An empty cache of compiled code for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


def compiled_like(spec, seed=0):
    """(model, clips, what it compiled to)."""
    torch.manual_seed(seed)
    model, clips = build(spec, 3).eval(), clips_like(spec, *CLIP)
    return model, clips, compile_model(model, clips)


def graphs():
    return counters["stats"]["unique_graphs"]


def test_it_agrees_with_the_model_and_is_compiled_once():
    before = graphs()
    model, clips, found = compiled_like(SPEC)
    assert found.notes == ()
    assert graphs() == before + 1  # the whole forward pass, in one graph
    with torch.no_grad():
        want = model(clips)
    torch.testing.assert_close(found.run(clips), want, rtol=1e-4, atol=1e-5)
    found.run(clips + 1)
    with torch.inference_mode():
        found.run(clips)
    assert not found.run(clips).requires_grad
    assert graphs() == before + 1
    assert not counters["graph_break"]


def test_the_same_architecture_is_compiled_once_on_a_machine():
    compiled_like(SPEC)  # by this test or another one
    before = counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]
    model, clips, found = compiled_like(SPEC, seed=1)  # with other weights
    assert counters["inductor"]["fxgraph_cache_hit"] == before[0] + 1
    assert counters["inductor"]["fxgraph_cache_miss"] == before[1]
    with torch.no_grad():
        torch.testing.assert_close(found.run(clips), model(clips), rtol=1e-4, atol=1e-5)


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path, monkeypatch):
    """Two fresh processes, as workers are: after some other tests in this one the cache had another key for it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    words = [sys.executable, "-c", OTHER_PROCESS]
    first, second = (
        json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout) for _ in range(2)
    )
    assert first.get("fxgraph_cache_miss") == 1
    assert second.get("fxgraph_cache_hit") == 1
    assert "fxgraph_cache_miss" not in second


def test_any_number_of_models_of_one_class_and_none_stays_behind():
    runs, models, before = [], [], graphs()
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        for seed in range(4):
            model, clips, found = compiled_like(SPEC, seed)
            runs.append(found.run)
            models.append(weakref.ref(model))
        assert graphs() == before + 4
        assert len({run(clips).sum().item() for run in runs}) == 4  # each with its own weights
        assert graphs() == before + 4  # a later model does not drive out what an earlier one compiled to
    del model, found, runs
    gc.collect()
    assert [reference() for reference in models] == [None] * 4


def test_a_missing_compiler_is_a_word(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        model, clips, found = compiled_like(SPEC)
    (note,) = found.notes
    assert note.startswith("torch.compile failed, so the model runs without it: ")
    assert "No working C++ compiler found" in note
    assert "TORCHDYNAMO_VERBOSE" not in note
    with torch.inference_mode():
        assert torch.equal(found.run(clips), model(clips))


def test_what_the_model_raises_is_raised():
    class Full(nn.Module):
        def forward(self, clips):
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        compile_model(Full(), torch.zeros(1))


def test_the_cache_is_in_the_user_s_folder_unless_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr("uniformer_bench.model.compiled.cache_dir", lambda explicit: tmp_path)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    compiled_like(SPEC)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / FOLDER)


def test_no_graph_is_captured_but_by_the_clock(monkeypatch):
    """A CUDA graph holds a compiled model like any other, as long as the compiler captures none itself."""
    asked = []

    def noting(model, **options):
        asked.append(options)
        return model

    monkeypatch.setattr(torch, "compile", noting)
    _, clips, found = compiled_like(SPEC)
    assert asked == [{"dynamic": False}]  # no mode: "reduce-overhead" and "max-autotune" capture graphs
    assert not torch._inductor.config.triton.cudagraphs
    cuda, runs = Cuda(), []
    _, reason = capture_graph(lambda: runs.append(found.run(clips)), "cuda:0", cuda)
    assert reason is None
    assert len(runs) == 3 + 1  # on the side stream to warm up, and in the capture


def test_a_single_clip_meets_no_copies_before_convolutions():
    """The compiler's strides of a single clip must not hide channels-last memory from PyTorch's convolutions."""
    with thread_count(2):  # on one, convolutions this small are not oneDNN's
        _, clips, found = compiled_like(SPEC)
        with torch.profiler.profile() as profile:
            found.run(clips)
    convolutions = [e for e in profile.events() if e.name == "aten::mkldnn_convolution"]
    copied = [e for e in profile.events() if e.name == "aten::clone" and within(e, "uniformer_bench::depthwise")]
    assert any(within(event, "uniformer_bench::depthwise") for event in convolutions)
    assert not copied


def within(event, name):
    """Whether the event happened inside one of that name."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
        if event.name == name:
            return True
    return False
