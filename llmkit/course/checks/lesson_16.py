"""Lesson 16: targets from the assistant's mask, masks of many turns, padding, packing, weights, rules for replies."""

import json
import re

import torch
from torch.nn import functional as F

from llmkit.course.exercise import Case, Exercise
from llmkit.evaluation.instructions import followed
from llmkit.finetuning.masks import assistant_targets, loss_weights, mask_after_header, packed_targets
from llmkit.finetuning.sft import Encoded, collate

IGNORE = -100


# --- 16.1 assistant_targets ---


def target_cases() -> list[Case]:
    def case(label, ids, mask):
        return Case(label, lambda: (list(ids), list(mask)))

    return [
        case("the example", [7, 8, 5, 6, 9], [0, 0, 1, 1, 0]),
        case("the answer is the end of the text", [7, 8, 5, 9], [0, 0, 1, 1]),
        case("one token in the answer", [4, 5, 6, 7], [0, 0, 1, 0]),
        case("two answers", [1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 1, 0, 0, 1, 1, 0]),
        case("two answers of one token, side by side with prompts", [1, 2, 3, 4, 5], [0, 1, 0, 1, 0]),
        case("nobody answers", [3, 4, 5], [0, 0, 0]),
        case("all of it is the assistant's", [3, 4, 5], [1, 1, 1]),
        case("the first token is the assistant's: nothing predicts it", [3, 4, 5], [1, 0, 0]),
        case("token 0 is a token like others", [9, 0, 0, 5], [0, 1, 1, 0]),
        case("one token", [3], [1]),
        case("no token", [], []),
        case("another number of mask entries is refused", [1, 2, 3], [0, 1]),
        case("no mask is refused", [1, 2], []),
    ]


def _alike(ids, mask):
    if len(ids) != len(mask):
        raise ValueError("lengths")


def targets_not_moved(ids, mask):
    _alike(ids, mask)
    return [token if mine else IGNORE for token, mine in zip(ids, mask, strict=True)]


def targets_mask_not_moved(ids, mask):
    _alike(ids, mask)
    return [ids[t + 1] if mask[t] and t + 1 < len(ids) else IGNORE for t in range(len(ids))]


def targets_moved_twice(ids, mask):
    _alike(ids, mask)
    return [ids[t + 2] if t + 2 < len(ids) and mask[t + 2] else IGNORE for t in range(len(ids))]


def targets_backwards(ids, mask):
    _alike(ids, mask)
    return [IGNORE] * bool(ids) + [t if m else IGNORE for t, m in zip(ids[:-1], mask[:-1], strict=True)]


def targets_of_the_user(ids, mask):
    return assistant_targets(ids, [1 - m for m in mask])


def targets_of_everything(ids, mask):
    return assistant_targets(ids, [1] * len(mask))


def targets_too_short(ids, mask):
    return assistant_targets(ids, mask)[:-1]


def targets_zero(ids, mask):
    return [0 if t == IGNORE else t for t in assistant_targets(ids, mask)]


def targets_both(ids, mask):
    _alike(ids, mask)
    return [ids[t + 1] if t + 1 < len(ids) and mask[t] and mask[t + 1] else IGNORE for t in range(len(ids))]


def targets_without_end(ids, mask):
    _alike(ids, mask)
    last = [m and not (t + 1 < len(mask) and mask[t + 1]) for t, m in enumerate(mask)]
    return assistant_targets(ids, [int(bool(m) and not e) for m, e in zip(mask, last, strict=True)])


def targets_wrap(ids, mask):
    _alike(ids, mask)
    return [ids[(t + 1) % len(ids)] if mask[(t + 1) % len(ids)] else IGNORE for t in range(len(ids))]


def targets_any_length(ids, mask):
    return [t if m else IGNORE for t, m in zip(ids[1:], mask[1:], strict=False)] + [IGNORE] * bool(ids)


def targets_of_no_ids(ids, mask):
    return assistant_targets(ids, mask) or [IGNORE]


# --- 16.2 mask_after_header ---


