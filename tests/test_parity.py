"""Our models give the official model's logits for the official weights."""

import pytest
import torch

from tests.official import CASES, clips_of, spec_of, state_dict_of
from uniformer_bench.cost import cost
from uniformer_bench.model import build, load_official_state_dict


@pytest.mark.parametrize("implementation", ["reference", "fast"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_logits_are_the_official_ones(case, implementation):
    model = build(spec_of(case), case["num_classes"], implementation).double().eval()
    load_official_state_dict(model, state_dict_of(case, model.state_dict()))
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    clips = clips_of(case)
    with torch.no_grad():
        exact, single = model(clips), model.float()(clips.float())
    scale = expected.abs().max()
    assert (exact - expected).abs().max() / scale < 1e-9
    assert (single - expected).abs().max() / scale < (1e-3 if "plus" in case["name"] else 1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_parameters_are_the_official_ones(case):
    model = build(spec_of(case), case["num_classes"])
    frames, *size = case["input_shape"][2:] if len(case["input_shape"]) == 5 else (1, *case["input_shape"][2:])
    closed_form = cost(spec_of(case), frames=frames, size=tuple(size), num_classes=case["num_classes"]).params
    assert sum(p.numel() for p in model.parameters()) == case["params"] == closed_form
