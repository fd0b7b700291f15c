"""GPU sections: full size on a GPU, one line without, smoke size in the tests."""

import pytest
import torch

from llmkit.course import gpu as module
from llmkit.course import gpu_section


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(module, "gpu", lambda: None)
    monkeypatch.delenv("LLMKIT_GPU_SMOKE", raising=False)


def section():
    @gpu_section("train for an hour", full={"steps": 1000}, smoke={"steps": 2})
    def result(device, steps):
        return device.type, steps

    return result


def test_without_a_gpu_one_line_says_what_it_would_do(without_gpu, capsys):
    assert section() is None
    assert capsys.readouterr().out == (
        "No GPU here, so this section is passed over. With one it would train for an hour.\n"
    )


def test_smoke_size_on_the_cpu(without_gpu, monkeypatch):
    monkeypatch.setenv("LLMKIT_GPU_SMOKE", "1")
    assert section() == ("cpu", 2)


def test_smoke_size_also_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(module, "gpu", lambda: torch.device("cuda"))
    monkeypatch.setenv("LLMKIT_GPU_SMOKE", "1")
    assert section() == ("cpu", 2)


def test_a_gpu_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert module.gpu() == torch.device("cuda")
    monkeypatch.setenv("LLMKIT_GPU", "off")
    assert module.gpu() is None


def test_full_size_on_a_gpu(monkeypatch):
    monkeypatch.delenv("LLMKIT_GPU_SMOKE", raising=False)
    monkeypatch.setattr(module, "gpu", lambda: torch.device("cuda"))
    assert section() == ("cuda", 1000)


def test_an_mps_that_computes_wrongly_is_not_used(monkeypatch):
    monkeypatch.delenv("LLMKIT_GPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(module, "_computes_correctly", lambda device: False)
    assert module.gpu() is None
    monkeypatch.setattr(module, "_computes_correctly", lambda device: True)
    assert module.gpu() == torch.device("mps")


def test_the_self_test_passes_on_the_cpu_and_sees_a_wrong_result(monkeypatch):
    assert module._computes_correctly(torch.device("cpu"))
    real = torch.softmax
    wrong = iter([1.0, 0.999])  # the reference first, then the device
    monkeypatch.setattr(torch, "softmax", lambda x, dim: real(x, dim=dim) * next(wrong))
    assert not module._computes_correctly(torch.device("cpu"))
