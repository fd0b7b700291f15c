"""T5 (both versions) and BART against transformers, through the file: logits, gradients, padding, caches, beams."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import llmkit
from llmkit.checkpoints.tables import WeightsError
from llmkit.checkpoints.weights import stored_weights
from llmkit.generation.beam import beam_search
from llmkit.generation.generate import generate, stream
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.generation.speculative import speculative_generate
from llmkit.models import FAMILIES, bart, t5

pytest.importorskip("transformers")
from parity import SEQ2SEQ, make_theirs, relative_error, transformers  # noqa: E402
from test_parity import LIMIT  # noqa: E402


@pytest.fixture(params=list(SEQ2SEQ))
def pair(request, tmp_path):
    theirs = make_theirs(request.param)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    return theirs, ours


def texts(shape=(3, 40), answer=(3, 11), seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(3, 99, size, generator=generator) for size in (shape, answer))


def padding(shape, side, lengths):
    mask = torch.ones(shape, dtype=torch.long)
    for row, n in enumerate(lengths):
        mask[row, :n] = 0
    return mask.flip(1) if side == "right" else mask


@torch.no_grad()
def test_logits(pair):
    theirs, ours = pair
    ids, answer = texts()
    expected = theirs(input_ids=ids, decoder_input_ids=answer)
    assert relative_error(expected.encoder_last_hidden_state, ours.encoder(ids)) < LIMIT
    assert relative_error(expected.logits, ours(ids, answer)) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("name", list(SEQ2SEQ))
def test_logits_without_noise(name, tmp_path):
    theirs = make_theirs(name, noise=0.0)
    theirs.save_pretrained(tmp_path)
    ours, _ = llmkit.from_pretrained(tmp_path)
    ids, answer = texts()
    assert relative_error(theirs(input_ids=ids, decoder_input_ids=answer).logits, ours(ids, answer)) < LIMIT


def test_gradients(pair):
    theirs, ours = pair
    ids, answer = texts((2, 24), (2, 9))
    for logits in (theirs(input_ids=ids, decoder_input_ids=answer).logits, ours(ids, answer)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), answer[:, 1:].flatten()).backward()
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    tensors = stored_weights(ours, FAMILIES[theirs.config.model_type].weights(ours.config))
    if "lm_head.weight" in tensors:  # transformers 5 ties v1.1 too, so its gradient is the sum of both
        tensors["shared.weight"] = tensors["shared.weight"] + tensors["lm_head.weight"]
    for name, parameter in theirs.named_parameters():
        assert relative_error(parameter.grad, tensors[name]) < 5e-5, name


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(pair, side):
    theirs, ours = pair
    ids, answer = texts((3, 20), (3, 8))
    mask, decoder_mask = padding((3, 20), side, (0, 5, 13)), padding((3, 8), side, (2, 0, 5))
    got = ours(ids, answer, mask, decoder_mask)
    assert got.isfinite().all()
    real = decoder_mask.bool()
    alone = ours(ids[2:][mask[2:].bool()][None], answer[2:][real[2:]][None])
    assert relative_error(alone[0], got[2][real[2]]) < LIMIT
    if side == "right" or theirs.config.model_type == "t5":  # BART counts padding on the left, and takes no positions
        expected = theirs(
            input_ids=ids, attention_mask=mask, decoder_input_ids=answer, decoder_attention_mask=decoder_mask
        ).logits
        assert relative_error(expected[real], got[real]) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("max_len", [None, 11])
def test_cached_decoding(pair, max_len):
    _, ours = pair
    ids, answer = texts()
    mask = padding((3, 40), "right", (0, 9, 20))
    given = ours.given(ids, mask)
    cache = given.new_cache(max_len)
    steps = [given(answer[:, :4], cache=cache)]
    first = cache[0].memory[0]
    steps += [given(answer[:, t : t + 1], cache=cache) for t in range(4, 11)]
    assert relative_error(ours(ids, answer, mask), torch.cat(steps, 1)) < LIMIT
    assert cache[0].memory[0] is first  # the memory's keys were computed once
    if max_len:
        with pytest.raises(ValueError, match="holds 11 tokens"):
            given(answer[:, :1], cache=cache)


@pytest.mark.parametrize("name", list(SEQ2SEQ))
def test_fresh_weights_spread_as_theirs(name, tmp_path):
    theirs = make_theirs(name, noise=0.0)
    theirs.save_pretrained(tmp_path)
    config = llmkit.from_pretrained(tmp_path)[0].config
    family = FAMILIES[theirs.config.model_type]
    tensors = stored_weights(family.build(config), family.weights(config))
    factor = getattr(theirs.config, "initializer_factor", 1.0)
    for part, parameter in theirs.named_parameters():
        if parameter.numel() >= 24 * 32:
            assert factor * tensors[part].std() == pytest.approx(parameter.std().item(), rel=0.15), part


@torch.no_grad()
def test_causal_in_the_answer_not_in_the_text(pair):
    _, ours = pair
    ids, answer = texts((2, 12), (2, 8))
    other = answer.clone()
    other[:, 5:] += 1 - 2 * (other[:, 5:] == 98)
    a, b = ours(ids, answer), ours(ids, other)
    assert relative_error(a[:, :5], b[:, :5]) < 1e-6 and not torch.allclose(a[:, 5:], b[:, 5:])
    last = ids.clone()
    last[:, -1] = 5 + (last[:, -1] == 5).long()
    assert (ours(last, answer)[:, 0] - a[:, 0]).abs().max() > 1e-4  # the first guess reads the text's last token


@torch.no_grad()
def test_a_cache_that_was_emptied_reads_the_next_text(pair):
    _, ours = pair
    ids, answer = texts((2, 9), (1, 4))
    for max_len in (None, 8):
        first, second = ours.given(ids[:1]), ours.given(ids[1:])
        cache = first.new_cache(max_len)
        first(answer, cache=cache)
        cache.truncate(0)
        assert relative_error(second(answer), second(answer, cache=cache)) < LIMIT


@torch.no_grad()
def test_greedy_ids(pair):
    theirs, ours = pair
    ids, _ = texts((3, 15))
    mask = padding((3, 15), "right", (0, 4, 9))
    config = ours.config
    expected = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=12, do_sample=False, num_beams=1, eos_token_id=config.end_id
    )
    start = torch.full((3, 1), config.start_id)
    got = generate(ours.given(ids, mask), start, 12, stop_tokens=[config.end_id], pad_id=config.pad_id)
    assert torch.equal(expected, got)


@torch.no_grad()
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_beam_ids(pair, length_penalty, early_stopping):
    theirs, ours = pair
    ids, _ = texts((4, 15), seed=5)
    mask = padding((4, 15), "right", (0, 4, 9, 0))
    config, start = ours.config, torch.full((4, 1), ours.config.start_id)
    # stop tokens that are really reached: the second most probable first one of each text
    for stop in ours(ids, start, mask)[:, 0].topk(2).indices[:, 1].tolist():
        expected = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=10, do_sample=False, num_beams=3, length_penalty=length_penalty,
            early_stopping=early_stopping, eos_token_id=stop, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        got, scores = beam_search(
            ours.given(ids, mask), start, 10, n_beams=3, length_penalty=length_penalty, stop_token=stop,
            pad_id=config.pad_id, early_stopping=early_stopping,
        )  # fmt: skip
        for theirs_row, ours_row in zip(expected.sequences.tolist(), got.tolist(), strict=True):
            n = theirs_row.index(stop, 1) + 1 if stop in theirs_row[1:] else len(theirs_row)
            assert theirs_row[:n] == ours_row[:n]  # behind the end they pad with the end token where padding is 0
        assert torch.allclose(scores, expected.sequences_scores, atol=1e-4)


@torch.no_grad()
def test_sampling_and_no_cache_give_the_same(pair):
    _, ours = pair
    ids, _ = texts((2, 9))
    start = torch.full((2, 1), ours.config.start_id)
    runs = [
        list(stream(ours.given(ids), start, 6, Sampler(), generator=torch.Generator().manual_seed(0), use_cache=use))
        for use in (True, False)
    ]
    assert torch.equal(torch.stack(runs[0]), torch.stack(runs[1]))


@torch.no_grad()
def test_speculative_answer_is_the_greedy_one(pair):
    _, ours = pair
    ids, _ = texts((2, 15))
    target, draft = ours.given(ids[:1]), ours.given(ids[1:])  # the draft has read something else
    start = torch.full((1, 1), ours.config.start_id)
    expected = generate(target, start, 12)
    assert torch.equal(speculative_generate(target, draft, start, 12, sampler=GREEDY).ids, expected)


@torch.no_grad()
def test_bfloat16(pair, tmp_path_factory):
    theirs, _ = pair
    folder = tmp_path_factory.mktemp("bf16")
    theirs.bfloat16().save_pretrained(folder)
    kind = type(theirs)
    exact, half = (kind.from_pretrained(folder, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16))
    ours, _ = llmkit.from_pretrained(folder)
    ids, answer = texts()
    inputs = {"input_ids": ids, "decoder_input_ids": answer}
    expected = exact(**inputs).logits
    their_error = (half(**inputs).logits.float() - expected).abs().mean()
    assert (ours(ids, answer).float() - expected).abs().mean() < 1.5 * their_error


@torch.no_grad()
def test_save_is_read_back_by_transformers(pair, tmp_path_factory):
    theirs, ours = pair
    folder = tmp_path_factory.mktemp("saved")
    llmkit.save_pretrained(ours, folder)
    again, report = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids, answer = texts()
    inputs = {"input_ids": ids, "decoder_input_ids": answer}
    assert torch.equal(again.eval()(**inputs).logits, theirs(**inputs).logits)


@torch.no_grad()
def test_t5_v1_1_with_an_output_matrix_of_its_own(tmp_path):
    """As Google's v1.1 files have it; transformers 4 wrote tie_word_embeddings false and no scale_decoder_outputs."""
    theirs = make_theirs("t5 v1.1")
    theirs.save_pretrained(tmp_path)

    from llmkit.checkpoints.safetensors import SafetensorsFolder

    tensors = dict(SafetensorsFolder(tmp_path))
    tensors["lm_head.weight"] = torch.randn(99, 32, generator=torch.Generator().manual_seed(0))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    ours, _ = llmkit.from_pretrained(tmp_path)
    assert ours.lm_head.weight is not ours.encoder.embed.tokens.weight
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids, answer = texts()
    expected = theirs(input_ids=ids, decoder_input_ids=answer).logits
    assert relative_error(expected, ours(ids, answer)) < LIMIT