def header_cases() -> list[Case]:
    def case(label, ids, header, end=9):
        return Case(label, lambda: (list(ids), list(header), end))

    return [
        case("one answer", [1, 8, 6, 9], [1, 8]),
        case("the example", [1, 7, 5, 9, 1, 8, 6, 6, 9, 4], [1, 8]),
        case("two answers", [1, 7, 5, 9, 1, 8, 6, 9, 1, 7, 5, 5, 9, 1, 8, 4, 4, 9, 3], [1, 8]),
        case("a header of one id", [1, 5, 9, 8, 6, 6, 9, 1], [8]),
        case("a header of three ids", [1, 7, 3, 5, 9, 1, 8, 3, 6, 9, 3], [1, 8, 3]),
        case("the answer is cut off", [1, 7, 5, 9, 1, 8, 6, 6], [1, 8]),
        case("an answer of nothing but its end", [1, 8, 9, 5, 5], [1, 8]),
        case("two such in a row", [1, 8, 9, 1, 8, 9, 6], [1, 8]),
        case("a header at the end of the text", [5, 9, 1, 8], [1, 8]),
        case("half a header at the end", [5, 9, 1], [1, 8]),
        case("no header", [1, 7, 5, 9, 5], [1, 8]),
        case("a header inside the answer is text", [1, 8, 6, 1, 8, 6, 9, 5], [1, 8]),
        case("the header's ids in another order are none", [8, 1, 5, 9, 1, 1, 8, 6, 9], [1, 8]),
        case("the second answer begins at once", [1, 8, 6, 9, 1, 8, 5, 9], [1, 8]),
        case("no ids", [], [1, 8]),
        case("another end", [1, 8, 6, 9, 2, 5], [1, 8], 2),
        case("an empty header is refused", [1, 2, 9], []),
        case("an empty header is refused without ids too", [], []),
    ]


def _masked(ids, header, end_id, first_only=False, keep_end=True, count_header=False):
    if not header:
        raise ValueError("header")
    mask, at = [0] * len(ids), 0
    while at < len(ids):
        if ids[at : at + len(header)] != header:
            at += 1
            continue
        if count_header:
            mask[at : at + len(header)] = [1] * len(header)
        at += len(header)
        while at < len(ids):
            if ids[at] == end_id:
                mask[at] = int(keep_end)
                at += 1
                break
            mask[at] = 1
            at += 1
        if first_only:
            break
    return mask


def header_without_end(ids, header, end_id):
    return _masked(ids, header, end_id, keep_end=False)


def header_first_answer_only(ids, header, end_id):
    return _masked(ids, header, end_id, first_only=True)


def header_counted(ids, header, end_id):
    return _masked(ids, header, end_id, count_header=True)


def header_last_answer_only(ids, header, end_id):
    mask = mask_after_header(ids, header, end_id)
    starts = [i for i in range(len(ids)) if ids[i : i + len(header)] == list(header)]
    return [m if starts and i >= starts[-1] else 0 for i, m in enumerate(mask)]


def header_to_the_end(ids, header, end_id):
    if not header:
        raise ValueError("header")
    for at in range(len(ids)):
        if ids[at : at + len(header)] == header:
            return [int(i >= at + len(header)) for i in range(len(ids))]
    return [0] * len(ids)


def header_all_ends(ids, header, end_id):
    mask = mask_after_header(ids, header, end_id)
    return [1 if token == end_id else m for token, m in zip(ids, mask, strict=True)]


def header_any_of_its_ids(ids, header, end_id):
    return _masked(ids, header[-1:], end_id)


def header_drops_what_is_cut_off(ids, header, end_id):
    mask = mask_after_header(ids, header, end_id)
    for i in range(len(ids) - 1, -1, -1):
        if not mask[i] or ids[i] == end_id:
            break
        mask[i] = 0
    return mask


def header_inside_answers(ids, header, end_id):
    mask = mask_after_header(ids, header, end_id)
    for i in range(len(ids)):
        if ids[i : i + len(header)] == header:
            mask[i : i + len(header)] = [0] * len(header)
    return mask


def header_empty_is_nothing(ids, header, end_id):
    return mask_after_header(ids, header, end_id) if header else [0] * len(ids)


# --- 16.3 by hand ---


def n_stopped() -> int:
    return 0


# --- 16.4 collate (find the bug) ---


