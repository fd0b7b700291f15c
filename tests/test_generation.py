"""Generation: samplers against transformers, cache against no cache, beams, streaming, speculation."""

import copy
import itertools

import pytest
import torch

from llmkit.generation import logits as our
from llmkit.generation.beam import beam_search
from llmkit.generation.generate import generate, generate_batch, stream
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.generation.speculative import acceptance, residual, speculative_generate, total_variation
from llmkit.generation.text import generate_text, stream_text
from llmkit.layers.cache import growing_cache
from llmkit.layers.dropout import without_dropout
from llmkit.models.gpt2 import GPT2Config, gpt2
from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.t5 import T5Config, t5


def _model(seed=0, vocab_size=61, sharp=4.0, build=gpt2, **sizes):
    """A random model whose logits are spread enough to have clear favourites."""
    torch.manual_seed(seed)
    config = {"vocab_size": vocab_size, "max_len": 64, "d_model": 32, "n_layers": 2, "n_heads": 4} | sizes
    model = build((GPT2Config if build is gpt2 else LlamaConfig)(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.lm_head.weight.mul_(sharp)
    return model


@pytest.mark.parametrize("seed", range(5))
def test_logits_equal_transformers(seed):
    processors = pytest.importorskip("transformers").generation.logits_process
    generator = torch.Generator().manual_seed(seed)
    x, ids = torch.randn(7, 50, generator=generator) * 3, torch.randint(50, (7, 12), generator=generator)
    rows = [
        (our.temperature(x, 0.7), processors.TemperatureLogitsWarper(0.7)),
        (our.top_k(x, 9), processors.TopKLogitsWarper(9)),
        (our.top_p(x, 0.8), processors.TopPLogitsWarper(0.8)),
        (our.top_p(x, 0.05), processors.TopPLogitsWarper(0.05)),
        (our.top_p(x, 1.0), processors.TopPLogitsWarper(1.0)),
        (our.min_p(x, 0.1), processors.MinPLogitsWarper(0.1)),
        (our.repetition_penalty(x, ids, 1.3), processors.RepetitionPenaltyLogitsProcessor(1.3)),
    ]
    for got, processor in rows:
        assert torch.equal(got, processor(ids, x.clone())), type(processor).__name__
    pipeline = [rows[6][1], rows[0][1], rows[1][1], rows[2][1], rows[5][1]]
    expected = x.clone()
    for processor in pipeline:
        expected = processor(ids, expected)
    assert torch.equal(Sampler(0.7, 9, 0.8, 0.1, 1.3).logits(x, ids), expected)


def test_samplers_refuse_nonsense():
    x = torch.zeros(1, 3)
    for call in (
        lambda: our.temperature(x, 0),
        lambda: our.top_k(x, 0),
        lambda: our.top_p(x, 0.0),
        lambda: our.top_p(x, 1.5),
        lambda: our.min_p(x, -0.1),
        lambda: our.repetition_penalty(x, torch.tensor([[0]]), 0.0),
    ):
        with pytest.raises(ValueError):
            call()


def test_repetition_penalty_leaves_padding_out():
    x = torch.ones(1, 3)
    got = our.repetition_penalty(x, torch.tensor([[0, 1]]), 2.0, torch.tensor([[False, True]]))
    assert got.tolist() == [[1.0, 0.5, 1.0]]


def test_sampler_draws_from_its_distribution():
    x = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20000, -1)
    tokens = Sampler(top_p=0.9)(x, torch.zeros(20000, 1, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(tokens, minlength=4) / 20000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.015)


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("window", [None, 5])
def test_cache_equals_no_cache(build, window):
    if build is gpt2 and window:
        pytest.skip("GPT-2 has no window")
    model = _model(build=build, **({"n_kv_heads": 2, "d_ff": 40, "window": window} if build is llama else {}))
    ids, mask = torch.randint(61, (3, 9)), torch.ones(3, 9, dtype=torch.bool)
    mask[1, :4] = mask[2, :8] = False
    kinds = {"none": {"use_cache": False}, "own": {}, "growing": {"cache": growing_cache(2)}}
    results = [generate(model, ids, 20, attention_mask=mask, **options) for options in kinds.values()]
    assert all(torch.equal(results[0], result) for result in results)
    drawn = [
        generate(model, ids, 20, Sampler(0.9), attention_mask=mask, generator=torch.Generator().manual_seed(3), **o)
        for o in ({"use_cache": False}, {})
    ]
    assert torch.equal(*drawn)
    assert len({tuple(row) for row in results[0][:, 9:].tolist()}) > 1  # the prompts matter


def test_greedy_equals_transformers(tmp_path):
    pytest.importorskip("transformers")
    from parity import MODELS, ids_for, make_theirs

    import llmkit

    for name in MODELS:
        theirs = make_theirs(name)
        theirs.save_pretrained(tmp_path / name)
        ours, _ = llmkit.from_pretrained(tmp_path / name)
        ids, mask = ids_for(theirs, (3, 8)), torch.ones(3, 8, dtype=torch.long)
        mask[1, :3] = 0
        expected = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=7
        )
        assert torch.equal(generate(ours, ids, 12, attention_mask=mask, stop_tokens=[7]), expected), name


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_beams_equal_transformers(tmp_path, length_penalty, early_stopping):
    pytest.importorskip("transformers")
    from parity import ids_for, make_theirs

    import llmkit

    for name, n_beams, seed in itertools.product(("gpt2", "llama gqa llama3", "mistral window"), (2, 5), (0, 1, 2)):
        theirs = make_theirs(name, noise=0.3, seed=seed)
        theirs.save_pretrained(tmp_path / name)
        ours, _ = llmkit.from_pretrained(tmp_path / name)
        ids, mask = ids_for(theirs, (4, 6), seed), torch.ones(4, 6, dtype=torch.long)
        mask[2, :2] = 0
        with torch.inference_mode():  # a stop token that is really reached: the second most probable after the prompt
            stop = int(theirs(ids, attention_mask=mask).logits[0, -1].topk(2).indices[1])
        expected = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=10, num_beams=n_beams, do_sample=False,
            length_penalty=length_penalty, early_stopping=early_stopping, pad_token_id=1, eos_token_id=stop,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        got, scores = beam_search(ours, ids, 10, n_beams, length_penalty, stop, 1, mask, early_stopping)
        assert torch.equal(got, expected.sequences), (name, n_beams, seed)
        assert torch.allclose(scores, expected.sequences_scores, atol=1e-4)


def test_beams_that_cover_everything_find_the_best_text():
    model = _model(vocab_size=5)
    ids = torch.tensor([[1, 2]])
    texts = torch.tensor(list(itertools.product(range(5), repeat=3)))
    with torch.inference_mode():
        rows = torch.cat([ids.expand(len(texts), -1), texts], 1)
        log_probs = model(rows).log_softmax(-1)[:, 1:-1].gather(-1, texts[..., None]).sum((1, 2))
    got, score = beam_search(model, ids, 3, n_beams=25)
    assert got[0, 2:].tolist() == texts[log_probs.argmax()].tolist()
    assert torch.allclose(score * 3, log_probs.max(), atol=1e-5)


def test_beams_refuse_what_cannot_work():
    model, ids = _model(), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="left"):
        beam_search(model, ids, 3, attention_mask=torch.tensor([[True] * 3, [True, True, False]]))
    for n_new, n_beams in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match=f"at least 1, got {n_beams} and {n_new}"):
            beam_search(model, ids, n_new, n_beams)


