"""Tokenizers that save_pretrained wrote, read by transformers' AutoTokenizer: ids, what stands around a text, chat."""

import json
from types import SimpleNamespace

import pytest
import tokenizers
import torch

import llmkit
from llmkit.checkpoints.gguf_special import settings_of_gguf
from llmkit.checkpoints.special import Settings, save_tokenizer
from llmkit.data import toyland
from llmkit.tokenizers import CL100K_PATTERN, ByteLevelBPE, SentencePieceBPE, Unigram, WordPiece, encode_chat
from llmkit.tokenizers.base import TokenizerFileError

transformers = pytest.importorskip("transformers")
from parity import ENCODERS, MODELS, SEQ2SEQ, make_theirs  # noqa: E402

STORIES = toyland.stories(60, seed=3)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
ENCODER = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = ["The cat sat. The CAT's 1234 hats, DON'T!", "foo.bar(x)\n\n  é 猫 \tend", " two  spaces ", STORIES[1]]
OWN = {
    "bert": lambda: WordPiece.train(STORIES, 400),
    "bert cased": lambda: WordPiece.train(STORIES, 400, lower=False),
    "roberta": lambda: ByteLevelBPE.train(STORIES, 400, special_tokens=ENCODER),
    "bart": lambda: ByteLevelBPE.train(STORIES, 400, special_tokens=ENCODER),
    "t5": lambda: Unigram.train(STORIES, 300),
    "gpt2": lambda: ByteLevelBPE.train(STORIES, 400, special_tokens=CHATML),
    "gpt2 cl100k": lambda: ByteLevelBPE.train(STORIES, 400, CL100K_PATTERN, CHATML),
    "llama": lambda: ByteLevelBPE.train(STORIES, 400, special_tokens=LLAMA3),
    "llama sentencepiece": lambda: SentencePieceBPE.train(STORIES, 400),
}
AROUND = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>"), "bart": ("<s>", "</s>"), "t5": (None, "</s>")}


def saved(name, folder, tokenizer):
    """The family's config with a tokenizer beside it; no weights are needed."""
    family = name.split()[0]
    folder.mkdir(exist_ok=True)
    (MODELS | ENCODERS | SEQ2SEQ)[family]().config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, family)
    return transformers.AutoTokenizer.from_pretrained(folder), family


@pytest.mark.parametrize("name", list(OWN))
def test_ids_are_ours(name, tmp_path):
    ours = OWN[name]()
    theirs, family = saved(name, tmp_path, ours)
    first, last = (ours.special_tokens.get(token) for token in AROUND.get(family, (None, None)))
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids, text
        assert theirs(text).input_ids == [*([first] if first is not None else []), *ids, *([last] if last else [])]
    assert {token: theirs.convert_tokens_to_ids(token) for token in ours.special_tokens} == ours.special_tokens
    assert ("token_type_ids" in theirs("a")) is (family == "bert")


def test_what_stands_around_two_texts_is_the_familys(tmp_path):
    a, b = "the cat", "a dog"
    for name, expected in (
        ("bert", "[CLS] {a} [SEP] {b} [SEP]"), ("roberta", "<s> {a} </s> </s> {b} </s>"),
        ("bart", "<s> {a} </s> </s> {b} </s>"), ("t5", "{a} </s> {b} </s>"), ("llama", "{a} {b}"),
    ):  # fmt: skip
        ours = OWN[name]()
        theirs, _ = saved(name, tmp_path / name, ours)
        tokens = []
        for word in expected.split():
            text = {"{a}": a, "{b}": b}.get(word)
            tokens += [ours.special_tokens[word]] if text is None else ours.encode(text)
        both = theirs(a, b)
        assert both.input_ids == tokens
        if name == "bert":
            assert both.token_type_ids == [0] * (2 + len(ours.encode(a))) + [1] * (1 + len(ours.encode(b)))


