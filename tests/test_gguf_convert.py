"""The command: a folder to GGUF, GGUF to a folder, with special tokens and templates; and nothing half written."""

import json
from importlib.resources import files

import pytest
import torch
from gguf_peer import BYTES, LLAMA3, PIECES, dense, sparse

import llmkit
from llmkit.checkpoints.__main__ import main
from llmkit.checkpoints.convert import convert
from llmkit.checkpoints.gguf import load_gguf
from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.gguf_header import read_header
from llmkit.checkpoints.tables import WeightsError
from llmkit.finetuning import experiments


def folder_with(tmp_path, model, tokenizer, **said):
    llmkit.save_pretrained(model, tmp_path / "hf", tokenizer)
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(said))
    return tmp_path / "hf"


def test_there_and_back(tmp_path):
    model = sparse(PIECES, rope_scaling=LLAMA3)
    folder = folder_with(
        tmp_path,
        model,
        PIECES,
        bos_token="</s>",
        eos_token={"content": "<s>"},  # against the usual: it must come from here
        add_bos_token=True,
        chat_template="{{x}}",
    )
    there = convert(folder, tmp_path / "m.gguf", "gguf", "f32")
    fields = read_header(tmp_path / "m.gguf").fields
    assert fields["tokenizer.chat_template"] == "{{x}}" and fields["tokenizer.ggml.add_bos_token"] is True
    back = convert(tmp_path / "m.gguf", tmp_path / "again", "hf", "F32")
    assert back.parameters == there.parameters == sum(p.numel() for p in model.parameters())
    again, tokenizer = llmkit.from_pretrained(tmp_path / "again")
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    assert again.config.rope_scaling == LLAMA3 and type(again.config) is type(model.config)
    assert tokenizer.pieces == PIECES.pieces
    said = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert (said["bos_token"], said["eos_token"], said["chat_template"]) == ("</s>", "<s>", "{{x}}")
    convert(tmp_path / "again", tmp_path / "m2.gguf", "gguf", "f32")
    same = {**read_header(tmp_path / "m2.gguf").fields, "general.name": "m"}
    assert same == fields
    first, second = GGUFFile(tmp_path / "m.gguf"), GGUFFile(tmp_path / "m2.gguf")
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    folder = folder_with(tmp_path, dense(BYTES), BYTES)
    assert main(["convert", str(folder), str(tmp_path / "m.gguf"), "--to", "gguf", "--type", "q4_0"]) == 0
    out, err = capsys.readouterr()
    n = llmkit.from_pretrained(folder)[0].n_params()
    assert f"m.gguf: Llama, {n:,} parameters in 0.1 MB, " in out
    assert "tensors: 5 F32, 14 Q4_0, 2 Q8_0" in out
    assert "100%" in err, "the bar"
    assert load_gguf(tmp_path / "m.gguf")[1].pieces == BYTES.pieces


def test_a_dtype_that_is_asked_for(tmp_path):
    folder = folder_with(tmp_path, dense(BYTES), BYTES)
    convert(folder, tmp_path / "m.gguf", "gguf", "bf16")
    convert(tmp_path / "m.gguf", tmp_path / "half", "hf", "f16")
    assert {p.dtype for p in llmkit.from_pretrained(tmp_path / "half")[0].parameters()} == {torch.float16}


def test_the_token_that_ends_a_text_can_be_named(tmp_path, capsys):
    """Lesson 15's base, as it is stored, says it nowhere."""
    base = str(files("llmkit.results") / experiments.BASE)
    command = ["convert", base, str(tmp_path / "m.gguf"), "--to", "gguf", "--type", "q8_0"]
    assert main(command) == 1 and "no special token ends a text" in (said := capsys.readouterr().err)
    assert "--eos TOKEN" in said
    assert main([*command, "--eos", "<nothing>"]) == 1 and "no token '<nothing>'" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="no token '<nothing>' that could end a text"):
        convert(base, tmp_path / "hf", "hf", "f32", eos="<nothing>")
    bare = tmp_path / "bare"  # without a tokenizer
    llmkit.save_pretrained(experiments.load_base()[0], bare)
    with pytest.raises(WeightsError, match="no token '<end>' that could end a text"):
        convert(bare, tmp_path / "x.gguf", "gguf", eos="<end>")
    assert main([*command, "--eos", "<end>"]) == 0
    fields, tokenizer = GGUFFile(tmp_path / "m.gguf").fields, experiments.load_base()[1]
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.special_tokens["<end>"]
    convert(base, tmp_path / "hf", "hf", "f32", eos="<end>")
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["eos_token"] == "<end>"
    convert(tmp_path / "m.gguf", tmp_path / "m2.gguf", "gguf", eos=tokenizer.pieces[300])  # against what the file says
    assert GGUFFile(tmp_path / "m2.gguf").fields["tokenizer.ggml.eos_token_id"] == 300


