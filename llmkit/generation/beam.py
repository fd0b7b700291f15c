"""Beam search: keep the few most probable texts instead of one, and let each grow."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmkit.generation.generate import check_dropout, check_padding

NEVER = -1e9  # a score that loses against every other


@dataclass
class _Finished:
    """The best ended texts of each prompt, best first; scores are divided by length^penalty."""

    tokens: Tensor  # (B, K, n)
    scores: Tensor  # (B, K)
    lengths: Tensor  # (B, K) new tokens
    filled: Tensor  # (B, K) bool


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    ids: Tensor,
    max_new_tokens: int,
    n_beams: int = 4,
    length_penalty: float = 1.0,
    stop_token: int | None = None,
    pad_id: int = 0,
    attention_mask: Tensor | None = None,
    early_stopping: bool = False,
) -> tuple[Tensor, Tensor]:
    """The most probable continuation of each prompt (B, T) that a search of width K = n_beams finds.

    length_penalty   scores are log P / length^length_penalty: 0 favours short texts, above 1 long ones
    early_stopping   stop as soon as K texts have ended; False goes on while an open one may still win
    result           tokens (B, T + n), padded after the end, and scores (B,)

    Each step extends K beams by all V tokens, ranks K * V sums of log-probabilities, and keeps the best K that
    have not ended; those that end among the best K are put aside with their score. The same ids as transformers'
    `generate(num_beams=K)`, apart from what fills up a text that ended early.

    Raises ValueError for padding on the right, no beam, no token to write, or a model that drops out at random.
    """
    check_padding(attention_mask)
    check_dropout(model)
    if n_beams < 1 or max_new_tokens < 1:
        raise ValueError(f"needs n_beams and max_new_tokens of at least 1, got {n_beams} and {max_new_tokens}")
    B, T = ids.shape
    K = n_beams
    rows = torch.arange(B, device=ids.device)[:, None]
    cache = model.new_cache(T + max_new_tokens)
    mask = None if attention_mask is None else attention_mask.repeat_interleave(K, 0)
    running = torch.empty(B, K, 0, dtype=torch.long, device=ids.device)  # new tokens of the open beams
    scores = torch.full((B, K), NEVER, device=ids.device)
    scores[:, 0] = 0.0  # all beams are alike at first, so that only one may be extended
    done = _Finished(
        torch.full((B, K, max_new_tokens), pad_id, device=ids.device),
        torch.full((B, K), NEVER, device=ids.device),
        torch.zeros(B, K, dtype=torch.long, device=ids.device),
        torch.zeros(B, K, dtype=torch.bool, device=ids.device),
    )
    hopeful = torch.ones(B, 1, dtype=torch.bool, device=ids.device)
    new = ids.repeat_interleave(K, 0)
    for n in range(1, max_new_tokens + 1):
        log_probs = model(new, mask, cache, last_only=True)[:, -1].float().log_softmax(-1).unflatten(0, (B, K))
        V = log_probs.size(-1)
        totals = (scores[..., None] + log_probs).flatten(1)  # (B, K * V)
        best, place = totals.topk(2 * K)  # twice as many: K of them may end now
        beam, token = place // V, place % V  # (B, 2K)
        texts = torch.cat([running[rows, beam], token[..., None]], dim=-1)  # (B, 2K, n)
        ended = torch.full_like(token, n == max_new_tokens, dtype=torch.bool)
        if stop_token is not None:
            ended |= token == stop_token
        closed = ~hopeful | (done.filled.all(-1, keepdim=True) & early_stopping)
        _put_aside(done, texts[:, :K], best[:, :K] / n**length_penalty, ended[:, :K] & ~closed)
        scores, kept = best.masked_fill(ended, NEVER).topk(K)
        running = texts[rows, kept]
        worst = torch.where(done.filled, done.scores.amin(-1, keepdim=True), NEVER)
        hopeful &= (scores[:, :1] / n**length_penalty > worst).any(-1, keepdim=True)
        if not hopeful.any() or (early_stopping and done.filled.all()) or ended.all():
            break
        chosen = (rows * K + beam[rows, kept]).flatten()  # (B * K,) rows of the cache that go on
        cache.reorder(chosen)
        new = running[..., -1].flatten()[:, None]
        if mask is not None:
            mask = torch.cat([mask[chosen], torch.ones_like(mask[:, :1])], dim=1)
    longest = max(done.lengths[:, 0].tolist(), default=0)
    return torch.cat([ids, done.tokens[:, 0, :longest]], dim=1), done.scores[:, 0]


def _put_aside(done: _Finished, texts: Tensor, scores: Tensor, ended: Tensor) -> None:
    """Merge texts that ended in this step with those of earlier steps, and keep the best K."""
    K, n = done.scores.size(1), texts.size(-1)
    scores = scores.masked_fill(~ended, NEVER)
    padded = torch.cat([texts, done.tokens[:, :, n:]], dim=-1)
    all_scores = torch.cat([done.scores, scores], dim=1)
    top = all_scores.topk(K)
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    done.tokens = torch.cat([done.tokens, padded], dim=1)[rows, top.indices]
    done.lengths = torch.cat([done.lengths, torch.full_like(ended, n, dtype=torch.long)], dim=1)[rows, top.indices]
    done.filled = torch.cat([done.filled, ended], dim=1)[rows, top.indices]
    done.scores = top.values
