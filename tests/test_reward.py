"""Reward models and pairs: scores equal transformers', the loss equals TRL's, the ceiling is what the noise allows."""

import math
from types import SimpleNamespace

import pytest
import torch
from parity import SHAPE, relative_error
from torch.nn import functional as F

from llmkit.alignment.preferences import (
    accuracy_ceiling,
    bradley_terry_loss,
    fit_bradley_terry,
    label_entropy,
    pair_accuracy,
    sample_pairs,
    win_probability,
)
from llmkit.alignment.reward import last_token, normalise, pair_calibration, reward_loss, reward_model
from llmkit.checkpoints.pretrained import from_pretrained
from llmkit.models.llama import LlamaConfig, llama
from llmkit.training.loop import train

transformers = pytest.importorskip("transformers")

GPT2 = {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
CLASSES = {
    "llama": lambda: (
        transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**SHAPE, num_labels=1, pad_token_id=0)),
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)),
    ),
    "gpt2": lambda: (
        transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2, num_labels=1, pad_token_id=0)),
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    ),
}


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_scores_equal_transformers(family, side, tmp_path):
    torch.manual_seed(0)
    theirs, whole = CLASSES[family]()
    theirs.eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    whole.base_model.load_state_dict(theirs.base_model.state_dict())
    whole.save_pretrained(tmp_path)
    ours = reward_model(from_pretrained(tmp_path)[0]).eval()
    with torch.no_grad():
        ours.score.weight.copy_(theirs.score.weight)
    lengths = torch.tensor([9, 5, 1])
    mask = torch.arange(9) < lengths[:, None]
    mask = mask if side == "right" else mask.flip(1)
    ids = torch.randint(1, 99, (3, 9)).masked_fill(~mask, 0)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits.squeeze(-1)
        got = ours(ids, mask)
    assert got.shape == (3,) and relative_error(expected, got) < 1e-5


def small(n_tokens=12, seed=0):
    torch.manual_seed(seed)
    return reward_model(llama(LlamaConfig(n_tokens, 32, 1, 2, d_ff=48, max_len=16, tie=True)))


@pytest.mark.parametrize(("margin", "centre"), [(None, None), (0.7, None), (None, 0.01), ([0.0, 0.5, 2.0], 0.3)])
def test_the_loss_equals_trls(margin, centre):
    trl = pytest.importorskip("trl")
    logits = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    gathers = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    metrics = {"eval": {key: [] for key in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}}
    stub = SimpleNamespace(
        model=SimpleNamespace(training=False), args=SimpleNamespace(center_rewards_coefficient=centre),
        accelerator=gathers, _metrics=metrics, _total_train_tokens=0,
    )  # fmt: skip
    inputs = {} if margin is None else {"margin": torch.tensor(margin).expand(3)}
    forward = lambda use_cache, margin=None: SimpleNamespace(logits=logits)  # noqa: E731
    expected = trl.RewardTrainer.compute_loss(stub, forward, inputs)
    ours = reward_loss(
        lambda ids, mask: logits.squeeze(-1), torch.zeros(6, 2), None, inputs.get("margin", 0.0), centre or 0.0
    )
    assert torch.allclose(ours, expected, atol=1e-7)
    chosen, rejected = logits.squeeze(-1).chunk(2)
    assert pair_accuracy(chosen, rejected) == pytest.approx(metrics["eval"]["accuracy"][0])


def test_the_last_token_is_the_last_real_one():
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    assert last_token(hidden, mask).tolist() == [[0, 1], [10, 11]]
    assert last_token(hidden).tolist() == [[4, 5], [10, 11]]
    holes = torch.tensor([[True, False, True], [True, True, False]])
    assert last_token(hidden, holes).tolist() == [[4, 5], [8, 9]]
    with pytest.raises(ValueError, match="row 1 of attention_mask"):
        last_token(hidden, torch.tensor([[True, False, False], [False, False, False]]))
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 2\)"):
        last_token(hidden, mask[:, :2])


