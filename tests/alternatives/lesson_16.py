"""Lesson 16: right answers written differently, and mutants that compute the same."""

import json

import numpy as np
import torch
from torch.nn import functional as F

from llmkit.data.batches import pad


def targets_in_a_loop(ids, mask):
    if len(ids) != len(mask):
        raise ValueError("lengths differ")
    targets = []
    for t in range(len(ids)):
        targets.append(ids[t + 1] if t + 1 < len(ids) and mask[t + 1] else -100)
    return targets


def targets_with_numpy(ids, mask):
    if len(ids) != len(mask):
        raise ValueError("lengths differ")
    moved = np.where(np.array(mask, dtype=bool), np.array(ids, dtype=int), -100)[1:]
    return [*moved.tolist(), *([-100] if len(ids) else [])]


def targets_with_torch(ids, mask):
    if len(ids) != len(mask):
        raise ValueError("lengths differ")
    if not ids:
        return []
    masked = torch.tensor(ids).masked_fill(torch.tensor(mask) == 0, -100)
    return F.pad(masked[1:], (0, 1), value=-100).tolist()


def header_state_machine(ids, header, end_id):
    if len(header) == 0:
        raise ValueError("no header")
    inside, since, mask = False, 0, []
    for at, token in enumerate(ids):
        mask.append(1 if inside else 0)
        if inside and token == end_id:
            inside, since = False, at + 1
        elif not inside and at + 1 - since >= len(header) and ids[at + 1 - len(header) : at + 1] == list(header):
            inside = True
    return mask


def header_by_starts(ids, header, end_id):
    if not header:
        raise ValueError("no header")
    mask, after = [0] * len(ids), 0
    for start in range(len(ids) - len(header) + 1):
        if start < after or ids[start : start + len(header)] != header:
            continue
        begin = start + len(header)
        end = ids.index(end_id, begin) + 1 if end_id in ids[begin:] else len(ids)
        mask[begin:end] = [1] * (end - begin)
        after = end
    return mask


def header_recursive(ids, header, end_id):
    if not header:
        raise ValueError("no header")
    n = len(header)
    for at in range(len(ids)):
        if ids[at : at + n] == header:
            rest = ids[at + n :]
            length = rest.index(end_id) + 1 if end_id in rest else len(rest)
            return [0] * (at + n) + [1] * length + header_recursive(rest[length:], header, end_id)
    return [0] * len(ids)


def collate_full_of_padding(examples, pad_id=0):
    if not examples or any(len(example.ids) == 0 for example in examples):
        raise ValueError("empty")
    T = max(map(len, (example.ids for example in examples)))
    ids = torch.full((len(examples), T), pad_id, dtype=torch.long)
    targets = torch.full((len(examples), T), -100, dtype=torch.long)
    for row, (some, wanted) in enumerate(examples):
        ids[row, : len(some)] = torch.tensor(some)
        targets[row, : len(wanted)] = torch.tensor(wanted)
    return ids, targets


def collate_with_lists(examples, pad_id=0):
    if len(examples) == 0 or min(len(e.ids) for e in examples) == 0:
        raise ValueError("empty")
    T = max(len(e.ids) for e in examples)
    ids = [e.ids + [pad_id] * (T - len(e.ids)) for e in examples]
    return torch.tensor(ids), torch.tensor([e.targets + [-100] * (T - len(e.targets)) for e in examples])


def collate_with_a_mask(examples, pad_id=0):
    ids, real = pad([e.ids for e in examples], pad_id)
    targets, _ = pad([e.targets for e in examples], pad_id)
    return ids, torch.where(real, targets, -100)


def packed_in_loops(ids, assistant, documents):
    targets = torch.full_like(ids, -100)
    for n in range(ids.size(0)):
        for t in range(ids.size(1) - 1):
            d = documents[n, t + 1].item()
            if assistant[n, t + 1] and d >= 0 and d == documents[n, t].item():
                targets[n, t] = ids[n, t + 1]
    return targets


def packed_with_roll(ids, assistant, documents):
    wrong = ~assistant.bool() | (documents == -1)
    wrong = wrong | (documents.roll(1, dims=1) != documents)
    targets = ids.masked_fill(wrong, -100).roll(-1, dims=1)
    targets[:, -1] = -100
    return targets


def packed_document_by_document(ids, assistant, documents):
    targets = torch.full(ids.shape, -100)
    for row in range(len(ids)):
        places = torch.arange(ids.size(1))
        for t, after in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
            same = documents[row, t] == documents[row, after]
            if same and documents[row, after] != -1 and bool(assistant[row, after]):
                targets[row, t] = ids[row, after]
    return targets