def test_no_prompts_have_no_beams():
    tokens, scores = beam_search(_model(), torch.ones(0, 3, dtype=torch.long), 4)
    assert tokens.shape == (0, 3) and scores.shape == (0,)


def test_batch_equals_one_by_one():
    model = _model()
    prompts = [[5, 6, 7, 8, 9, 10], [11], [3, 4]]
    together = generate_batch(model, prompts, 15, stop_tokens=[9])
    alone = [generate_batch(model, [prompt], 15, stop_tokens=[9])[0] for prompt in prompts]
    assert together == alone
    assert all(9 not in answer[:-1] for answer in together)


def test_padding_on_the_right_is_refused():
    mask = torch.tensor([[True, True], [True, False]])
    with pytest.raises(ValueError, match="left"):
        next(stream(_model(), torch.ones(2, 2, dtype=torch.long), 3, attention_mask=mask))


def test_too_long_and_empty():
    with pytest.raises(ValueError, match="64 positions"):
        generate(_model(), torch.ones(1, 60, dtype=torch.long), 10)
    with pytest.raises(ValueError, match="T >= 1"):
        generate(_model(), torch.ones(1, 0, dtype=torch.long), 10)
    with pytest.raises(ValueError, match="vocabulary"):
        generate(_model(), torch.full((1, 3), 61), 2)


