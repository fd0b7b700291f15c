"""Q8_0 and Q4_0 bit by bit as gguf.quants makes them, and the table of types as gguf has it."""

import numpy as np
import pytest
import torch

from llmkit.checkpoints.gguf_header import TENSOR_TYPES, bytes_of
from llmkit.checkpoints.quantization import dequantize, quantize, rounding_error

gguf = pytest.importorskip("gguf")


def awkward(seed=0):
    """(48, 96): normal weights of many sizes, outliers, blocks of zeros, of equal values, of ties, of tiny values."""
    x = torch.randn(48, 96, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-6, 3, 48)[:, None]
    x[3, 5] = 4e4  # an outlier: its 31 neighbours lose their bits
    x[4, :32] = 0
    x[5, 32:64] = -0.25
    x[6, :32] = torch.arange(32) / 2 - 8  # halves, which must go away from zero
    x[7, :32] = (torch.arange(32) - 127) / 254
    x[7, 0] = 1.0
    x[8, :2] = torch.tensor([3.0, -3.0])  # two that are largest: the first gives the sign
    x[8, 2:32] = 0.1
    x[9, :32] = 1e-9  # its scale is 0 in 16 bits
    return x


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_the_bytes_are_ggufs(kind):
    number = gguf.GGMLQuantizationType[kind]
    for seed in range(20):
        values = awkward(seed)
        expected = gguf.quants.quantize(values.numpy(), number)
        data = quantize(values, kind)
        assert data.dtype == torch.uint8
        assert np.array_equal(data.numpy(), expected.view(np.uint8))
        assert np.array_equal(dequantize(data, kind).numpy(), gguf.quants.dequantize(expected, number))


def test_q4_1_is_read_as_gguf_reads_it():
    number = gguf.GGMLQuantizationType.Q4_1
    data = gguf.quants.quantize(awkward().numpy(), number)
    assert np.array_equal(dequantize(torch.from_numpy(data), "Q4_1").numpy(), gguf.quants.dequantize(data, number))


def test_rounding_what_is_rounded_changes_nothing():
    for kind in ("F16", "BF16", "Q8_0", "Q4_0"):
        once = quantize(awkward(), kind)
        again = quantize(dequantize(once, kind), kind)
        assert torch.equal(dequantize(again, kind), dequantize(once, kind))
        assert torch.equal(again[16:], once[16:])  # before: scales that became 0, whose numbers are lost


def test_the_error_of_a_tensor():
    """An eighth of the numbers is what four bits less cost; one outlier in each block costs most of the rest."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    plain = {kind: rounding_error(x, kind) for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0")}
    assert plain["F32"] == 0 < plain["F16"] < plain["BF16"] < plain["Q8_0"] < plain["Q4_0"] < 0.15
    assert rounding_error(x, "Q8_0") == pytest.approx(plain["Q4_0"] / 16, rel=0.3)
    outliers = x.clone()
    outliers[:, ::32] = 20.0
    kept = torch.ones(256, dtype=torch.bool)
    kept[::32] = False
    lost = (dequantize(quantize(outliers, "Q4_0"), "Q4_0") - outliers)[:, kept].norm() / outliers[:, kept].norm()
    assert lost > 4 * plain["Q4_0"]


def test_what_cannot_be_rounded_is_named():
    with pytest.raises(ValueError, match=r"a row of 48 values is no whole number of Q8_0's blocks of 32"):
        quantize(torch.zeros(2, 48), "Q8_0")
    with pytest.raises(ValueError, match="'Q5_K' is not one of F32, F16"):
        quantize(torch.zeros(2, 256), "Q5_K")
    with pytest.raises(ValueError, match="'Q5_K' is not one of F32, F16"):
        dequantize(torch.zeros(2, 176, dtype=torch.uint8), "Q5_K")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            quantize(torch.full((1, 32), value), "Q8_0")
    with pytest.raises(ValueError, match=r"weights up to 1e\+05 are too large for torch.float16"):
        quantize(torch.full((1, 32), 1e5), "F16")
    with pytest.raises(ValueError, match="too large for torch.float16"):
        quantize(torch.full((1, 32), 1e7), "Q8_0")


def test_blocks_and_numbers_are_ggufs():
    for number, (name, values, size) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, values, size)
    assert bytes_of("Q4_K", (3, 512)) == 3 * 2 * 144
