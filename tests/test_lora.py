"""LoRA against peft: forward, gradients, merged weights, files both ways; frozen bases; bad input."""

import copy
import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmkit.checkpoints.pretrained import from_pretrained, save_pretrained
from llmkit.checkpoints.tables import WeightsError
from llmkit.finetuning.adapter_files import load_adapter, save_adapter
from llmkit.finetuning.adapters import (
    adapters_off,
    add_lora,
    lora_layers,
    merge,
    n_trainable,
    put_adapters,
    remove,
    unmerge,
)
from llmkit.finetuning.lora import LoRAConfig, lora_forward, lora_scale, merged_weight
from llmkit.finetuning.quantized import (
    FrozenLinear,
    Int8Matrix,
    NF4Matrix,
    bytes_per_weight,
    dequantize_blocks,
    nf4_code,
    quantize_base,
    quantize_blocks,
)
from llmkit.finetuning.spectrum import energy, weight_changes
from llmkit.models.bert import BertConfig, bert
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.models.palm import PalmConfig, palm
from llmkit.models.roberta import RobertaConfig, roberta

LLAMA = LlamaConfig(50, 24, 2, 3, n_kv_heads=1, d_ff=40, max_len=32)
GPT2 = GPT2Config(50, 32, 24, 2, 2)
MIXTRAL = MixtralConfig(50, 24, 2, 3, n_kv_heads=1, d_ff=40, n_experts=4, top_k=2, max_len=32)
PALM = PalmConfig(50, 24, 2, 2, d_ff=40, max_len=32)  # its files have the rows of q and k in another order
BUILD = {"llama": (llama, LLAMA), "gpt2": (gpt2, GPT2), "mixtral": (mixtral, MIXTRAL), "palm": (palm, PALM)}
KINDS = {
    "plain": LoRAConfig(rank=3, alpha=7),
    "rslora": LoRAConfig(rank=3, alpha=7, rslora=True),
    "dora": LoRAConfig(rank=3, alpha=7, dora=True),
    "some": LoRAConfig(rank=2, alpha=5, targets=("q_proj", "v_proj")),
}
FAMILY_AND_KIND = [*itertools.product(["llama", "gpt2"], KINDS), ("palm", "dora")]
IDS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(1))


