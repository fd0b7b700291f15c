"""Lesson 11: right answers written differently, and mutants that compute the same."""

from itertools import groupby

import numpy as np
import torch


def corruption_by_groups(ids, noise, sentinels, end_id):
    if len(ids) != len(noise):
        raise ValueError("one truth value a token")
    inputs, targets, left = [], [], list(sentinels)
    for missing, group in groupby(zip(ids, noise, strict=True), key=lambda pair: bool(pair[1])):
        tokens = [token for token, _ in group]
        if not missing:
            inputs.extend(tokens)
            continue
        if not left:
            raise ValueError("too few sentinels")
        sentinel = left.pop(0)
        inputs.append(sentinel)
        targets.extend([sentinel, *tokens])
    return inputs + [end_id], targets + [end_id]


def corruption_by_edges(ids, noise, sentinels, end_id):
    noise = np.asarray(noise, dtype=bool)
    if len(noise) != len(ids):
        raise ValueError("lengths")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], noise.astype(int), [0]])))
    begins, ends = edges[::2], edges[1::2]
    if len(begins) > len(sentinels):
        raise ValueError("sentinels")
    inputs, targets, at = [], [], 0
    for sentinel, begin, end in zip(sentinels, begins, ends, strict=False):
        inputs += list(ids[at:begin]) + [sentinel]
        targets += [sentinel] + list(ids[begin:end])
        at = end
    return inputs + list(ids[at:]) + [end_id], targets + [end_id]


def corruption_by_index(ids, noise, sentinels, end_id):
    if len(ids) != len(noise):
        raise ValueError
    starts = [i for i in range(len(ids)) if noise[i] and (i == 0 or not noise[i - 1])]
    if len(starts) > len(sentinels):
        raise ValueError
    name = dict(zip(starts, sentinels, strict=False))
    inputs = [name.get(i, ids[i]) for i in range(len(ids)) if not noise[i] or i in name]
    targets = []
    for i in range(len(ids)):
        if i in name:
            targets.append(name[i])
        if noise[i]:
            targets.append(ids[i])
    inputs.append(end_id)
    targets.append(end_id)
    return tuple(inputs), tuple(targets)


def share_by_sum(make_mask, length, n_draws, rng):
    total = np.zeros(length)
    for _ in range(n_draws):
        total += make_mask(length, rng)
    return total / n_draws


def share_by_stack(make_mask, length, n_draws, rng):
    return np.stack([make_mask(length, rng) for _ in range(n_draws)]).mean(axis=0)


def share_place_by_place(make_mask, length, n_draws, rng):
    masks = [make_mask(length, rng) for _ in range(n_draws)]
    return np.array([sum(bool(mask[i]) for mask in masks) / n_draws for i in range(length)])


def replace_from_the_back(ids, spans, mask_id):
    end = 0
    for start, size in spans:
        if start < end or start + size > len(ids):
            raise ValueError("spans")
        end = start + size
    out = list(ids)
    for start, size in reversed(spans):
        out[start : start + size] = [mask_id]
    return out


def replace_token_by_token(ids, spans, mask_id):
    out, at, waiting = [], 0, list(spans)
    while waiting or at < len(ids):
        if waiting and waiting[0][0] < at:
            raise ValueError("overlap")
        if waiting and waiting[0][0] == at:
            _, size = waiting.pop(0)
            out.append(mask_id)
            at += size
            if at > len(ids):
                raise ValueError("beyond the end")
        elif at < len(ids):
            out.append(ids[at])
            at += 1
        else:
            raise ValueError("beyond the end")
    return out


def replace_by_pieces(ids, spans, mask_id):
    borders = [0] + [border for start, size in spans for border in (start, start + size)] + [len(ids)]
    if borders != sorted(borders):
        raise ValueError("spans")
    pieces = [list(ids[a:b]) for a, b in zip(borders[::2], borders[1::2], strict=True)]
    out = pieces[0]
    for piece in pieces[1:]:
        out = out + [mask_id] + piece
    return out


def shift_by_copy(labels, start_id, pad_id):
    ids = labels.new_zeros(labels.shape)
    ids[:, 1:] = labels[:, :-1].clone()
    ids[:, 0] = start_id
    return ids.masked_fill(ids == -100, pad_id)


def shift_by_cat(labels, start_id, pad_id):
    first = torch.full((labels.shape[0], 1), start_id, dtype=labels.dtype)
    ids = torch.cat([first, labels[:, :-1]], dim=1)
    return torch.where(ids == -100, torch.tensor(pad_id), ids)


def shift_in_python(labels, start_id, pad_id):
    rows = [[start_id] + [pad_id if token == -100 else token for token in row[:-1]] for row in labels.tolist()]
    return torch.tensor(rows)


def repair_with_dict(inputs, targets, sentinels, end_id):
    answer, key = {None: []}, None
    for token in targets:
        if token == end_id:
            break
        if token in set(sentinels):
            key = token
            answer[key] = []
        else:
            answer[key].append(token)
    stop = inputs.index(end_id) if end_id in inputs else len(inputs)
    out = []
    for token in inputs[:stop]:
        out.extend(answer.get(token, []) if token in sentinels else [token])
    return out


def repair_by_slices(inputs, targets, sentinels, end_id):
    targets = list(targets)[: targets.index(end_id)] if end_id in targets else list(targets)
    inputs = list(inputs)[: inputs.index(end_id)] if end_id in inputs else list(inputs)
    places = [i for i, token in enumerate(targets) if token in sentinels] + [len(targets)]
    spans = {targets[a]: targets[a + 1 : b] for a, b in zip(places, places[1:], strict=False)}
    return [t for token in inputs for t in (spans.get(token, []) if token in sentinels else [token])]


def repair_backwards(inputs, targets, sentinels, end_id):
    read = []
    for token in targets:
        if token == end_id:
            break
        read.append(token)
    spans, run = {}, []
    for token in reversed(read):
        if token in sentinels:
            spans.setdefault(token, run[::-1])
            run = []
        else:
            run.append(token)
    text = []
    for token in inputs:
        if token == end_id:
            return text
        text = text + (spans.get(token, []) if token in sentinels else [token])
    return text


RIGHT = {
    "span_corruption": [corruption_by_groups, corruption_by_edges, corruption_by_index],
    "hidden_share": [share_by_sum, share_by_stack, share_place_by_place],
    "replace_spans": [replace_from_the_back, replace_token_by_token, replace_by_pieces],
    "shift_right": [shift_by_copy, shift_by_cat, shift_in_python],
    "repair_spans": [repair_with_dict, repair_by_slices, repair_backwards],
}

STRICT = "zip(strict=True) raises the same error, only in other words"
EQUIVALENT = {
    "span_corruption": {
        "dropped: if len(ids) != len(noise):": STRICT,
        "dropped: raise ValueError(f'{len(ids)} tokens, but a mask for {len(noise)}')": STRICT,
        "True  ->  False": "the lengths were compared before",
    },
}
