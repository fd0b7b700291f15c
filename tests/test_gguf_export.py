"""Our GGUF files in a real llama.cpp, in gguf's own reader and in transformers; and back into llmkit."""

import numpy as np
import pytest
import torch
from gguf_peer import BYTES, LLAMA3, MODERN, PIECES, SIZES, STORY, Peer, dense, perturbed, sparse

from llmkit.checkpoints.gguf import load_gguf, save_gguf
from llmkit.checkpoints.special import Settings
from llmkit.checkpoints.tables import WeightsError
from llmkit.generation.generate import generate
from llmkit.generation.logits import GREEDY
from llmkit.models.bert import BertConfig, bert
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.tokenizers import ByteLevelBPE, WordPiece, encode_chat
from llmkit.tokenizers.base import TokenizerFileError

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

# name -> model, tokenizer: grouped queries, one head of k and v, llama3 scaling on and off, tied, experts, a window
MODELS = {
    "llama": lambda: (dense(PIECES), PIECES),
    "llama, as many heads of k": lambda: (dense(PIECES, n_kv_heads=4), PIECES),
    "llama 3": lambda: (dense(BYTES, rope_scaling=LLAMA3, rope_theta=5e5, n_kv_heads=1, tie=True), BYTES),
    "llama, linear scaling": lambda: (dense(BYTES, rope_scaling={"rope_type": "linear", "factor": 4.0}), BYTES),
    "llama, ntk scaling": lambda: (dense(BYTES, rope_scaling={"rope_type": "ntk", "factor": 4.0}), BYTES),
    "llama, wide heads": lambda: (dense(MODERN, head_dim=24), MODERN),
    "mistral": lambda: (dense(PIECES, window=64), PIECES),
    "mixtral": lambda: (sparse(PIECES), PIECES),
    "mixtral, llama3 scaling": lambda: (sparse(BYTES, rope_scaling=LLAMA3, top_k=1, tie=True), BYTES),
    "gpt2": lambda: (perturbed(gpt2(GPT2Config(BYTES.vocab_size, 1024, 64, 2, 4)), 0.05), BYTES),
}
TOLERANCE = {"gpt2": 1e-2}  # llama.cpp looks GELU up in a table of 16-bit numbers


def difference(model, peer, ids, n_probs=20):
    """The largest difference of llama.cpp's top log-probabilities from ours, and whether the favourite is the same."""
    theirs = peer.next_token(ids, n_probs)
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0, -1].float().log_softmax(-1)
    assert len(theirs) == n_probs
    return max(abs(ours[i].item() - value) for i, value in theirs.items()), int(ours.argmax()) == next(iter(theirs))


def greedy(model, ids, n):
    return generate(model, torch.tensor([ids]), n, GREEDY)[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_we_compute(tmp_path, name):
    model, tokenizer = MODELS[name]()
    save_gguf(model, tmp_path / "m.gguf", tokenizer)
    peer = Peer(tmp_path / "m.gguf")
    ids = tokenizer.encode(STORY[:120])
    assert peer.tokenize(STORY[:120]) == ids
    for prompt in (ids[:1], ids[:17], ids):
        apart, same = difference(model, peer, prompt)
        assert apart < TOLERANCE.get(name, 1e-4), f"{apart} after {len(prompt)} tokens"
        assert same
    theirs, ours = peer.greedy(ids[:20], 16), greedy(model, ids[:20], 16)
    assert theirs and theirs == ours[: len(theirs)]
    stops = set(tokenizer.special_tokens.values())
    assert len(theirs) == 16 or ours[len(theirs)] in stops, "llama.cpp stops at a token that ends a text"


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 1e-3), ("BF16", 8e-3), ("Q8_0", 2e-2), ("Q4_0", 5e-2)])
def test_other_kinds_of_numbers(tmp_path, kind, tolerance):
    """Compared with the weights as the file holds them; llama.cpp rounds what it multiplies them with, too."""
    model = dense(PIECES, 0.05, rope_scaling=LLAMA3)
    save_gguf(model, tmp_path / "m.gguf", PIECES, kind)
    rounded, _ = load_gguf(tmp_path / "m.gguf")
    peer, ids = Peer(tmp_path / "m.gguf"), PIECES.encode(STORY[:60])
    assert difference(rounded, peer, ids)[0] < tolerance
    assert not torch.equal(rounded.lm_head.weight, model.lm_head.weight), "the file does not hold that kind"