def built(family: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    build, config = BUILD[family]
    model = build(config).eval()
    for name, p in model.named_parameters():  # large enough for a slip to show
        if p.dim() == 2 or name.endswith("bias"):
            p.data.normal_(std=0.3)
    return model


def adapted(family: str, config: LoRAConfig, seed: int = 0) -> nn.Module:
    model = built(family, seed)
    add_lora(model, config, seed=seed)
    return shaken(model)


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for layer in lora_layers(model).values():
        for p in (layer.lora_A, layer.lora_B, layer.magnitude):
            if p is not None:
                p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return model


def in_peft(model, base_folder, adapter_folder, trainable=False):
    """The same base in transformers, with the adapter of a folder loaded by peft."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(base, adapter_folder, is_trainable=trainable).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family, kind", FAMILY_AND_KIND)
def test_what_we_save_peft_computes_to_1e_6(family, kind, tmp_path):
    pytest.importorskip("peft")
    base, model = built(family), adapted(family, KINDS[kind])
    save_pretrained(base, tmp_path / "base")
    save_adapter(model, tmp_path / "adapter", "the/base")
    theirs = in_peft(model, tmp_path / "base", tmp_path / "adapter", trainable=True)
    ours, expected = model(IDS), theirs(IDS).logits
    assert (expected - base(IDS)).abs().max() > 0.1, "the adapter does nothing"
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
    ours.square().mean().backward()
    expected.square().mean().backward()
    theirs_by_name = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert len(theirs_by_name) == sum(p.requires_grad for p in model.parameters()) or family == "gpt2"
    layer = lora_layers(model)["transformer.blocks.1.attn.v_proj"]
    if family == "llama":
        at = "base_model.model.model.layers.1.self_attn.v_proj.lora_{}.default.weight"
        torch.testing.assert_close(layer.lora_A.grad, theirs_by_name[at.format("A")], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(layer.lora_B.grad, theirs_by_name[at.format("B")], atol=1e-6, rtol=1e-4)
        if kind == "dora":
            at = "base_model.model.model.layers.1.self_attn.v_proj.lora_magnitude_vector.default.weight"
            torch.testing.assert_close(layer.magnitude.grad, theirs_by_name[at], atol=1e-6, rtol=1e-4)
    merge(model)
    remove(model)
    merged = theirs.merge_and_unload()
    save_pretrained(model, tmp_path / "merged")
    mine, their = load_file(tmp_path / "merged" / "model.safetensors"), dict(merged.state_dict())
    for name, weight in mine.items():
        if name in their:
            torch.testing.assert_close(weight, their[name], atol=1e-6, rtol=1e-6, msg=name)
    assert len(set(mine) & set(their)) >= len(mine) - 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family, dora", [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("palm", True)]
)
def test_what_peft_saves_we_compute(family, dora, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_pretrained(built(family), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    targets = {"llama": ["q_proj", "down_proj", "embed_tokens"], "gpt2": ["c_attn", "c_proj"], "palm": ["k_proj"]}[
        family
    ]
    ranks = {"rank_pattern": {"down_proj": 5}, "alpha_pattern": {"down_proj": 4}} if family == "llama" else {}
    config = peft.LoraConfig(
        r=3,
        lora_alpha=8,
        target_modules=targets,
        use_dora=dora,
        fan_in_fan_out=family == "gpt2",
        lora_dropout=0.1,
        **ranks,
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    generator = torch.Generator().manual_seed(3)
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    theirs.save_pretrained(tmp_path / "adapter")
    model, _ = from_pretrained(tmp_path / "base")
    names = load_adapter(model, tmp_path / "adapter")
    there = {"llama": "embed.tokens", "gpt2": "o_proj", "palm": "k_proj"}[family]
    assert any(name.endswith(there) for name in names)
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=2e-5, rtol=2e-5)
    save_adapter(model, tmp_path / "again")
    again = in_peft(model, tmp_path / "base", tmp_path / "again")
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, atol=2e-5, rtol=2e-5)
    merge(model)
    torch.testing.assert_close(model(IDS), theirs.merge_and_unload()(IDS).logits, atol=2e-5, rtol=2e-5)


@pytest.mark.filterwarnings("ignore")
def test_experts_saved_one_by_one_are_read_by_peft(tmp_path):
    pytest.importorskip("peft")
    model = adapted("mixtral", KINDS["plain"])
    assert sum(".experts." in name for name in lora_layers(model)) == 2 * 4 * 3
    assert not any("router" in name for name in lora_layers(model))
    save_pretrained(built("mixtral"), tmp_path / "base")
    save_adapter(model, tmp_path / "adapter")
    theirs = in_peft(model, tmp_path / "base", tmp_path / "adapter")
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", BUILD)
def test_a_round_trip_gives_back_every_tensor(family, kind, tmp_path):
    model, other = adapted(family, KINDS[kind]), built(family)
    save_adapter(model, tmp_path)
    assert load_adapter(other, tmp_path) == list(lora_layers(model))
    theirs = lora_layers(other)
    for name, layer in lora_layers(model).items():
        assert torch.equal(layer.lora_A, theirs[name].lora_A) and torch.equal(layer.lora_B, theirs[name].lora_B), name
        assert layer.scale == pytest.approx(theirs[name].scale) and layer.config.dora == theirs[name].config.dora
    torch.testing.assert_close(model(IDS), other(IDS), atol=1e-6, rtol=1e-6)
    assert n_trainable(other) == n_trainable(model)


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_differ_in_rank_and_scale(tmp_path):
    model, other = built("gpt2"), built("gpt2")
    at = "transformer.blocks.1."
    ranks = {"attn.q_proj": (2, 9.0), "attn.v_proj": (3, 4.0), "mlp.up_proj": (2, 5.0), "mlp.down_proj": (4, 4.0)}
    put_adapters(model, {at + name: LoRAConfig(rank, alpha, (name,)) for name, (rank, alpha) in ranks.items()})
    shaken(model)
    save_adapter(model, tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter")
    torch.testing.assert_close(model(IDS), other(IDS), atol=2e-5, rtol=2e-5)
    mixed = built("llama")
    put_adapters(mixed, {"lm_head": LoRAConfig(dora=True), at + "attn.q_proj": LoRAConfig()})
    with pytest.raises(ValueError, match="these adapters differ"):
        save_adapter(mixed, tmp_path)
    save_pretrained(built("gpt2"), tmp_path / "base")
    theirs = in_peft(model, tmp_path / "base", tmp_path / "adapter")
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_and_only_it_learns(kind):
    model = built("llama")
    before = model(IDS)
    names = add_lora(model, KINDS[kind])
    torch.testing.assert_close(model(IDS), before, atol=1e-5, rtol=1e-5)
    if not KINDS[kind].dora:
        assert torch.equal(model(IDS), before)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} <= {
        "lora_A", "lora_B", "magnitude",
    }  # fmt: skip
    r = KINDS[kind].rank
    if kind == "plain":
        sizes = [(24 + 24) * r * 2, (24 + 8) * r * 2, (24 + 40) * r * 3]  # q and o, k and v, the MLP
        assert n_trainable(model) == 2 * sum(sizes) and len(names) == 14
    model(IDS).sum().backward()
    layer = lora_layers(model)[names[0]]
    assert layer.lora_B.grad.abs().sum() > 0 and layer.base.weight.grad is None
    assert layer.lora_A.abs().max() <= 24**-0.5 and layer.lora_A.std() > 0.4 * 24**-0.5


def test_the_seed_draws_the_adapter():
    one, two, three = (adapted("llama", KINDS["plain"], 0) for _ in range(3))
    A = [lora_layers(m)["transformer.blocks.0.attn.q_proj"].lora_A for m in (one, two)]
    assert torch.equal(*A)
    remove(three)
    add_lora(three, KINDS["plain"], seed=1)
    assert not torch.equal(A[0], lora_layers(three)["transformer.blocks.0.attn.q_proj"].lora_A)


@pytest.mark.parametrize("kind", KINDS)
def test_merge_unmerge_remove_and_off(kind):
    model, base = adapted("llama", KINDS[kind]), built("llama")
    tuned, plain = model(IDS), base(IDS)
    with adapters_off(model) as same:
        assert same is model and torch.equal(model(IDS), plain)
        with adapters_off(model):
            pass
        assert torch.equal(model(IDS), plain)
    assert torch.equal(model(IDS), tuned)
    merge(model)
    merged = model(IDS)
    torch.testing.assert_close(merged, tuned, atol=2e-5, rtol=2e-5)
    merge(model)
    assert torch.equal(model(IDS), merged), "merging twice added twice"
    with adapters_off(model):
        assert torch.equal(model(IDS), plain)
    unmerge(model)
    assert torch.equal(model(IDS), tuned)
    merge(model)
    remove(model)
    assert torch.equal(model(IDS), merged) and not lora_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert set(dict(model.named_parameters())) == set(dict(base.named_parameters()))
    other = adapted("llama", KINDS[kind])
    remove(other)
    assert torch.equal(other(IDS), plain)


def test_an_error_inside_adapters_off_switches_them_on_again():
    model = adapted("llama", KINDS["plain"])
    tuned = model(IDS)
    with pytest.raises(RuntimeError), adapters_off(model):
        raise RuntimeError
    assert torch.equal(model(IDS), tuned)


def test_dropout_falls_on_the_adapters_branch_alone():
    model = built("llama").train()
    before = model(IDS)
    add_lora(model, LoRAConfig(rank=2, alpha=4, dropout=0.5))
    assert torch.equal(model(IDS), before)  # B is 0: what is dropped does not show
    shaken(model)
    assert not torch.equal(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


def test_merging_is_done_in_float32():
    weight = torch.full((4, 4), 1.0, dtype=torch.bfloat16)
    A, B = torch.full((64, 4), 0.01, dtype=torch.bfloat16), torch.full((4, 64), 0.01, dtype=torch.bfloat16)
    exact = (weight.double() + 2 * (B.double() @ A.double())).bfloat16()
    assert torch.equal(merged_weight(weight, A, B, 2.0), exact)
    model = built("llama").to(torch.bfloat16)
    add_lora(model, KINDS["plain"])
    layer = lora_layers(model)["transformer.blocks.0.attn.q_proj"]
    assert layer.lora_A.dtype == torch.float32 and model(IDS).dtype == torch.bfloat16
    merge(model)
    assert layer.merged.weight.dtype == torch.bfloat16


def test_scales_and_the_plain_function():
    assert lora_scale(16, 8) == 2 and lora_scale(16, 16, rslora=True) == 4
    generator = torch.Generator().manual_seed(0)
    x, W, A, B, b = (torch.randn(*s, generator=generator) for s in ((2, 5, 4), (3, 4), (2, 4), (3, 2), (3,)))
    expected = x @ (W + 0.5 * B @ A).T + b
    torch.testing.assert_close(lora_forward(x, W, A, B, 0.5, b), expected)
    torch.testing.assert_close(x @ merged_weight(W, A, B, 0.5).T + b, expected)


@pytest.mark.parametrize(
    "config, words",
    [
        (LoRAConfig(targets=("c_attn",)), "no module is called 'c_attn'.*q_proj"),
        (LoRAConfig(targets=("attn_norm",)), "is a RMSNorm"),
        (LoRAConfig(targets=("router",)), "is a SoftmaxRouter"),
        (LoRAConfig(targets=("attn",)), "is a MultiHeadAttention"),
    ],
)
def test_targets_that_cannot_be_adapted(config, words):
    model = built("mixtral")
    with pytest.raises(ValueError, match=words):
        add_lora(model, config)
    assert all(p.requires_grad for p in model.parameters()) and not lora_layers(model)


@pytest.mark.parametrize("name, row", [("transformer.blocks.1.attn.q_proj", 2), ("transformer.embed.tokens", (..., 2))])
def test_dora_refuses_an_output_whose_length_is_0(name, row):
    model = built("llama")
    model.get_submodule(name).weight.data[row] = 0
    with pytest.raises(ValueError, match=f"{name} has an output with no weight but 0"):
        add_lora(model, LoRAConfig(targets=(name,), dora=True))
    assert all(p.requires_grad for p in model.parameters()) and not lora_layers(model)
    before = model(IDS)
    add_lora(model, LoRAConfig(targets=(name,)))
    assert torch.equal(model(IDS), before)


def test_tied_embeddings_and_positions_are_refused():
    for target in ("embed.tokens", "lm_head"):
        with pytest.raises(ValueError, match="shares its matrix"):
            add_lora(built("gpt2"), LoRAConfig(targets=(target,)))
    with pytest.raises(ValueError, match="table of positions"):
        add_lora(built("gpt2"), LoRAConfig(targets=("positions",)))


def test_untied_both_can_be_adapted_and_begin_as_they_were():
    model = built("llama")
    before = model(IDS)
    names = add_lora(model, LoRAConfig(rank=3, alpha=7, targets=("embed.tokens", "lm_head")))
    assert names == ["transformer.embed.tokens", "lm_head"] and torch.equal(model(IDS), before)
    shaken(model)
    model(IDS).sum().backward()
    learning = lora_layers(model)[names[0]].lora_A.grad.abs().sum(0) > 0
    assert set(learning.nonzero().flatten().tolist()) == set(IDS.flatten().tolist())
    tuned = model(IDS)
    merge(model)
    torch.testing.assert_close(model(IDS), tuned, atol=2e-5, rtol=2e-5)


def test_a_merged_model_is_saved_once_the_adapters_are_off(tmp_path):
    model = adapted("llama", KINDS["plain"])
    merge(model)
    with pytest.raises(WeightsError, match=r"remove\(model\) leaves a plain model"):
        save_pretrained(model, tmp_path)
    remove(model)
    save_pretrained(model, tmp_path)


def test_other_bad_input():
    for options, words in (
        ({"rank": 0}, "at least 1"), ({"dropout": 1.0}, "below 1"), ({"targets": "q_proj"}, "write it as a tuple"),
        ({"targets": ()}, "targets is empty"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            LoRAConfig(**options)
    model = adapted("llama", KINDS["plain"])
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model, KINDS["plain"])
    for function in (merge, unmerge, remove):
        with pytest.raises(ValueError, match="no adapters"):
            function(built("llama"))
    with pytest.raises(ValueError, match="no adapters"), adapters_off(built("llama")):
        pass
    with pytest.raises(ValueError, match="no Linear inside blocks"):
        add_lora(nn.Linear(3, 3), LoRAConfig())
    with pytest.raises(ValueError, match="no adapters to save"):
        save_adapter(built("llama"), "nowhere")


def changed(folder, change_config=None, change_tensors=None):
    path = folder / "adapter_config.json"
    config, tensors = json.loads(path.read_text()), load_file(folder / "adapter_model.safetensors")
    if change_config:
        change_config(config)
        path.write_text(json.dumps(config))
    if change_tensors:
        change_tensors(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")


Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize(
    "config, tensors, words",
    [
        (lambda c: c.update(peft_type="IA3"), None, "peft_type is 'IA3'"),
        (lambda c: c.update(bias="all"), None, "bias is 'all'"),
        (
            lambda c: c.update(modules_to_save=["lm_head"]),
            None,
            "no base_model.model.lm_head.weight, though modules_to_",
        ),
        (lambda c: c.update(modules_to_save="lm_head"), None, "modules_to_save should be a list of names"),
        (lambda c: c.update(r=None), None, "r should be a number"),
        (lambda c: c.update(init_lora_weights="olora"), None, "changed the base's weights too"),
        (lambda c: c.update(init_lora_weights="pissa_niter_4"), None, "changed the base's weights too"),
        (lambda c: c.update(r=4), None, "has rank 3, but adapter_config.json says 4"),
        (lambda c: c.update(use_dora=True), None, "no magnitude"),
        (None, lambda t: t.pop(Q.format("B")), "only A for model.layers.1.self_attn.q_proj"),
        (None, lambda t: (t.pop(Q.format("A")), t.pop(Q.format("B"))), "nothing for model.layers.1.self_attn.q_proj"),
        (None, lambda t: t.update(stray=torch.ones(1)), "holds stray"),
        (None, lambda t: t.update({Q.format("A").replace("1.self", "7.self"): torch.ones(3, 24)}), "only A for"),
        (None, lambda t: t[Q.format("A")].fill_(math.nan), "not finite"),
    ],
)
def test_adapter_files_that_are_wrong(config, tensors, words, tmp_path):
    save_adapter(adapted("llama", KINDS["plain"]), tmp_path)
    changed(tmp_path, config, tensors)
    model = built("llama")
    with pytest.raises(WeightsError, match=words):
        load_adapter(model, tmp_path)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_an_adapter_for_another_model(tmp_path):
    save_adapter(adapted("llama", KINDS["plain"]), tmp_path, "its/base")
    torch.manual_seed(0)
    wider = llama(LlamaConfig(50, 48, 2, 3, n_kv_heads=1, d_ff=40))
    with pytest.raises(WeightsError, match=r"is \(24, 3\), this model needs \(48, 3\): .*its/base"):
        load_adapter(wider, tmp_path)
    shallow = llama(LlamaConfig(50, 24, 1, 3, n_kv_heads=1, d_ff=40))
    with pytest.raises(WeightsError, match="layers.1.* which this model does not have: .*its/base"):
        load_adapter(shallow, tmp_path)
    deeper = llama(LlamaConfig(50, 24, 3, 3, n_kv_heads=1, d_ff=40))
    with pytest.raises(WeightsError, match="nothing for model.layers.2"):
        load_adapter(deeper, tmp_path)
    with pytest.raises(WeightsError, match="does not have"):
        load_adapter(built("gpt2"), tmp_path)
    with pytest.raises(WeightsError, match="adapters already"):
        load_adapter(adapted("llama", KINDS["plain"]), tmp_path)


def test_a_damaged_or_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="adapter_config.json is missing"):
        load_adapter(built("llama"), tmp_path)
    save_adapter(adapted("llama", KINDS["plain"]), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="cut short"):
        load_adapter(built("llama"), tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match="adapter_model.safetensors is missing"):
        load_adapter(built("llama"), tmp_path)


NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_the_derived_code_is_the_published_one():
    torch.testing.assert_close(nf4_code(), torch.tensor(NF4), atol=3e-7, rtol=0)


def test_blocks_take_the_nearest_entry_and_their_own_scale():
    weight = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 5)[:, None]
    numbers, scales = quantize_blocks(weight, nf4_code(), 64)
    assert numbers.dtype == torch.uint8 and len(scales) == 3
    for i, value in enumerate(weight.flatten().tolist()):
        scale = weight.flatten()[i // 64 * 64 : i // 64 * 64 + 64].abs().max().item()
        best = min(range(16), key=lambda k: abs(NF4[k] - value / scale))
        assert numbers[i] == best
    back = dequantize_blocks(numbers, scales, nf4_code(), 64)
    torch.testing.assert_close(NF4Matrix(weight).dequantize().flatten(), back)
    assert quantize_blocks(torch.zeros(3), nf4_code())[1].item() == 0
    assert not NF4Matrix(torch.zeros(3, 3)).dequantize().any() and not Int8Matrix(torch.zeros(3, 3)).dequantize().any()


def test_errors_and_bytes():
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in (NF4Matrix, Int8Matrix):
        matrix = kind(weight)
        found[kind] = ((matrix.dequantize() - weight).norm() / weight.norm()).item(), bytes_per_weight(matrix)
    assert 0.08 < found[NF4Matrix][0] < 0.11 and found[NF4Matrix][1] == 0.5 + 4 / 64
    assert 0.004 < found[Int8Matrix][0] < 0.009 and found[Int8Matrix][1] == 1 + 4 / 64
    for kind in (NF4Matrix, Int8Matrix):
        with pytest.raises(ValueError, match="not finite"):
            kind(torch.tensor([[math.inf]]))
    with pytest.raises(ValueError, match="at least 1"):
        quantize_blocks(weight, nf4_code(), 0)
    assert NF4Matrix(weight.bfloat16()).dequantize().dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_frozen_base_passes_gradients_on_and_takes_adapters(kind):
    model = built("gpt2")  # with biases
    names = quantize_base(model, kind)
    assert len(names) == 12 and not any(isinstance(m, nn.Linear) for m in model.transformer.blocks.modules())
    plain = copy.deepcopy(model)
    for name in names:
        frozen = plain.get_submodule(name)
        linear = nn.Linear(frozen.in_features, frozen.out_features)
        linear.weight.data, linear.bias.data = frozen.weight, frozen.bias
        setattr(plain.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], linear)
    torch.testing.assert_close(model(IDS), plain(IDS))
    for one in (model, plain):
        one(IDS).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, dict(plain.named_parameters())[name].grad, atol=1e-5, rtol=1e-4)
    before = model(IDS)
    assert len(add_lora(model, LoRAConfig(rank=2, alpha=4, dora=True))) == 12
    torch.testing.assert_close(model(IDS), before, atol=1e-5, rtol=1e-4)
    shaken(model)(IDS).sum().backward()
    tuned = model(IDS)
    merge(model)
    remove(model)
    torch.testing.assert_close(model(IDS), tuned, atol=2e-5, rtol=2e-5)
    assert not any(isinstance(m, FrozenLinear) for m in model.modules())


def test_a_frozen_linear_keeps_no_matrix_for_the_backward_pass():
    layer = FrozenLinear(nn.Linear(64, 64, bias=False))
    saved = []
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        y = layer(x)
    assert 64 * 64 not in saved and not list(layer.parameters())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, layer.weight.sum(0).expand(2, -1))


def test_quantize_base_refuses():
    with pytest.raises(ValueError, match="nf4, int8"):
        quantize_base(built("llama"), "int4")
    with pytest.raises(ValueError, match="no Linear"):
        quantize_base(nn.Linear(3, 3))


def test_energy_and_changes():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(6, 2, generator=generator) @ torch.randn(2, 9, generator=generator)
    shares = energy(low)
    assert len(shares) == 6 and shares[0] < 1 and shares[1] == pytest.approx(1.0)
    U, s, V = torch.linalg.svd(torch.randn(5, 7, generator=generator))
    matrix = U @ torch.diag(s) @ V[:5]
    nearest = U[:, :2] @ torch.diag(s[:2]) @ V[:2]
    assert energy(matrix)[1] == pytest.approx(1 - ((matrix - nearest).norm() / matrix.norm()).item() ** 2, abs=1e-5)
    assert energy(torch.zeros(2, 3)) == [0, 0]
    with pytest.raises(ValueError, match="matrix"):
        energy(torch.ones(3))
    one, two = built("llama"), built("llama", 1)
    changes = weight_changes(one, two)
    assert len(changes) == 14 and "lm_head" not in changes
    name = "transformer.blocks.1.mlp.up_proj"
    assert torch.equal(changes[name], two.get_submodule(name).weight - one.get_submodule(name).weight)


def test_base_weights_that_peft_puts_beside_an_embedding_must_be_ours(tmp_path):
    save_adapter(adapted("llama", LoRAConfig(targets=("embed.tokens",))), tmp_path)
    name, weight = (
        "base_model.model.model.embed_tokens.base_layer.weight",
        built("llama").transformer.embed.tokens.weight,
    )
    changed(tmp_path, None, lambda tensors: tensors.update({name: weight.detach().clone()}))
    assert load_adapter(built("llama"), tmp_path) == ["transformer.embed.tokens"]
    with pytest.raises(WeightsError, match="other base weights"):
        load_adapter(built("llama", 1), tmp_path)


# --- modules that are trained whole ---


def classifier(family, head):
    config = {"bert": BertConfig, "roberta": RobertaConfig}[family](
        50, 24, 2, 3, 40, 30, head=head, labels=("a", "b", "c"), **({} if family == "bert" else {"n_types": 1})
    )
    torch.manual_seed(1)
    return {"bert": bert, "roberta": roberta}[family](config).eval()


def noisy(model, names=("lora_", "classifier", "pooler")):
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if p.requires_grad and any(part in name for part in names):
            p.data += 0.3 * torch.randn(p.shape, generator=generator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "head", "task", "targets"),
    [("bert", "ForSequenceClassification", "SEQ_CLS", ["query", "value"]),
     ("roberta", "ForSequenceClassification", "SEQ_CLS", ["query", "dense"]),  # its classifier has a dense too
     ("bert", "ForTokenClassification", "TOKEN_CLS", ["query", "value"])],
)  # fmt: skip
def test_classifiers_both_ways(family, head, task, targets, tmp_path):
    """As peft's examples do it: the task's type makes peft train the new head whole, and save it with the adapter."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = classifier(family, head)
    save_pretrained(base, tmp_path / "base")
    auto = getattr(transformers, f"AutoModel{head}")
    theirs = auto.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(task, r=3, target_modules=targets)).eval()
    noisy(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    ours, _ = from_pretrained(tmp_path / "base")
    load_adapter(ours, tmp_path / "adapter")
    expected = theirs(IDS).logits
    assert (expected - base(IDS)).abs().max() > 0.1
    torch.testing.assert_close(ours(IDS), expected, atol=2e-5, rtol=2e-5)
    assert ours.classifier.weight.requires_grad and not ours.transformer.embed.tokens.weight.requires_grad
    noisy(ours)
    save_adapter(ours, tmp_path / "again")
    again = peft.PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "again").eval()
    torch.testing.assert_close(again(IDS).logits, ours(IDS), atol=2e-5, rtol=2e-5)
    back, _ = from_pretrained(tmp_path / "base")
    load_adapter(back, tmp_path / "again")
    torch.testing.assert_close(back(IDS), ours(IDS), atol=1e-6, rtol=1e-6)