def test_padding_changes_no_score():
    model = small().eval()
    ids = torch.tensor([[3, 4, 5]])
    bare = model(ids)
    right = model(torch.tensor([[3, 4, 5, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]]).bool())
    left = model(torch.tensor([[0, 0, 3, 4, 5]]), torch.tensor([[0, 0, 1, 1, 1]]).bool())
    assert torch.allclose(bare, right, atol=1e-6) and torch.allclose(bare, left, atol=1e-6)


def test_the_head_begins_small_and_the_model_is_copied():
    base = llama(LlamaConfig(12, 256, 1, 2, d_ff=48, max_len=16)).requires_grad_(False)
    torch.manual_seed(0)
    spreads = [reward_model(base).score.weight.std().item() for _ in range(8)]
    assert sum(spreads) / 8 == pytest.approx(257**-0.5, rel=0.08)
    model = reward_model(base)
    assert all(p.requires_grad for p in model.parameters()) and model.score.bias is None
    with torch.no_grad():
        model.transformer.embed.tokens.weight.zero_()
    assert base.transformer.embed.tokens.weight.abs().sum() > 0


def test_only_differences_count_until_they_are_centred():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])
    assert torch.allclose(bradley_terry_loss(a + 7, b + 7), bradley_terry_loss(a, b))
    assert bradley_terry_loss(a + 7, b + 7, centre=0.1) > bradley_terry_loss(a, b, centre=0.1) + 1
    assert bradley_terry_loss(a, a).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(a, b, margin=1.0) > bradley_terry_loss(a, b)


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1,), (2,)])
def test_a_margin_is_one_number_or_one_for_each_pair(shape):
    """(M, 1) beside (M,) would be broadcast to (M, M): every pair with every other pair's margin."""
    a, b = torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"margin must be a number or \(3,\), got \("):
        bradley_terry_loss(a, b, torch.ones(shape))
    model = lambda ids, mask: torch.cat([a, b])  # noqa: E731
    with pytest.raises(ValueError, match="margin"):
        reward_loss(model, torch.zeros(6, 2), None, torch.ones(shape))
    one = bradley_terry_loss(a, b, 0.5)
    assert torch.equal(one, bradley_terry_loss(a, b, torch.tensor(0.5)))
    assert torch.allclose(one, bradley_terry_loss(a, b, torch.full((3,), 0.5)))


def test_pairs_follow_their_probabilities():
    g = torch.Generator().manual_seed(0)
    policy = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    scores = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
    pairs = sample_pairs(policy.log(), scores, 60_000, g, flip=0.1)
    assert all(x.shape == (60_000,) for x in pairs)
    for p in (0, 1):
        one = pairs.prompt == p
        assert one.float().mean().item() == pytest.approx(0.5, abs=0.01)
        drawn = torch.cat([pairs.chosen[one], pairs.rejected[one]]).bincount(minlength=3) / (2 * one.sum())
        assert torch.allclose(drawn, policy[p], atol=0.01)
        for i, j in ((0, 1), (2, 0), (2, 1)):
            won = ((pairs.chosen == i) & (pairs.rejected == j) & one).sum()
            lost = ((pairs.chosen == j) & (pairs.rejected == i) & one).sum()
            expected = 0.1 + 0.8 / (1 + math.exp(scores[p, j] - scores[p, i]))
            assert (won / (won + lost)).item() == pytest.approx(expected, abs=0.04)


def test_no_scorer_beats_the_ceiling():
    g = torch.Generator().manual_seed(1)
    policy, scores = torch.full((1, 40), 1 / 40).log(), 1.5 * torch.randn(1, 40, generator=g)
    pairs = sample_pairs(policy, scores, 40_000, g, flip=0.05)
    chosen, rejected = scores[0, pairs.chosen], scores[0, pairs.rejected]
    p = win_probability(chosen, rejected, 0.05)
    assert pair_accuracy(chosen, rejected) == pytest.approx(accuracy_ceiling(p), abs=0.01)
    loss = -p.log().mean().item()
    assert loss == pytest.approx(label_entropy(p), abs=0.01)
    assert accuracy_ceiling(torch.tensor([0.5])) == 0.5 and label_entropy(torch.tensor([0.0, 1.0])) == 0