TEXTS = (
    STORY[:200], "  two  spaces\n\n\nlines\t\ttabs ", "naïve café 猫 🐈 <|im_end|> </s> <0x0A>",
    "12345.67 I'll DON'T x=1", " ", "a", "...!?  \r\n", "\u2581the cat",
)  # fmt: skip


@pytest.mark.parametrize("tokenizer", [PIECES, BYTES, MODERN])
def test_llama_cpp_cuts_texts_as_we_do(tmp_path, tokenizer):
    save_gguf(dense(tokenizer), tmp_path / "m.gguf", tokenizer)
    peer = Peer(tmp_path / "m.gguf")
    for text in TEXTS:
        assert peer.tokenize(text) == tokenizer.encode(text), text
    name = next(iter(tokenizer.special_tokens))
    assert peer.tokenize(f"the{name}", special=True)[-1] == tokenizer.special_tokens[name]


LLAMA3_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_the_chat_template_is_ours(tmp_path, template):
    tokenizer = BYTES if template == "chatml" else ByteLevelBPE.train(STORY, 300, special_tokens=LLAMA3_TOKENS)
    save_gguf(dense(tokenizer), tmp_path / "m.gguf", tokenizer, settings=Settings(chat_template=template))
    chat = [{"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "the dog."},
            {"role": "user", "content": "the mat"}]  # fmt: skip
    peer = Peer(tmp_path / "m.gguf")
    ids, _ = encode_chat(chat, tokenizer, template, prompt=True)
    assert peer.tokenize(peer.chat_prompt(chat), special=True) == ids


def test_bert_gives_llama_cpps_embedding(tmp_path):
    tokenizer = WordPiece.train(STORY, 120)
    model = perturbed(bert(BertConfig(tokenizer.vocab_size, 64, 2, 4, 96, 64, head="Model")), 0.05)
    save_gguf(model, tmp_path / "m.gguf", tokenizer)
    peer = Peer(tmp_path / "m.gguf", embedding=True)
    text = "The cat sat on the mat, didn't it? 12"
    ids = tokenizer.encode(text)
    assert peer.tokenize(text) == ids
    with torch.no_grad():
        ours = model.transformer(torch.tensor([ids]))[0].mean(0)
    theirs = peer.embedding(ids)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 1 - 1e-4


def test_ggufs_own_reader_finds_the_same(tmp_path):
    model = sparse(PIECES, rope_scaling=LLAMA3)
    counts = save_gguf(model, tmp_path / "m.gguf", PIECES, "Q8_0", Settings(add_bos=True))
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert counts == {"F32": 8, "Q8_0": 16} and len(tensors) == 24
    router, experts = tensors["blk.1.ffn_gate_inp.weight"], tensors["blk.1.ffn_down_exps.weight"]
    ours = model.transformer.blocks[1].mlp
    assert router.tensor_type.name == "F32" and experts.tensor_type.name == "Q8_0"
    assert np.array_equal(router.data, ours.router.weight.detach().numpy())
    assert list(experts.shape) == [96, 64, 4]  # counted from the innermost axis
    third = gguf.quants.dequantize(experts.data, experts.tensor_type)[2]
    assert np.abs(third - ours.experts[2].down_proj.weight.detach().numpy()).max() < 2e-3
    assert tensors["rope_freqs.weight"].data.max() == 8 and tensors["rope_freqs.weight"].data.min() == 1
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["llama.expert_used_count"] == 2 and said["general.file_type"] == 7
    assert said["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6] and said["tokenizer.ggml.add_bos_token"] is True
    assert (said["tokenizer.ggml.bos_token_id"], said["tokenizer.ggml.eos_token_id"]) == (1, 2)


@pytest.mark.parametrize("name", ["llama", "llama, wide heads", "gpt2"])
def test_transformers_reads_it(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = MODELS[name]()
    save_gguf(model, tmp_path / "m.gguf", tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    ids = torch.tensor([tokenizer.encode(STORY[:80])])
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-4)
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert fast("the cat sat", add_special_tokens=False)["input_ids"] == tokenizer.encode("the cat sat")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
def test_back_into_llmkit_and_out_again(tmp_path, name, kind):
    model, tokenizer = MODELS[name]()
    save_gguf(model, tmp_path / "m.gguf", tokenizer, kind)
    again, read = load_gguf(tmp_path / "m.gguf")
    assert again.config == model.config
    assert read.pieces == tokenizer.pieces and read.special_tokens == tokenizer.special_tokens
    assert read.encode(STORY[:99]) == tokenizer.encode(STORY[:99])
    if kind == "F32":
        assert all(map(torch.equal, again.parameters(), model.parameters()))
    (tmp_path / "second").mkdir()
    save_gguf(again, tmp_path / "second" / "m.gguf", read, kind)
    assert (tmp_path / "second" / "m.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_an_embedding_with_more_rows_than_tokens(tmp_path):
    for tokenizer in (BYTES, PIECES):
        model = perturbed(llama(LlamaConfig(tokenizer.vocab_size + 5, **SIZES)))
        save_gguf(model, tmp_path / "m.gguf", tokenizer)
        again, read = load_gguf(tmp_path / "m.gguf")
        assert again.config.vocab_size == tokenizer.vocab_size + 5 and read.pieces == tokenizer.pieces
        assert difference(model, Peer(tmp_path / "m.gguf"), tokenizer.encode("the cat"))[0] < 1e-4


def test_what_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    model = dense(BYTES)
    with pytest.raises(ValueError, match="kind 'Q3_K' is not one of F32"):
        save_gguf(model, path, BYTES, "q3_k")
    with pytest.raises(TokenizerFileError, match="ids, the embedding 3.. rows"):
        save_gguf(model, path, PIECES)
    endless = ByteLevelBPE.train(STORY, 300)
    with pytest.raises(TokenizerFileError, match="no special token ends a text: llama.cpp would take number 11"):
        save_gguf(model, path, endless)
    with pytest.raises(TokenizerFileError, match="no token '<end>'"):
        save_gguf(model, path, BYTES, settings=Settings({"eos": "<end>"}))
    digits = ByteLevelBPE.train(STORY, 300, r"\p{N}|" + MODERN.pattern, ["<|endoftext|>"])
    with pytest.raises(TokenizerFileError, match="llama.cpp has no name for the pattern"):
        save_gguf(model, path, digits)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    with pytest.raises(WeightsError, match="rope scaling 'yarn' is not written"):
        save_gguf(dense(BYTES, rope_scaling=yarn), path, BYTES)
    with pytest.raises(WeightsError, match="GPT-2 with gelu_new, this model has 'relu'"):
        save_gguf(gpt2(GPT2Config(320, 32, 32, 1, 2, activation="relu")), path, BYTES)
    with pytest.raises(WeightsError, match="Linear: to GGUF go LlamaConfig"):
        save_gguf(torch.nn.Linear(2, 2), path)
    with torch.no_grad():
        model.transformer.blocks[1].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(WeightsError, match=r"blk\.1\.ffn_up\.weight cannot be written as F16: .* too large"):
        save_gguf(model, path, BYTES, "F16")
    with torch.no_grad():
        model.transformer.blocks[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"blk\.1\.ffn_up\.weight cannot be written as F32: .* NaN"):
        save_gguf(model, path, BYTES)
    assert list(tmp_path.iterdir()) == [], "a save that fails leaves nothing behind"


def test_a_classifier_is_not_written_without_its_head(tmp_path):
    for head in ("ForSequenceClassification", "ForTokenClassification"):
        with pytest.raises(WeightsError, match="goes to GGUF without its head"):
            save_gguf(bert(BertConfig(99, 64, 1, 4, 96, 64, head=head)), tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