def test_what_is_trained_whole_is_not_lost(tmp_path):
    model = classifier("bert", "ForSequenceClassification")
    add_lora(model, LoRAConfig(rank=2, alpha=4, targets=("q_proj",)))
    assert not model.classifier.weight.requires_grad
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None
    model.classifier.requires_grad_(True)
    model.transformer.blocks[0].attn_norm.bias.requires_grad_(True)
    noisy(model, ("",))
    save_adapter(model, tmp_path)
    wanted = json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"]
    assert wanted == ["bert.encoder.layer.0.attention.output.LayerNorm", "classifier"]
    other = classifier("bert", "ForSequenceClassification")
    load_adapter(other, tmp_path)
    assert torch.equal(other(IDS), model(IDS))
    free = {name for name, p in other.named_parameters() if p.requires_grad and "lora_" not in name}
    norm = "transformer.blocks.0.attn_norm"
    assert free == {"classifier.weight", "classifier.bias", f"{norm}.weight", f"{norm}.bias"}
    fused = adapted("gpt2", KINDS["plain"])
    fused.transformer.blocks[0].mlp_norm.requires_grad_(True)
    save_adapter(fused, tmp_path / "gpt2")
    assert json.loads((tmp_path / "gpt2" / "adapter_config.json").read_text())["modules_to_save"] == [
        "transformer.h.0.ln_2"
    ]
    with pytest.raises(ValueError, match="without them this is not the model of before"), adapters_off(fused):
        pass
    unnamed = adapted("gpt2", LoRAConfig(rank=2, alpha=4, targets=("v_proj",)))
    unnamed.transformer.blocks[0].attn.q_proj.requires_grad_(True)
    with pytest.raises(ValueError, match="q_proj is trained beside the adapters, but is no module of this family"):
        save_adapter(unnamed, tmp_path / "q")