def test_what_cannot_be_converted_is_said(tmp_path, capsys):
    model = dense(BYTES)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = 1e6
    folder = folder_with(tmp_path, model, BYTES)
    before = sorted(tmp_path.iterdir())
    for arguments, message in (
        (["nothing", "x.gguf", "--to", "gguf"], "nothing is neither a folder nor a GGUF file"),
        (["hf", "hf", "--to", "gguf"], "hf is there already"),
        (["hf", "hf", "--to", "hf"], "hf is there already"),
        (["hf", "new", "--to", "hf", "--type", "q8_0"], "type 'Q8_0' is not one of F32, F16, BF16, which hf can hold"),
        (["hf", "new", "--to", "hf", "--type", "f16"], "lm_head.weight cannot be written as F16"),
        (["hf", "new.gguf", "--to", "gguf", "--type", "f16"], "output.weight cannot be written as F16"),
    ):
        paths = [str(tmp_path / part) for part in arguments[:2]]
        assert main(["convert", *paths, *arguments[2:]]) == 1
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before, "something is left behind"
    with pytest.raises(ValueError, match="format 'onnx' is not one of gguf, hf"):
        convert(folder, tmp_path / "x", "onnx")


def test_the_source_is_never_written_over(tmp_path, capsys):
    """Nor a file of it, nor one that lies where the new one is written aside; a new file beside them is welcome."""
    folder = folder_with(tmp_path, dense(PIECES), PIECES)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    for name in ("model.safetensors", "tokenizer.json"):
        assert main(["convert", str(folder), str(folder / name), "--to", "gguf"]) == 1
        assert "is there already" in capsys.readouterr().err
    mine = folder.rename(tmp_path / "m.partial")
    assert main(["convert", str(mine), str(tmp_path / "m"), "--to", "hf"]) == 1
    assert "would be overwritten" in capsys.readouterr().err
    for _ in range(2):  # the second time over its own of before
        assert main(["convert", str(mine), str(mine / "new.gguf"), "--to", "gguf"]) == 0
    somebodys = tmp_path / "other.partial"
    somebodys.mkdir()
    assert main(["convert", str(mine), str(tmp_path / "other"), "--to", "hf"]) == 0
    assert somebodys.exists() and (tmp_path / "other" / "config.json").exists()
    assert {folder / path.name: path.read_bytes() for path in mine.iterdir() if path.name != "new.gguf"} == files


def test_a_tokenizer_larger_than_the_embedding_is_named(tmp_path):
    llmkit.save_pretrained(dense(BYTES), tmp_path / "hf", PIECES)
    with pytest.raises(WeightsError, match=f"the tokenizer has {PIECES.vocab_size} ids, but the embedding only"):
        llmkit.from_pretrained(tmp_path / "hf")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    from llmkit.checkpoints import gguf_write

    folder = folder_with(tmp_path, dense(BYTES), BYTES)
    convert(folder, tmp_path / "m.gguf", "gguf", "f32")
    old = (tmp_path / "m.gguf").read_bytes()
    written = []

    def full(values, kind):
        written.append(kind)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return gguf_write.quantize_(values, kind)

    monkeypatch.setattr(gguf_write, "quantize_", gguf_write.quantize, raising=False)
    monkeypatch.setattr(gguf_write, "quantize", full)
    with pytest.raises(OSError, match="No space"):
        convert(folder, tmp_path / "m.gguf", "gguf", "q8_0")
    assert (tmp_path / "m.gguf").read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "m.gguf"]