def collate_cases() -> list[Case]:
    a, b, c = ([5, 6, 9], [6, 9, -100]), ([5], [-100]), ([4, 4, 2, 9, 3], [-100, 2, 9, -100, -100])

    def case(label, rows, *pad_id):
        return Case(label, lambda: ([Encoded(list(ids), list(targets)) for ids, targets in rows], *pad_id))

    return [
        case("one conversation", [a], 0),
        case("two, padded with 0", [a, b], 0),
        case("padded with the end of turn", [a, b], 9),
        case("three lengths, padded with the end of turn", [b, c, a], 9),
        case("the shorter one first", [a, c], 7),
        case("pad_id is a token of the text", [c, a], 4),
        case("equally long", [a, a], 9),
        case("pad_id left out is 0", [c, b]),
        case("token 0 is a token like others", [([0, 0, 5, 0], [0, 5, 0, -100]), ([5, 0], [0, -100])], 0),
        case("no conversation is refused", [], 0),
        case("a conversation without ids is refused", [a, ([], [])], 0),
    ]


def _padded(examples, pad_id):
    if not examples or not all(example.ids for example in examples):
        raise ValueError("nothing")
    T = max(len(example.ids) for example in examples)
    return [example.ids + [pad_id] * (T - len(example.ids)) for example in examples], T


def collate_masks_the_pad_id(examples, pad_id=0):
    if not examples or not all(example.ids for example in examples):
        raise ValueError("there is nothing to put side by side")
    T = max(len(example.ids) for example in examples)
    ids = torch.tensor([example.ids + [pad_id] * (T - len(example.ids)) for example in examples])
    targets = torch.tensor([example.targets + [pad_id] * (T - len(example.targets)) for example in examples])
    return ids, targets.masked_fill(targets == pad_id, -100)


def collate_masks_where_ids_are_padding(examples, pad_id=0):
    ids, targets = collate(examples, pad_id)
    return ids, targets.masked_fill(ids == pad_id, IGNORE)


def collate_learns_padding(examples, pad_id=0):
    rows, T = _padded(examples, pad_id)
    targets = [example.targets + [pad_id] * (T - len(example.targets)) for example in examples]
    return torch.tensor(rows), torch.tensor(targets)


def collate_on_the_left(examples, pad_id=0):
    _, T = _padded(examples, pad_id)
    ids = [[pad_id] * (T - len(e.ids)) + e.ids for e in examples]
    targets = [[IGNORE] * (T - len(e.ids)) + e.targets for e in examples]
    return torch.tensor(ids), torch.tensor(targets)


def collate_always_zero(examples, pad_id=0):
    return collate(examples, 0)


def collate_pads_with_ignore(examples, pad_id=0):
    return collate(examples, IGNORE)


def collate_cut_to_the_shortest(examples, pad_id=0):
    ids, targets = collate(examples, pad_id)
    n = min(len(example.ids) for example in examples)
    return ids[:, :n], targets[:, :n]


def collate_first_end_only(examples, pad_id=0):
    ids, targets = collate_learns_padding(examples, pad_id)
    return ids, targets.masked_fill((targets == pad_id).cumsum(1) > 1, IGNORE)


def collate_exchanged(examples, pad_id=0):
    ids, targets = collate(examples, pad_id)
    return targets, ids


# --- 16.5 packed_targets ---


def packed_cases() -> list[Case]:
    def case(label, ids, mask, documents, dtype=torch.int64):
        return Case(label, lambda: (torch.tensor(ids), torch.tensor(mask, dtype=dtype), torch.tensor(documents)))

    def drawn(seed):
        def make():
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(1, 50, (3, 14), generator=generator)
            mask = torch.randint(2, (3, 14), generator=generator)
            documents = torch.randint(2, (3, 14), generator=generator).cumsum(1)
            return ids, mask, documents.masked_fill(documents > 6, -1)

        return make

    return [
        case("one conversation", [[5, 6, 7, 8]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]),
        case("the example", [[5, 6, 7, 8, 0]], [[0, 1, 1, 1, 0]], [[0, 0, 1, 1, -1]]),
        case("two texts that are learnt whole", [[1, 2, 3, 4, 5]], [[1, 1, 1, 1, 1]], [[0, 0, 1, 1, 1]]),
        case("texts of one token", [[1, 2, 3]], [[1, 1, 1]], [[4, 5, 6]]),
        case("two rows", [[5, 6, 7, 8], [1, 2, 3, 0]], [[0, 1, 0, 1], [0, 0, 1, 0]], [[3, 3, 7, 7], [1, 1, 1, -1]]),
        case("a mask of True and False", [[5, 6, 7, 8]], [[0, 1, 1, 0]], [[2, 2, 2, 2]], torch.bool),
        case("padding with a mask", [[5, 6, 0, 0]], [[1, 1, 1, 1]], [[0, 0, -1, -1]]),
        case("numbers of documents that fall", [[5, 6, 7, 8]], [[1, 1, 1, 1]], [[5, 5, 2, 2]]),
        case("one token in a row", [[5]], [[1]], [[0]]),
        case("ids 0 are tokens", [[0, 0, 0, 4]], [[0, 1, 1, 1]], [[0, 0, 0, 1]]),
        *(Case(f"drawn rows {seed}", drawn(seed)) for seed in (1, 2, 3)),
    ]


