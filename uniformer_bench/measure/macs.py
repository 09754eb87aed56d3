"""Four counts of one forward pass of one clip, two of forward and backward: closed form and tools, made comparable.

`macs` are the multiply-accumulates of convolutions, linear layers and attention products, nothing else;
`raw` is what the tool itself says. Tools see a copy of the model without memory (on torch's meta device),
so that counting computes nothing, changes nothing and gives the same answer however often it is done.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from uniformer_bench.cost import cost
from uniformer_bench.model import build
from uniformer_bench.spec import ArchSpec

TOOLS = ("torch", "fvcore", "ptflops")
SDPA = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Count:
    """What one counter says. `macs` is None where it said nothing, and `note` then has the reason."""

    macs: int | None
    raw: float | None
    raw_unit: str
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self)


Counter = Callable[[nn.Module, Tensor], Count]


def count_macs(
    spec: ArchSpec,
    *,
    frames: int,
    size: int | tuple[int, int],
    num_classes: int,
    implementation: str = "fast",
    tools: Sequence[str] = TOOLS,
) -> dict[str, Count]:
    """Counts by closed_form and by `tools` for a clip (in_channels, frames, height, width).

    Raises SpecError where the clip is too small, UbenchError for an unknown implementation.
    """
    macs = cost(spec, frames=frames, size=size, num_classes=num_classes).macs

    @torch.no_grad()
    def counted(counter: Counter, unit: str) -> Count:
        return _or_reason(counter, *_without_memory(spec, frames, size, num_classes, implementation), unit)

    known = dict(zip(TOOLS, ((_torch, "FLOPs"), (_fvcore, "MACs"), (_ptflops, "MACs")), strict=True))
    return {"closed_form": Count(macs, macs, "MACs")} | {name: counted(*known[name]) for name in tools}


def count_training_macs(
    spec: ArchSpec, *, frames: int, size: int | tuple[int, int], num_classes: int, implementation: str = "fast"
) -> dict[str, Count]:
    """Counts by closed_form and torch of a forward and backward pass of one clip; the others count no backward.

    No gradient to the clip, and backward attention in four products, as cost.py has it. Raises as count_macs.
    """
    macs = cost(spec, frames=frames, size=size, num_classes=num_classes).training_macs
    model, clip = _without_memory(spec, frames, size, num_classes, implementation)
    with torch.enable_grad():
        torch_count = _or_reason(_torch_training, model, clip, "FLOPs")
    return {"closed_form": Count(macs, macs, "MACs"), "torch": torch_count}


def _without_memory(
    spec: ArchSpec, frames: int, size: int | tuple[int, int], num_classes: int, implementation: str
) -> tuple[nn.Module, Tensor]:
    """The model and one clip on the meta device."""
    height, width = (size, size) if isinstance(size, int) else size
    with torch.device("meta"):
        model = build(spec, num_classes, implementation).eval()
        return model, torch.empty(1, spec.in_channels, frames, height, width)


def _or_reason(counter: Counter, model: nn.Module, clip: Tensor, unit: str) -> Count:
    """The tool's count; a tool that is missing or fails, in whatever way, is a reason and not an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both tools use deprecated parts of torch
            return counter(model, clip)
    except Exception as error:
        return Count(None, None, unit, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _torch(model: nn.Module, clip: Tensor) -> Count:
    """FlopCounterMode, which is exact on the meta device; on a CPU it would miss fused attention."""
    with FlopCounterMode(display=False) as counter:
        model(clip)
    flops = counter.get_total_flops()
    return Count(flops // 2, flops, "FLOPs", "torch counts 2 FLOPs for a multiply-accumulate")


def _torch_training(model: nn.Module, clip: Tensor) -> Count:
    """FlopCounterMode twice over one run: as it is, and with grouped convolutions' gradients counted right."""
    mended = {torch.ops.aten.convolution_backward: _convolution_gradients}
    with FlopCounterMode(display=False) as raw, FlopCounterMode(display=False, custom_mapping=mended) as counter:
        model(clip).sum().backward()
    flops, said = counter.get_total_flops(), raw.get_total_flops()
    note = "torch counts 2 FLOPs for a multiply-accumulate"
    if said != flops:
        note += f", and the weight gradient of a grouped convolution as if it had one group, {said - flops:,} too many"
    return Count(flops // 2, said, "FLOPs", note)


def _convolution_gradients(grad: Any, clip: Any, weight: Any, *others: Any, **rest: Any) -> int:
    """FLOPs of the gradients asked for, from shapes (aten's convolution_backward): each has the forward's products.

    `weight` is (C_out, C_in / groups, t, h, w); `others` end in the mask of input, weight and bias.
    """
    to_input, to_weight, _ = others[-1]
    return 2 * prod(grad) * prod(weight[1:]) * (to_input + to_weight)


def _fvcore(model: nn.Module, clip: Tensor) -> Count:
    """fvcore reads a jit trace; it has no count for fused attention and counts normalisations."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, clip).set_op_handle(f"aten::{SDPA}", _attention_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with _TraceableConvolution():
        by_operator = analysis.by_operator()
    norms = by_operator["layer_norm"] + by_operator["batch_norm"]
    fused, total = by_operator[SDPA], analysis.total()
    note = f"fvcore calls MACs flops and adds {norms:,} for normalisations"
    note += f"; it leaves out the {fused:,} of fused attention" if fused else ""
    return Count(int(total - norms), float(total - fused), "MACs", note)


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """q k^T and the product with v, of q (..., N, d), k (..., M, d), v (..., M, d)."""
    query, key, value = (node.type().sizes() for node in inputs[:3])
    return prod(query) * key[-2] + prod(query[:-1]) * prod(value[-2:])


class _TraceableConvolution(TorchFunctionMode):
    """While active, a convolution is the operator that a jit trace records on any device.

    On the meta device F.conv3d ends in an operator that the trace leaves out, and whose Python code takes
    the trace's sizes for tensors.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _convolution(*args, **(kwargs or {})) if func is F.conv3d else func(*args, **(kwargs or {}))


def _convolution(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    stride, padding, dilation = ([v] * 3 if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
    backend = (False, False, True, True)  # benchmark, deterministic, cudnn, tf32: of no effect without a device
    return torch._convolution(x, weight, bias, stride, padding, dilation, False, [0, 0, 0], groups, *backend)


def _ptflops(model: nn.Module, clip: Tensor) -> Count:
    """ptflops' counter of aten operators, once as it is and once with its own formulas not shown the biases."""
    raw = _ptflops_total(model, clip, {})
    macs = _ptflops_total(model, clip, _without_bias())
    note = f"ptflops adds a multiply-accumulate for every bias that is added, {raw - macs:,} of them"
    return Count(macs, raw, "MACs", note)


def _ptflops_total(model: nn.Module, clip: Tensor, handlers: dict[Any, Any]) -> int:
    from ptflops import get_model_complexity_info

    with _captured() as printed:
        macs, _ = get_model_complexity_info(
            model,
            tuple(clip.shape[1:]),
            print_per_layer_stat=False,
            as_strings=False,
            backend="aten",
            custom_modules_hooks=handlers,
        )
    if macs is None:
        raise RuntimeError(f"ptflops gave no number: {printed.getvalue()}")
    return macs


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What a tool prints where it should raise."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        yield printed


def _without_bias() -> dict[Any, Any]:
    from ptflops.aten_ops import addmm_flop, conv_flop

    aten = torch.ops.aten
    return {
        aten.addmm: lambda inputs, outputs: addmm_flop([None, *inputs[1:]], outputs),
        aten.convolution: lambda inputs, outputs: conv_flop([*inputs[:2], None, *inputs[3:]], outputs),
    }