def test_pair_calibration_knows_an_honest_scorer_from_a_loud_one():
    g = torch.Generator().manual_seed(2)
    policy, scores = torch.full((1, 200), 1 / 200).log(), torch.randn(1, 200, generator=g)
    pairs = sample_pairs(policy, scores, 40_000, g)
    chosen, rejected = scores[0, pairs.chosen], scores[0, pairs.rejected]
    different = chosen != rejected
    chosen, rejected = chosen[different], rejected[different]

    def gap(k):
        table = pair_calibration(k * chosen, k * rejected)
        full = table.count > 500
        return (table.confidence - table.accuracy)[full].abs().max().item()

    assert gap(1) < 0.03 and gap(3) > 0.1


def test_bradley_terry_of_five_items_is_logistic_regression():
    g = torch.Generator().manual_seed(0)
    wins = torch.randint(1, 9, (5, 5), generator=g)
    scores = fit_bradley_terry(wins)
    assert scores.mean().abs() < 1e-12
    theta = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        off = 1 - torch.eye(5).double()
        loss = -(off * wins * F.logsigmoid(theta[:, None] - theta)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(scores, theta.detach() - theta.detach().mean(), atol=1e-5)
    with pytest.raises(ValueError, match="never lost"):
        fit_bradley_terry(torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0]]))


def test_bradley_terry_of_many_items_with_few_links():
    wins = torch.zeros(420, 420)
    wins[:300, :300] = 1
    for i in range(299, 419):  # a long tail: each met only its neighbours; the number of ways overflows
        wins[i, i + 1] = wins[i + 1, i] = 1
    assert fit_bradley_terry(wins, n_steps=2).abs().max() < 1e-9


def test_a_reward_model_learns_what_pairs_say():
    """Texts with more 7s are better; the labels are noisy, and the model comes near to the ceiling."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    texts = torch.randint(1, 12, (4000, 6), generator=g)
    truth = 2.0 * (texts == 7).sum(-1).float()
    first, second = torch.arange(0, 4000, 2), torch.arange(1, 4000, 2)
    p = win_probability(truth[first], truth[second])
    wins = torch.rand(2000, generator=g) < p
    chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
    model = small()

    def batches():
        while True:
            rows = torch.randint(1500, (64,), generator=g)
            yield texts[torch.cat([chosen[rows], rejected[rows]])], None

    train(model, batches(), 120, lr=5e-3, loss=reward_loss, progress=False)
    with torch.no_grad():
        a, b = model(texts[chosen[1500:]]), model(texts[rejected[1500:]])
    ceiling = accuracy_ceiling(p[1500:])
    clear = truth[first[1500:]] != truth[second[1500:]]
    assert ((a > b) == (truth[chosen[1500:]] > truth[rejected[1500:]]))[clear].float().mean() > 0.95
    assert ceiling - 0.06 < pair_accuracy(a, b) < ceiling + 0.06


def test_normalised_scores_have_mean_0_and_std_1():
    model = small().eval()
    ids = torch.randint(1, 12, (20, 5), generator=torch.Generator().manual_seed(0))
    before = model(ids)
    normalise(model, ids)
    once = model(ids)
    assert abs(once.mean().item()) < 1e-5 and once.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(before.argsort(), once.argsort())
    normalise(model, ids)  # a second time changes nothing
    assert torch.allclose(model(ids), once, atol=1e-5)
    with pytest.raises(ValueError, match="do not differ"):
        normalise(model, ids[:1])
    assert "mean" in model.state_dict()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="even number of rows; got 3"):
        reward_loss(lambda ids, mask: ids, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        bradley_terry_loss(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="flip"):
        win_probability(torch.zeros(1), torch.zeros(1), flip=0.6)
    with pytest.raises(ValueError, match="n >= 1"):
        sample_pairs(torch.zeros(1, 2), torch.zeros(1, 2), 0)
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        sample_pairs(torch.zeros(1, 2), torch.zeros(1, 3), 4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        accuracy_ceiling(torch.tensor([1.5]))
