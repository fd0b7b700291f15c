"""Lesson 09: right answers written differently, and mutants that compute the same."""

import torch


def replace_with_where(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    masked = chosen & torch.bernoulli(torch.full(ids.shape, mask_share), generator=generator).bool()
    inputs = torch.where(masked, torch.tensor(mask_id), ids)
    if mask_share == 1.0 or random_share == 0.0:
        return inputs
    half = torch.full(ids.shape, random_share / (1.0 - mask_share))
    random_too = torch.bernoulli(half, generator=generator) > 0
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    return torch.where(chosen & random_too & ~masked, words, inputs)


def replace_in_loops(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    first = torch.bernoulli(torch.full(ids.shape, mask_share), generator=generator)
    stop = mask_share == 1 or random_share == 0
    if not stop:
        second = torch.bernoulli(torch.full(ids.shape, random_share / (1 - mask_share)), generator=generator)
        words = torch.randint(0, vocab_size, ids.shape, generator=generator)
    out = ids.clone()
    for b in range(ids.size(0)):
        for t in range(ids.size(1)):
            if chosen[b, t] and first[b, t]:
                out[b, t] = mask_id
            elif chosen[b, t] and not stop and second[b, t]:
                out[b, t] = words[b, t]
    return out


def replace_random_first(ids, chosen, mask_id, vocab_size, generator=None, mask_share=0.8, random_share=0.1):
    masked = torch.bernoulli(torch.full(ids.shape, mask_share), generator=generator).bool()
    if mask_share == 1 or not random_share:
        return ids.masked_fill(masked & chosen, mask_id)
    drawn = torch.bernoulli(torch.full(ids.shape, random_share / (1 - mask_share)), generator=generator).bool()
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    mixed = drawn * words + ~drawn * ids
    return torch.where(chosen, mixed.masked_fill(masked, mask_id), ids)


def fill_by_nonzero(model, ids, mask_id, k=5, attention_mask=None):
    rows, places = (ids == mask_id).nonzero(as_tuple=True)
    best = torch.softmax(model(ids, attention_mask)[rows, places].float(), dim=-1).topk(k)
    return best.indices, best.values


def fill_by_sorting(model, ids, mask_id, k=5, attention_mask=None):
    probs = model(ids, attention_mask).float().log_softmax(-1).exp()[ids.eq(mask_id)]
    values, places = probs.sort(dim=-1, descending=True)
    return places[:, :k], values[:, :k]


def fill_in_a_loop(model, ids, mask_id, k=5, attention_mask=None):
    logits = model(ids, attention_mask).float()
    tokens, probs = [], []
    for b in range(len(ids)):
        for t in range(ids.size(1)):
            if ids[b, t] == mask_id:
                p, i = logits[b, t].softmax(0).topk(k)
                tokens.append(i)
                probs.append(p)
    if not tokens:
        return torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k)
    return torch.stack(tokens), torch.stack(probs)


def join_with_if(first, second, cls_id, sep_id):
    ids = [cls_id] + list(first) + [sep_id]
    types = [0 for _ in ids]
    if len(second) > 0:
        ids = ids + list(second) + [sep_id]
        types += [1] * (len(second) + 1)
    return ids, types


def join_by_appending(first, second, cls_id, sep_id):
    ids, types = [cls_id], [0]
    for number, text in enumerate((first, second)):
        if number == 1 and not len(text):
            break
        for token in (*text, sep_id):
            ids.append(token)
            types.append(number)
    return ids, types


def join_early_return(first, second, cls_id, sep_id):
    if not second:
        return [cls_id, *first, sep_id], [0] * (len(first) + 2)
    n, m = len(first), len(second)
    return [cls_id, *first, sep_id, *second, sep_id], (n + 2) * [0] + (m + 1) * [1]


def positions_with_where(ids, pad_id=1):
    real = ids.ne(pad_id)
    return torch.where(real, real.int().cumsum(1) + pad_id, pad_id)


def positions_masked(ids, pad_id=1):
    padding = ids == pad_id
    return ((~padding).cumsum(-1) + pad_id).masked_fill(padding, pad_id)


def positions_in_a_loop(ids, pad_id=1):
    out = torch.full_like(ids, pad_id)
    for b, row in enumerate(ids.tolist()):
        n = pad_id
        for t, token in enumerate(row):
            if token != pad_id:
                n += 1
                out[b, t] = n
    return out


def pll_stacked(model, ids, mask_id, special=None):
    scored = [t for t in range(len(ids)) if special is None or not special[t]]
    scores = torch.zeros(len(ids))
    if scored:
        copies = torch.stack([torch.cat([ids[:t], torch.tensor([mask_id]), ids[t + 1 :]]) for t in scored])
        for t, logits in zip(scored, model(copies, None), strict=True):
            scores[t] = torch.log_softmax(logits[t].float(), dim=-1)[ids[t]]
    return scores


def pll_by_eye(model, ids, mask_id, special=None):
    T = len(ids)
    copies = torch.where(torch.eye(T, dtype=torch.bool), mask_id, ids.expand(T, T))
    log_p = model(copies, None).float().log_softmax(-1)  # (T, T, V)
    scores = log_p[torch.arange(T), torch.arange(T), ids]
    return scores if special is None else torch.where(special.bool(), 0.0, scores)


def pll_with_cross_entropy(model, ids, mask_id, special=None):
    keep = torch.ones_like(ids, dtype=torch.bool) if special is None else special == 0
    places = torch.nonzero(keep)[:, 0]
    out = torch.zeros(ids.shape)
    if len(places) == 0:
        return out
    copies = ids[None].repeat(len(places), 1).scatter(1, places[:, None], mask_id)
    answers = torch.stack([row[t] for row, t in zip(model(copies, None), places, strict=True)])
    out[places] = -torch.nn.functional.cross_entropy(answers.float(), ids[places], reduction="none")
    return out


RIGHT = {
    "replace_chosen": [replace_with_where, replace_in_loops, replace_random_first],
    "fill_mask": [fill_by_nonzero, fill_by_sorting, fill_in_a_loop],
    "join_pair": [join_with_if, join_by_appending, join_early_return],
    "position_ids": [positions_with_where, positions_masked, positions_in_a_loop],
    "pseudo_log_likelihood": [pll_stacked, pll_by_eye, pll_with_cross_entropy],
}
TWO_AXES = "there are two axes, so axis 1 is the last one"
EQUIVALENT = {
    "replace_chosen": {
        "0  ->  1": "with random_share 0 the second draw has probability 0 and changes nothing",
        "0  ->  -1": "the same",
    },
    "fill_mask": {
        "-1  ->  without USub": TWO_AXES,
        "-1  ->  without USub (#2)": TWO_AXES,
        "result in another precision": "the result is a pair, which that mutant leaves as it is",
    },
    "position_ids": {"-1  ->  without USub": TWO_AXES},
    "pseudo_log_likelihood": {
        "-1  ->  without USub": TWO_AXES,
        "-1  ->  without USub (#2)": TWO_AXES,
        "dropped: if not len(places):": "a batch of no rows goes through the toy model of the checks as well",
        "dropped: return scores (#2)": "the same",
        "torch.zeros(len(ids), device=ids.device)  ->  without device": "the checks run on the CPU",
        "torch.arange(len(places), device=ids.device)  ->  without device": "the checks run on the CPU",
    },
}