def packed_across(ids, assistant, documents):
    return F.pad(ids[:, 1:].masked_fill(~assistant[:, 1:].bool(), IGNORE), (0, 1), value=IGNORE)


def packed_mask_not_moved(ids, assistant, documents):
    learnt = assistant[:, :-1].bool() & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    return F.pad(ids[:, 1:].masked_fill(~learnt, IGNORE), (0, 1), value=IGNORE)


def packed_not_moved(ids, assistant, documents):
    return ids.masked_fill(~assistant.bool() | (documents < 0), IGNORE)


def packed_first_of_each_lost(ids, assistant, documents):
    targets = packed_targets(ids, assistant, documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return targets.masked_fill(first, IGNORE)


def packed_ignores_mask(ids, assistant, documents):
    return packed_targets(ids, torch.ones_like(assistant), documents)


def packed_learns_padding(ids, assistant, documents):
    learnt = assistant[:, 1:].bool() & (documents[:, 1:] == documents[:, :-1])
    return F.pad(ids[:, 1:].masked_fill(~learnt, IGNORE), (0, 1), value=IGNORE)


def packed_too_short(ids, assistant, documents):
    return packed_targets(ids, assistant, documents)[:, :-1]


def packed_last_wraps(ids, assistant, documents):
    learnt = assistant.roll(-1, 1).bool() & (documents.roll(-1, 1) == documents) & (documents >= 0)
    return ids.roll(-1, 1).masked_fill(~learnt, IGNORE)


def packed_both_masks(ids, assistant, documents):
    return packed_targets(ids, assistant, documents).masked_fill(~assistant.bool(), IGNORE)


def packed_zero(ids, assistant, documents):
    targets = packed_targets(ids, assistant, documents)
    return targets.masked_fill(targets == IGNORE, 0)


def packed_in_place(ids, assistant, documents):
    targets = packed_targets(ids, assistant, documents)
    ids.copy_(targets)
    return ids


def packed_wrong_way(ids, assistant, documents):
    learnt = assistant[:, :-1].bool() & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    return F.pad(ids[:, :-1].masked_fill(~learnt, IGNORE), (1, 0), value=IGNORE)


# --- 16.6 loss_weights ---


def weight_cases() -> list[Case]:
    def case(label, targets, *per):
        return Case(label, lambda: (torch.tensor(targets), *per))

    rows = [[7, 8, 9], [7, IGNORE, IGNORE]]
    three = [[1, 2, IGNORE, 4], [IGNORE, IGNORE, 3, 3], [IGNORE, IGNORE, 5, IGNORE]]
    return [
        case("one target", [[3]], "token"),
        case("two rows, per token", rows, "token"),
        case("two rows, per sequence: the example", rows, "sequence"),
        case("per token is what happens if nothing is said", rows),
        case("three rows, per token", three, "token"),
        case("three rows, per sequence", three, "sequence"),
        case("a row without a target, per token", [[1, 2], [IGNORE, IGNORE]], "token"),
        case("a row without a target, per sequence", [[1, 2, 3], [IGNORE] * 3, [4, IGNORE, IGNORE]], "sequence"),
        case("token 0 is a token like others", [[0, 0, IGNORE], [5, IGNORE, IGNORE]], "sequence"),
        case("equally long: both are the same", [[1, 2], [3, 4]], "sequence"),
        case("no target at all is refused", [[IGNORE, IGNORE]], "token"),
        case("no target at all is refused, per sequence", [[IGNORE, IGNORE]], "sequence"),
        case("another word is refused", rows, "document"),
    ]


def _counted(targets, per):
    if per not in ("token", "sequence") or not (targets != IGNORE).any():
        raise ValueError("weights")
    return (targets != IGNORE).float()


def weights_always_token(targets, per="token"):
    counted = _counted(targets, per)
    return counted / counted.sum()


def weights_swapped(targets, per="token"):
    _counted(targets, per)
    return loss_weights(targets, "sequence" if per == "token" else "token")


def weights_all_rows(targets, per="token"):
    counted = _counted(targets, per)
    if per == "token":
        return counted / counted.sum()
    return counted / counted.sum(1, keepdim=True).clamp(min=1) / len(counted)


def weights_all_places(targets, per="token"):
    counted = _counted(targets, per)
    return counted / (counted.numel() if per == "token" else counted.size(1) * (counted.sum(1) > 0).sum())


def weights_not_normalised(targets, per="token"):
    counted = _counted(targets, per)
    return counted if per == "token" else counted / counted.sum(1, keepdim=True).clamp(min=1)


def weights_row_sums_to_1(targets, per="token"):
    counted = _counted(targets, per)
    return loss_weights(targets) if per == "token" else counted / counted.sum(1, keepdim=True).clamp(min=1)


def weights_token_not_normalised(targets, per="token"):
    return _counted(targets, per) if per == "token" else loss_weights(targets, per)


def weights_token_all_places(targets, per="token"):
    return _counted(targets, per) / targets.numel() if per == "token" else loss_weights(targets, per)


def weights_nan(targets, per="token"):
    counted = _counted(targets, per)
    if per == "token":
        return counted / counted.sum()
    return counted / counted.sum(1, keepdim=True) / (counted.sum(1) > 0).sum()


def weights_of_padding(targets, per="token"):
    return (
        torch.ones_like(targets, dtype=torch.float32) / targets.numel() if _counted(targets, per) is not None else None
    )


def weights_zero_is_padding(targets, per="token"):
    return loss_weights(targets.masked_fill(targets == 0, IGNORE), per)


def weights_longer_counts_more(targets, per="token"):
    counted = _counted(targets, per)
    if per == "token":
        return counted / counted.sum()
    weights = counted * counted.sum(1, keepdim=True)
    return weights / weights.sum()


def weights_no_target(targets, per="token"):
    counted = (targets != IGNORE).float()
    if per not in ("token", "sequence"):
        raise ValueError(per)
    return loss_weights(targets, per) if counted.any() else counted


def weights_any_word(targets, per="token"):
    return loss_weights(targets, per if per == "token" else "sequence")


# --- 16.7 followed ---


def rule_cases() -> list[Case]:
    def case(label, reply, **rules):
        return Case(label, lambda: (reply, json.loads(json.dumps(rules))))

    return [
        case("at most three words, and three", "Mia has it.", max_words=3),
        case("at most two words, and three", "Mia has it.", max_words=2),
        case("at least three words, and three", "Mia has it.", min_words=3),
        case("at least four words, and three", "Mia has it.", min_words=4),
        case("white space parts words, nothing else does", "It's Mia's lamp-post.", max_words=3, min_words=4),
        case("the same word again is another word", "Go, Mia, go go go!", max_words=4, min_words=5),
        case("many spaces between words", "Mia   has\n it.", max_words=3, min_words=3),
        case("the right end", "The lamp. Done.", ends_with="Done."),
        case("white space behind the end", "The lamp. Done. \n", ends_with="Done."),
        case("the end in the middle", "Done. The lamp.", ends_with="Done."),
        case("a keyword", "Mia has the lamp.", keywords=["lamp"]),
        case("in capitals", "MIA has the lamp.", keywords=["Mia", "Lamp"]),
        case("one of two keywords", "Mia has the lamp.", keywords=["lamp", "key"]),
        case("a part of a word is no word", "Mia has the lamps.", keywords=["lamp"]),
        case("what is forbidden is not there", "Mia has it.", without=["lamp"]),
        case("what is forbidden is there", "Mia has the lamp.", without=["lamp", "key"]),
        case("… in capitals", "LAMP", without=["lamp"]),
        case("a part of a word is not forbidden", "Lamplight.", without=["lamp"]),
        case("no keywords at all are all there", "Mia.", keywords=[], without=[]),
        case("JSON", '{"thing": "lamp", "holder": "Mia"}', json_keys=["holder", "thing"]),
        case("a key is missing", '{"thing": "lamp"}', json_keys=["holder", "thing"]),
        case("a key too many", '{"thing": "lamp", "holder": "Mia", "place": ""}', json_keys=["holder", "thing"]),
        case("JSON with words before it", 'Here: {"thing": "lamp"}', json_keys=["thing"]),
        case("JSON that is no object", '["thing"]', json_keys=["thing"]),
        case("JSON with a white line", '\n{"thing": 1}\n', json_keys=["thing"]),
        case("an empty reply", "", max_words=3, min_words=1, ends_with=".", keywords=["a"], without=["a"], json_keys=[]),
        case("the order of the rules is kept", "Mia has it. Done.", without=["lamp"], ends_with="Done.", max_words=3),
        case("no rules", "Mia."),
        case("an unknown rule is refused", "Mia.", in_capitals=True),
    ]  # fmt: skip


def _changed(**changes):
    """`followed` with some checks done otherwise: rule -> function of (reply, value)."""

    def wrong(reply, rules):
        found = followed(reply, rules)
        return {rule: changes[rule](reply, rules[rule]) if rule in changes else kept for rule, kept in found.items()}

    return wrong


def _keys(reply):
    try:
        value = json.loads(reply)
    except json.JSONDecodeError:
        return None
    return set(value) if isinstance(value, dict) else None


def _keys_of_a_list(reply, keys):
    try:
        return set(json.loads(reply)) == set(keys)
    except json.JSONDecodeError:
        return False


def followed_all_or_nothing(reply, rules):
    return all(followed(reply, rules).values())


def followed_list(reply, rules):
    return list(followed(reply, rules).values())


def followed_sorted(reply, rules):
    return dict(sorted(followed(reply, rules).items(), reverse=True))


def followed_ignores_unknown(reply, rules):
    known = ("max_words", "min_words", "ends_with", "keywords", "without", "json_keys")
    return followed(reply, {rule: value for rule, value in rules.items() if rule in known})


def followed_unknown_is_broken(reply, rules):
    return {
        rule: followed(reply, {rule: value})[rule] if rule != "in_capitals" else False for rule, value in rules.items()
    }


EXERCISES = (
    Exercise(
        number="16.1",
        name="assistant_targets",
        reference="llmkit.finetuning.masks:assistant_targets",
        cases=target_cases,
        tolerance=0.0,
        hints=(
            "At place t the model guesses the token at t + 1. Whose mask decides whether that guess is learnt?",
            "ids[1:] and mask[1:] belong together; there is one target less than ids, until something is put at the end.",
            "With no ids at all there is nothing to put at the end either.",
        ),
        wrong={
            "the ids stand under themselves: a model that may read the answer has nothing to guess": targets_not_moved,
            "the token was moved, the mask was not: look at the mask of the token that is guessed": targets_mask_not_moved,
            "moved by two: one place is all that is between a token and the next": targets_moved_twice,
            "moved the other way: each place has the token *before* it as its target": targets_backwards,
            "the mask is upside down: that learns what the user says": targets_of_the_user,
            "the mask was not used: that learns the prompt too": targets_of_everything,
            "one target too few: the last place has one too, -100": targets_too_short,
            "places that are not learnt get -100; 0 is a token": targets_zero,
            "the first token of each answer is lost: it is guessed from a token of the prompt": targets_both,
            "the end of turn was left out, so the model would never learn to stop": targets_without_end,
            "the last place wraps around to the first token; nothing comes after it": targets_wrap,
            "ids and mask of different lengths: raise a ValueError": targets_any_length,
            "without any ids there is no place that could have a target: an empty list": targets_of_no_ids,
        },
    ),
    Exercise(
        number="16.2",
        name="mask_after_header",
        reference="llmkit.finetuning.masks:mask_after_header",
        cases=header_cases,
        tolerance=0.0,
        hints=(
            "Walk through the ids with an index. At each place: does a header begin here? ids[at : at + len(header)] tells.",
            "Behind a header, mark ids until the end has been marked, or until there are no more; then look for headers again.",
            "Where the walk goes on is behind the end, not behind the header: so a header inside an answer is never seen.",
        ),
        wrong={
            "the end of turn is the assistant's: without it the model never learns to stop": header_without_end,
            "only the first answer is marked; every answer of the conversation is": header_first_answer_only,
            "the header is not the assistant's words: it stands there before the model begins to write": header_counted,
            "only the last answer is marked; every answer of the conversation is": header_last_answer_only,
            "from the header to the end of the text: the user's next words are in it": header_to_the_end,
            "the ends of the user's turns are not the assistant's": header_all_ends,
            "one id of the header is not a header: all of them, in this order": header_any_of_its_ids,
            "an answer that is cut off still is the assistant's as far as it goes": header_drops_what_is_cut_off,
            "a header inside an answer is text of the answer": header_inside_answers,
            "an empty header raises a ValueError": header_empty_is_nothing,
        },
    ),
    Exercise(
        number="16.3",
        name="n_stopped",
        reference=n_stopped,
        tolerance=0.0,
        hints=(
            "Which of the two models ever had the end of turn as a target?",
            "The softmax divides everything among all tokens. What does training do to one that is never right?",
        ),
        wrong={
            "it reads that token at the end of each of the user's turns, but reading is not writing": lambda: 100,
            "why half? Ask how often the token was a target": lambda: 50,
            "that is the share of one token among all; training does not leave it there": lambda: 1,
        },
    ),
    Exercise(
        number="16.4",
        name="collate",
        reference="llmkit.finetuning.sft:collate",
        cases=collate_cases,
        starts_from=collate_masks_the_pad_id,
        tolerance=0.0,
        hints=(
            "Which tokens does targets == pad_id find, when pad_id is the end of turn?",
            "What is padding is known before anything is padded: from how long each conversation is.",
            "Fill the targets with -100 from the start, and there is nothing to mask afterwards.",
        ),
        wrong={
            "real targets that equal pad_id became -100: with pad_id the end of turn the model never learns to stop": (
                collate_masks_the_pad_id
            ),
            "targets were taken away wherever the *id* equals pad_id; such a token may be text": (
                collate_masks_where_ids_are_padding
            ),
            "padding is learnt: behind the end its targets must be -100": collate_learns_padding,
            "padded on the left; the filling goes to the right": collate_on_the_left,
            "the ids are filled with pad_id, which need not be 0": collate_always_zero,
            "-100 is for targets; the ids are filled with pad_id, or the embedding fails": collate_pads_with_ignore,
            "cut to the shortest; all are filled up to the longest": collate_cut_to_the_shortest,
            "the first padded place became a target: it teaches an end that is not there": collate_first_end_only,
            "ids first, then targets": collate_exchanged,
        },
    ),
    Exercise(
        number="16.5",
        name="packed_targets",
        reference="llmkit.finetuning.masks:packed_targets",
        cases=packed_cases,
        tolerance=0.0,
        hints=(
            "The target at t is ids[:, t + 1], if three things hold of the place t + 1. Which?",
            "documents[:, 1:] == documents[:, :-1] tells where a token and the next are of one document. Padding equals padding.",
            "That gives (N, T - 1); F.pad(x, (0, 1), value=…) adds a column on the right.",
        ),
        wrong={
            "the last token of a document has the first of the next one as its target: another text": packed_across,
            "the mask of the *next* token decides; here the mask was not moved": packed_mask_not_moved,
            "the target is the next token, not the token itself": packed_not_moved,
            "the first place of each document lost its target; only the last place of each has none": packed_first_of_each_lost,
            "the mask was not used: only the assistant's tokens are learnt": packed_ignores_mask,
            "padding equals padding: documents of -1 are learnt": packed_learns_padding,
            "one column too few: the last place has -100": packed_too_short,
            "the last place wraps around to the first of the row": packed_last_wraps,
            "the first token of each answer is lost: it is guessed from a token of the prompt": packed_both_masks,
            "places that are not learnt get -100; 0 is a token": packed_zero,
            "the ids were changed in place; the model still needs them": packed_in_place,
            "moved the other way: each place has the token *before* it as its target": packed_wrong_way,
        },
    ),
    Exercise(
        number="16.6",
        name="loss_weights",
        reference="llmkit.finetuning.masks:loss_weights",
        cases=weight_cases,
        tolerance=1e-6,
        hints=(
            "counted = (targets != -100).float() is what both have in common.",
            "Per sequence: each row's weights sum to the same, and all together to 1. How many rows are there to share it?",
            "A row without any target divides 0 by 0: clamp the divisor, and leave that row out of the number of rows.",
        ),
        wrong={
            "per sequence each conversation counts alike, however long; here each token does": weights_always_token,
            "the two are exchanged": weights_swapped,
            "a row without a target was counted as a conversation, so the weights do not sum to 1": weights_all_rows,
            "divided by all places; padding and prompts do not count": weights_all_places,
            "the weights must sum to 1 over the whole batch": weights_not_normalised,
            "per sequence the weights of each row sum to 1 here; those of the whole batch must": weights_row_sums_to_1,
            "per token the weights are all 1 here; they must sum to 1": weights_token_not_normalised,
            "per token: divided by all places, but only places with a target count": weights_token_all_places,
            "0 / 0 in a row without a target": weights_nan,
            "padding got a weight": weights_of_padding,
            "token 0 is a token like others; only -100 is not counted": weights_zero_is_padding,
            "per sequence a target counts the *less*, the longer its answer": weights_longer_counts_more,
            "no target at all: raise a ValueError": weights_no_target,
            "per is 'token' or 'sequence'; another word raises a ValueError": weights_any_word,
        },
    ),
    Exercise(
        number="16.7",
        name="followed",
        reference="llmkit.evaluation.instructions:followed",
        cases=rule_cases,
        tolerance=0.0,
        hints=(
            "A dictionary from a rule's name to a function of its value makes the loop one line, and unknown rules easy to find.",
            'Whole words: set(re.findall(r"\\w+", reply.lower())), then `in`.',
            "json.loads raises json.JSONDecodeError for what is no JSON; what it gives may be a list or a number.",
        ),
        wrong={
            "each rule is judged alone; here the verdicts were joined into one": followed_all_or_nothing,
            "a dictionary is wanted, rule -> True or False": followed_list,
            "an unknown rule was passed over; raise a ValueError, or a misspelt rule is never broken": followed_ignores_unknown,
            "an unknown rule is no broken rule: raise a ValueError": followed_unknown_is_broken,
            "max_words: that many words are still allowed": _changed(max_words=lambda r, n: len(r.split()) < n),
            "min_words: that many words are enough": _changed(min_words=lambda r, n: len(r.split()) > n),
            "words are parted by any white space, and many spaces are one": _changed(
                max_words=lambda r, n: len(r.split(" ")) <= n, min_words=lambda r, n: len(r.split(" ")) >= n
            ),
            'only white space parts words: "Mia\'s" is one word': _changed(
                max_words=lambda r, n: len(re.findall(r"\w+", r)) <= n,
                min_words=lambda r, n: len(re.findall(r"\w+", r)) >= n,
            ),
            "the same word twice is two words: a set counts it once": _changed(
                max_words=lambda r, n: len(set(r.split())) <= n, min_words=lambda r, n: len(set(r.split())) >= n
            ),
            "split() leaves the dot on the word: find whole words with re.findall": _changed(
                keywords=lambda r, words: {w.lower() for w in words} <= set(r.lower().split()),
                without=lambda r, words: not {w.lower() for w in words} & set(r.lower().split()),
            ),
            "one of the words in `without` is enough to break the rule": _changed(
                without=lambda r, words: not {w.lower() for w in words} <= set(re.findall(r"\w+", r.lower()))
            ),
            "a JSON list is no JSON object, whatever is in it": _changed(json_keys=_keys_of_a_list),
            "white space at the end does not count": _changed(ends_with=lambda r, end: r.endswith(end)),
            "it must stand at the end, not anywhere": _changed(ends_with=lambda r, end: end in r),
            "a word inside another word is not that word": _changed(
                keywords=lambda r, words: all(w.lower() in r.lower() for w in words),
                without=lambda r, words: not any(w.lower() in r.lower() for w in words),
            ),
            "capitals do not matter for keywords": _changed(
                keywords=lambda r, words: all(w in r.replace(".", " ").split() for w in words)
            ),
            "every keyword has to be there, not one of them": _changed(
                keywords=lambda r, words: (
                    not words or any(w.lower() in r.lower().replace(".", " ").split() for w in words)
                )
            ),
            "exactly these keys: one too many breaks the rule": _changed(
                json_keys=lambda r, keys: (found := _keys(r)) is not None and found >= set(keys)
            ),
            "exactly these keys: one is missing": _changed(
                json_keys=lambda r, keys: (found := _keys(r)) is not None and found <= set(keys)
            ),
        },
    ),
)