def weights_by_gradient(targets, per="token"):
    if per not in {"token", "sequence"} or (targets == -100).all():
        raise ValueError("no")
    losses = torch.zeros(targets.shape, requires_grad=True)
    counted = targets != -100
    if per == "token":
        losses[counted].mean().backward()
    else:
        torch.stack([row[c].mean() for row, c in zip(losses, counted, strict=True) if c.any()]).mean().backward()
    return losses.grad


def weights_in_loops(targets, per="token"):
    rows = [[t != -100 for t in row] for row in targets.tolist()]
    total, n_rows = sum(map(sum, rows)), sum(any(row) for row in rows)
    if per not in ("token", "sequence"):
        raise ValueError("per")
    if total == 0:
        raise ValueError("nothing")
    return torch.tensor([[c / (total if per == "token" else n_rows * max(1, sum(row))) for c in row] for row in rows])


def weights_with_numpy(targets, per="token"):
    counted = (targets.numpy() != -100).astype(np.float64)
    if per not in ("token", "sequence") or counted.sum() == 0:
        raise ValueError("no")
    if per == "sequence":
        counted = np.nan_to_num(counted / np.maximum(counted.sum(-1, keepdims=True), 1))
    return torch.tensor(counted / counted.sum(), dtype=torch.float32)


def _words(text):
    return {"".join(c for c in word if c.isalnum() or c == "_").lower() for word in text.split()}


def followed_with_ifs(reply, rules):
    found = {}
    for rule, value in rules.items():
        if rule == "max_words":
            found[rule] = not len(reply.split()) > value
        elif rule == "min_words":
            found[rule] = not len(reply.split()) < value
        elif rule == "ends_with":
            found[rule] = reply.strip()[-len(value) :] == value
        elif rule == "keywords":
            found[rule] = {w.lower() for w in value} <= _words(reply)
        elif rule == "without":
            found[rule] = not {w.lower() for w in value} & _words(reply)
        elif rule == "json_keys":
            try:
                thing = json.loads(reply)
            except ValueError:
                thing = None
            found[rule] = type(thing) is dict and sorted(thing) == sorted(value)
        else:
            raise ValueError(rule)
    return found


def followed_by_match(reply, rules):
    def kept(rule, value):
        match rule:
            case "max_words":
                return len(reply.split()) <= value
            case "min_words":
                return value <= len(reply.split())
            case "ends_with":
                return reply.rstrip().endswith(value)
            case "keywords":
                return all(word.lower() in _words(reply) for word in value)
            case "without":
                return all(word.lower() not in _words(reply) for word in value)
            case "json_keys":
                return keys() is not None and set(keys()) == set(value)
        raise ValueError(f"no rule {rule}")

    def keys():
        try:
            read = json.loads(reply)
        except json.JSONDecodeError:
            return None
        return read.keys() if isinstance(read, dict) else None

    return {rule: kept(rule, value) for rule, value in rules.items()}


def followed_in_two_steps(reply, rules):
    known = ["max_words", "min_words", "ends_with", "keywords", "without", "json_keys"]
    for rule in rules:
        if rule not in known:
            raise ValueError("unknown: " + rule)
    return {rule: followed_with_ifs(reply, {rule: rules[rule]})[rule] for rule in rules}


RIGHT = {
    "assistant_targets": [targets_in_a_loop, targets_with_numpy, targets_with_torch],
    "mask_after_header": [header_state_machine, header_by_starts, header_recursive],
    "collate": [collate_full_of_padding, collate_with_lists, collate_with_a_mask],
    "packed_targets": [packed_in_loops, packed_with_roll, packed_document_by_document],
    "loss_weights": [weights_by_gradient, weights_in_loops, weights_with_numpy],
    "followed": [followed_with_ifs, followed_by_match, followed_in_two_steps],
}
EQUIVALENT = {
    "assistant_targets": {
        "dropped: if len(ids) != len(mask):": "zip with strict=True raises a ValueError too",
        "dropped: raise ValueError(f'{len(ids)} ids and {len(mask)} entries of the mask: each token needs one')": (
            "zip with strict=True raises a ValueError too"
        ),
        "True  ->  False": "the lengths were compared before",
    },
    "mask_after_header": {
        "dropped: ids, header = (list(ids), list(header))": "the exercise is about lists",
        "at < len(ids)  ->  LtE": "behind the last id no header begins",
        "0  ->  -1": "what is cut out from -1 on is no whole header",
    },
    "collate": {"result in another precision": "there are only whole numbers"},
}