@torch.no_grad()
def test_bart_without_a_head(tmp_path):
    """As the published base and large are: no "model." in front, no bias of the logits, and fairseq's version."""
    theirs = make_theirs("bart")
    theirs.final_logits_bias.zero_()
    theirs.model.save_pretrained(tmp_path)

    from llmkit.checkpoints.safetensors import SafetensorsFolder

    tensors = dict(SafetensorsFolder(tmp_path))
    assert "shared.weight" in tensors and "final_logits_bias" not in tensors
    tensors |= {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids, answer = texts()
    expected = theirs(input_ids=ids, decoder_input_ids=answer).logits
    for dtype, limit in ((None, LIMIT), (torch.bfloat16, 0.05)):
        ours, _ = llmkit.from_pretrained(tmp_path, dtype)
        got = ours(ids, answer)
        assert got.dtype == (dtype or torch.float32) and relative_error(expected, got.float()) < limit


def test_forced_tokens_are_kept():
    """They change nothing here, but would change what transformers does with a saved model."""
    theirs = make_theirs("bart")
    theirs.config.forced_bos_token_id = 4
    back = bart.BartConfig.from_hf(json.loads(theirs.config.to_json_string())).to_hf()
    assert back["forced_bos_token_id"] == 4 and back["forced_eos_token_id"] is None


def test_forced_tokens_of_generation_config(tmp_path):
    """Where transformers 5 writes them; and it finds them again in what we write."""
    theirs = make_theirs("bart")
    theirs.generation_config.forced_bos_token_id, theirs.generation_config.forced_eos_token_id = 4, 2
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = llmkit.from_pretrained(tmp_path / "theirs")
    assert (ours.config.forced_bos_id, ours.config.forced_eos_id) == (4, 2)
    llmkit.save_pretrained(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours").generation_config
    assert (again.forced_bos_token_id, again.forced_eos_token_id) == (4, 2)


def test_an_output_matrix_of_its_own_starts_small():
    """Where transformers' _init_weights would begin with logits in the tens."""
    model = t5.t5(t5.T5Config(500, 64, 1, n_heads=2, head_dim=8, d_ff=32, tie=False))
    assert model.lm_head.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)


@torch.no_grad()
def test_odd_input(pair):
    _, ours = pair
    ids, answer = texts((2, 6), (2, 4))
    mask = torch.tensor([[1] * 6, [0] * 6])
    got = ours(ids, answer, mask)
    assert got.isfinite().all()  # nothing to read is no NaN
    assert relative_error(ours(ids[:1], answer[:1])[0], got[0]) < LIMIT
    with pytest.raises(ValueError, match="3 answers cannot be shared equally among 2 texts"):
        ours(ids, torch.cat([answer, answer[:1]]))
    with pytest.raises(ValueError, match="3 answers cannot be shared equally among 0 texts"):
        ours.given(ids[:0])(torch.cat([answer, answer[:1]]))
    assert ours(ids[:0], answer[:0], mask[:0]).shape == (0, 4, 99)  # an empty batch has an empty answer
    for n_beams in (1, 3):
        found, scores = beam_search(ours.given(ids[:0], mask[:0]), answer[:0, :1], 5, n_beams=n_beams)
        assert len(found) == len(scores) == 0
    with pytest.raises(ValueError, match="T >= 1"):
        ours(ids, answer[:, :0])
    if isinstance(ours.config, bart.BartConfig):
        with pytest.raises(ValueError, match="65 tokens, but this model has learned 64 positions"):
            ours(torch.full((1, 65), 5), answer[:1])


def test_configs_that_fit_no_model(tmp_path):
    save_file({f"t{i}": torch.zeros(1) for i in range(9)}, tmp_path / "model.safetensors")  # widths are seen after it
    for good, change, words in (
        (t5.T5Config(99, 32, 1), {"feed_forward_proj": "gated-silu"}, "gated-silu"),
        (t5.T5Config(99, 32, 1), {"pad_token_id": None}, "pad_token_id is null"),
        (t5.T5Config(99, 32, 1), {"relative_attention_num_buckets": 2}, "2 buckets give 0 distances"),
        (t5.T5Config(99, 32, 1), {"relative_attention_max_distance": 8}, "below max_distance 8"),
        (t5.T5Config(99, 32, 1), {"decoder_start_token_id": 5}, "begins with padding, 0, not with 5"),
        (bart.BartConfig(99, 32, 1, n_heads=4), {"normalize_before": True}, "norm first"),
        (bart.BartConfig(99, 32, 1, n_heads=4), {"tie_word_embeddings": False}, "output matrix of its own"),
        (bart.BartConfig(99, 32, 1, n_heads=4), {"activation_function": "tanh9"}, "tanh9"),
        (bart.BartConfig(99, 32, 1, n_heads=4), {"d_model": 33}, "33"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(good.to_hf() | change))
        with pytest.raises(WeightsError, match=words):
            llmkit.from_pretrained(tmp_path)


def test_published_sizes():
    with torch.device("meta"):
        for module, name, n in (
            (t5, "t5-small", 60_506_624), (t5, "t5-base", 222_903_552),
            (bart, "bart-base", 139_420_416), (bart, "bart-large", 406_291_456),
        ):  # fmt: skip
            build = t5.t5 if module is t5 else bart.bart
            assert build(module.SIZES[name]).n_params() == n