@pytest.mark.filterwarnings("ignore")
def test_a_tied_matrix_is_not_trained_whole(tmp_path):
    """PEFT trains a copy of the table and leaves the output matrix as it was: here the two are one."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    tied = llama(LlamaConfig(50, 24, 2, 3, n_kv_heads=1, d_ff=40, tie=True)).eval()
    save_pretrained(tied, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    config = peft.LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(WeightsError, match="shares its matrix with another module"):
        load_adapter(tied, tmp_path / "adapter")
    add_lora(tied, LoRAConfig(rank=2, alpha=4, targets=("q_proj",)))
    tied.transformer.embed.tokens.requires_grad_(True)
    with pytest.raises(ValueError, match="shares its matrix with another module"):
        save_adapter(tied, tmp_path / "ours")


CLASSIFIER = "base_model.model.classifier.weight"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lambda t: t.pop(CLASSIFIER), "has no base_model.model.classifier.weight, though modules_to_save names it"),
        (lambda t: t.update({CLASSIFIER: torch.ones(4, 24)}), r"classifier.weight is \(4, 24\), this model needs"),
        (lambda t: t[CLASSIFIER].fill_(math.nan), "classifier.weight has numbers that are not finite"),
        (
            lambda t: t.update({"base_model.model.dense.weight": torch.ones(1)}),
            "holds base_model.model.dense.weight",
        ),
        (
            lambda t: t.update({"base_model.model.classifier.scale": torch.ones(1)}),
            "classifier.scale, which this",
        ),
    ],
)
def test_whole_modules_that_are_wrong(tensors, words, tmp_path):
    model = classifier("bert", "ForSequenceClassification")
    add_lora(model, LoRAConfig(rank=2, alpha=4, targets=("q_proj",)))
    model.classifier.requires_grad_(True)
    save_adapter(model, tmp_path, "its/base")
    changed(tmp_path, None, tensors)
    other = classifier("bert", "ForSequenceClassification")
    before = other.classifier.weight.clone()
    with pytest.raises(WeightsError, match=words):
        load_adapter(other, tmp_path)
    assert not lora_layers(other) and torch.equal(other.classifier.weight, before)