def test_roles(tmp_path):
    llama, _ = saved("llama", tmp_path / "llama", OWN["llama"]())
    assert (llama.bos_token, llama.eos_token) == ("<|begin_of_text|>", "<|end_of_text|>")
    bert, _ = saved("bert", tmp_path / "bert", OWN["bert"]())
    roles = bert.cls_token, bert.sep_token, bert.mask_token, bert.pad_token, bert.unk_token
    assert roles == ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]")
    assert bert.bos_token is None and bert.eos_token is None, "those are its names in GGUF alone"
    roberta, _ = saved("roberta", tmp_path / "roberta", OWN["roberta"]())
    assert (roberta.cls_token, roberta.sep_token, roberta.mask_token) == ("<s>", "</s>", "<mask>")
    gpt2, _ = saved("gpt2", tmp_path / "gpt2", OWN["gpt2"]())
    assert gpt2.eos_token == "<|endoftext|>"
    assert gpt2.decode(gpt2("a<|im_end|>b").input_ids, skip_special_tokens=True) == "ab"


@pytest.mark.parametrize(("name", "template"), [("gpt2", "chatml"), ("llama", "llama3")])
def test_a_chat_is_written_as_here(name, template, tmp_path):
    pytest.importorskip("jinja2")
    ours = OWN[name]()
    theirs, _ = saved(name, tmp_path, ours)
    talk = [{"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "Here."}]
    for prompt in (False, True):
        got = theirs.apply_chat_template(talk, add_generation_prompt=prompt, tokenize=True, return_dict=False)
        assert got == encode_chat(talk, ours, template, prompt)[0]
    plain, _ = saved("gpt2", tmp_path / "plain", ByteLevelBPE.train(STORIES, 400, special_tokens=["<|endoftext|>"]))
    assert plain.chat_template is None


def from_library(kind, folder):
    """A tokenizer of the library with its usual layout, and what transformers' own classes say beside it."""
    if kind == "roberta":  # special tokens in front, and the class that puts them around a text
        raw = tokenizers.ByteLevelBPETokenizer()
        raw.train_from_iterator(STORIES, 400, special_tokens=ENCODER)
        raw.save_model(str(folder))
        vocab, merges = json.loads((folder / "vocab.json").read_text()), folder / "merges.txt"
        merges = [tuple(line.split()) for line in merges.read_text().splitlines() if not line.startswith("#")]
        theirs = transformers.RobertaTokenizer(vocab=vocab, merges=merges)
        (folder / "vocab.json").unlink(), (folder / "merges.txt").unlink()
    elif kind == "bert":
        theirs = transformers.BertTokenizer(vocab=WordPiece.train(STORIES, 400, lower=False).vocab, do_lower_case=False)
    else:
        SentencePieceBPE.train(STORIES, 400).save(folder / "raw.json")
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "raw.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            chat_template="{% for message in messages %}{{ message['content'] }}</s>{% endfor %}",
        )  # fmt: skip
        theirs.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        theirs.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("kind", ["roberta", "bert", "llama"])
def test_there_and_back(kind, tmp_path):
    """A model of transformers with its tokenizer, through llmkit: the same tokenizer, whose output the model takes."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    first = from_library(kind, before)
    model = make_theirs(kind)
    model.resize_token_embeddings(len(first))
    model.save_pretrained(before)
    ours, tokenizer = llmkit.from_pretrained(before)
    llmkit.save_pretrained(ours, after, tokenizer)
    first, then = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (before, after))
    for text in [*TEXTS, f"the{first.mask_token or first.eos_token}cat"]:
        assert first(text).input_ids == then(text).input_ids, text
    assert first("a", "b").input_ids == then("a", "b").input_ids
    roles = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")
    for role in roles:
        if getattr(first, role) is not None:
            assert getattr(first, role) == getattr(then, role), role
    assert first.chat_template == then.chat_template
    assert then.decode(then("the cat").input_ids, skip_special_tokens=True) == first.decode(
        first("the cat").input_ids, skip_special_tokens=True
    )
    with torch.no_grad():
        model.eval()(**then("The cat sat.", return_tensors="pt"))


def test_settings_that_are_given_come_first(tmp_path):
    ours = OWN["gpt2"]()
    save_tokenizer(ours, tmp_path, "gpt2", Settings({"eos": "<|im_end|>", "bos": "<|endoftext|>"}, True, "llama3"))
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert said["eos_token"] == "<|im_end|>" and said["chat_template"].startswith("{{ '<|begin_of_text|>' }}")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs("a").input_ids == [ours.special_tokens["<|endoftext|>"], *ours.encode("a")]
    again = llmkit.tokenizers.load_tokenizer(tmp_path)
    again.save(tmp_path / "copy.json")
    assert json.loads((tmp_path / "copy.json").read_text())["post_processor"] == again.post_processor
    assert again.post_processor and again.fast().encode("a").ids == ours.encode("a"), "fast() puts nothing around"


def test_a_folder_that_says_nothing(tmp_path):
    """config.json's ids are then its family's, 1 and 2: ordinary pieces here. And no template is made up."""
    theirs = make_theirs("llama")
    ours = OWN["gpt2"]()
    theirs.resize_token_embeddings(ours.vocab_size)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["bos_token_id"] == 1
    ours.save(tmp_path)
    model, tokenizer = llmkit.from_pretrained(tmp_path)
    assert tokenizer.settings == Settings()
    llmkit.save_pretrained(model, tmp_path / "again", tokenizer)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    text = f"The {ours.pieces[1]}cat{ours.pieces[2]}"
    assert again.bos_token is None and again.eos_token == "<|endoftext|>" and again.chat_template is None
    assert again(text).input_ids == ours.encode(text) and again.decode(ours.encode(text), True) == text


def test_a_name_that_is_no_token_is_refused(tmp_path):
    """transformers would give it an id beyond the embedding."""
    ours = OWN["gpt2"]()
    with pytest.raises(TokenizerFileError, match="no token '<pad>', which should be its pad"):
        save_tokenizer(ours, tmp_path, "gpt2", Settings({"pad": "<pad>"}))


def test_more_of_a_folder_is_kept_and_what_is_stale_removed(tmp_path):
    before = tmp_path / "before"
    ours = OWN["llama"]()
    saved("llama", before, ours)
    said = json.loads((before / "tokenizer_config.json").read_text())
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ messages[0]['content'] }}"}]
    more = {"padding_side": "left", "model_max_length": 7, "eos_token": "<|end_header_id|>", "chat_template": several}
    (before / "tokenizer_config.json").write_text(json.dumps(said | more))
    model = make_theirs("llama")
    model.resize_token_embeddings(ours.vocab_size)
    model.save_pretrained(before)
    mine, tokenizer = llmkit.from_pretrained(before)
    target = tmp_path / "after"
    target.mkdir()
    for name in ("added_tokens.json", "special_tokens_map.json"):
        (target / name).write_text('{"eos_token": "<s>"}' if "map" in name else '{"<new>": 400}')
    (target / "chat_template.jinja").write_text("OLD")
    llmkit.save_pretrained(mine, target, tokenizer)
    then = transformers.AutoTokenizer.from_pretrained(target)
    assert (then.padding_side, then.model_max_length, then.eos_token, len(then)) == (
        "left",
        7,
        "<|end_header_id|>",
        400,
    )
    assert then.chat_template == "{{ messages[0]['content'] }}"
    assert ours.special_tokens["<|end_header_id|>"] in json.loads((target / "config.json").read_text())["eos_token_id"]
    (before / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerFileError, match="chat_template.jinja: not UTF-8 at byte 0"):
        llmkit.from_pretrained(before)


def test_ids_of_a_gguf_that_are_no_tokens_are_left_out():
    """Rows that only fill up the embedding have names in the file and none in the tokenizer."""
    ours = OWN["gpt2"]()
    said = {
        "tokenizer.ggml.tokens": [*ours.pieces, "[PAD400]"], "tokenizer.ggml.padding_token_id": 400,
        "tokenizer.ggml.eos_token_id": 399, "tokenizer.ggml.bos_token_id": 7777,
    }  # fmt: skip
    file = SimpleNamespace(get=lambda name, default, kind: said.get(name, default))
    assert settings_of_gguf(file, ours).special == {"eos": "<|im_end|>"}