class _Bytes:
    """Ids are bytes: characters of several bytes arrive in halves."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class _Parrot(torch.nn.Module):
    """A model that says a fixed text whatever it is asked."""

    def __init__(self, text: str, prompt_len: int):
        super().__init__()
        self.says, self.prompt_len = text.encode() + b"\0" * 50, prompt_len
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def new_cache(self, max_len=None):
        return growing_cache(1)

    def forward(self, ids, attention_mask=None, cache=None, last_only=False):
        place = cache.length + ids.size(1) - self.prompt_len
        cache[0].length += ids.size(1)
        return torch.nn.functional.one_hot(torch.tensor([[self.says[place]]]), 256).float()


def _said(text, **options):
    return list(stream_text(_Parrot(text, 2), _Bytes(), "hi", 40, stop_tokens=[0], **options))


def test_streaming_never_shows_half_a_character():
    pieces = _said("né → 🙂!")
    assert "".join(pieces) == "né → 🙂!"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("stop", ["User:", "\n", "er"])
def test_stop_strings(stop):
    text = "fine. Us\nUser: more"
    pieces = _said(text, stop=[stop])
    assert "".join(pieces) == text[: text.index(stop)]
    assert "".join(_said(text, stop=["absent"])) == text


def test_a_stop_string_that_ends_in_half_a_character_is_held_back():
    assert "".join(_said("say Us→ more", stop=["Us→"])) == "say "
    assert "".join(_said("say Us↑ more", stop=["Us→"])) == "say Us↑ more"


def test_stop_string_that_never_completes_is_shown():
    assert "".join(_said("see the Use", stop=["User:"])) == "see the Use"
    with pytest.raises(ValueError, match="no tokens"):
        generate_text(_Parrot("x", 0), _Bytes(), "")


def test_acceptance_and_residual_give_the_target_exactly():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        p, q = torch.randn(2, 6, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
        kept = q * acceptance(p, q)
        total = kept + (1 - kept.sum()) * residual(p, q)
        assert torch.allclose(total, p, atol=1e-12)
        assert torch.allclose(kept.sum(), 1 - total_variation(p, q), atol=1e-12)
    assert torch.equal(residual(p, p), p)


def test_speculative_output_has_the_targets_distribution():
    """Enumerate: every text of three tokens, probability under the target against the share of 2,500 runs."""
    target, draft = _model(0, 4), _model(1, 4)
    ids, generator, n = torch.tensor([[1, 2]]), torch.Generator().manual_seed(5), 2500
    with torch.inference_mode():
        texts = torch.tensor(list(itertools.product(range(4), repeat=3)))
        rows = torch.cat([ids.expand(64, -1), texts], 1)
        exact = target(rows).log_softmax(-1)[:, 1:-1].gather(-1, texts[..., None]).sum((1, 2)).exp()
    assert exact.sum() == pytest.approx(1, abs=1e-4)
    counts = torch.zeros(64)
    for _ in range(n):
        out = speculative_generate(target, draft, ids, 3, n_guesses=2, generator=generator).ids[0, 2:]
        counts[out[0] * 16 + out[1] * 4 + out[2]] += 1
    expected = exact * n
    common = expected > 5
    chi2 = float(((counts - expected)[common] ** 2 / expected[common]).sum())
    degrees = int(common.sum()) - 1
    assert chi2 < degrees + 4 * (2 * degrees) ** 0.5
    wrong = torch.full_like(expected, n / 64)
    assert float(((counts - wrong) ** 2 / wrong).sum()) > 500  # the test can tell distributions apart


def test_speculative_greedy_is_the_targets_text():
    target, draft = _model(0), _model(1)
    ids = torch.tensor([[4, 5, 6]])
    for guess in (draft, target):
        result = speculative_generate(target, guess, ids, 20, n_guesses=4, sampler=GREEDY)
        assert torch.equal(result.ids, generate(target, ids, 20))
    assert result.accepted == result.guessed and result.target_passes == 4  # a perfect draft: five tokens a pass


def test_speculative_with_a_sliding_window():
    """A ring cache cannot take refused guesses back, so these models need another."""
    options = {"build": llama, "n_kv_heads": 2, "d_ff": 40, "window": 5}
    target, draft, ids = _model(0, **options), _model(1, **options), torch.tensor([[4, 5, 6]])
    result = speculative_generate(target, draft, ids, 20, sampler=GREEDY)
    assert torch.equal(result.ids, generate(target, ids, 20))


def test_speculative_needs_one_vocabulary():
    with pytest.raises(ValueError, match="the draft has 40 tokens, the target 61"):
        speculative_generate(_model(), _model(vocab_size=40), torch.tensor([[4, 5]]), 5)


def test_an_empty_cache_may_be_cut():
    growing_cache(2).truncate(0)
    with pytest.raises(ValueError, match="cannot cut"):
        growing_cache(2).truncate(1)


def test_speculative_stops():
    target = _model(0)
    text = generate(target, torch.tensor([[4, 5, 6]]), 20)[0].tolist()
    stop = text[8]
    result = speculative_generate(target, target, torch.tensor([[4, 5, 6]]), 20, sampler=GREEDY, stop_token=stop)
    assert result.ids[0].tolist() == text[: text.index(stop, 3) + 1]


def test_a_model_in_training_is_not_let_write():
    """With dropout the greedy text would be another every time."""
    model = gpt2(GPT2Config(20, 16, 8, 1, 2, attention_dropout=0.1)).train()
    ids = torch.zeros(1, 3, dtype=torch.long)
    for write in (
        lambda m: generate(m, ids, 2),
        lambda m: beam_search(m, ids, 2),
        lambda m: speculative_generate(m, copy.deepcopy(m).eval(), ids, 2),
        lambda m: speculative_generate(copy.deepcopy(m).eval(), m, ids, 2),
    ):
        with pytest.raises(ValueError, match="model.eval"):
            write(model.train())
        write(model.eval())
        write(without_dropout(copy.deepcopy(model)).train())
    both = t5(T5Config(20, 8, 1, n_heads=2, head_dim=4, d_ff=8, dropout=0.1)).train()
    with pytest.raises(ValueError, match="model.eval"):
        generate(both.given(ids), ids, 2)
