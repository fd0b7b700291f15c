"""Masked language modelling: hide some tokens, ask for them. And labels for words that become several tokens."""

import zlib
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from llmkit.data.batches import document_batches
from llmkit.tokenizers.base import Tokenizer
from llmkit.training.losses import IGNORE


def mask_tokens(
    ids: Tensor,
    mask_id: int,
    vocab_size: int,
    special: Tensor,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    words: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """BERT's corruption: choose `rate` of the tokens; 80% of them become [MASK], 10% a random token, 10% stay.

    ids           (B, T), not changed
    special       (B, T) true where nothing may be chosen: [CLS], [SEP], padding
    words         (B, T) number of the word that each token belongs to: then whole words are chosen, by a draw for
                  the first token of each (rate is a share of words). Tokens of one word stand side by side.
    generator     give one per epoch's batch for dynamic masking, or the same one again for static masking
    result        (inputs (B, T), labels (B, T)): labels hold the right token where one was chosen, else -100

    Draws, in this order: which tokens are chosen, which of them become [MASK], which of the rest become random, what
    they become. Bit for bit transformers' `DataCollatorForLanguageModeling` with the same generator.
    Source: Devlin et al. 2018, section 3.1; whole words: BERT's README of May 2019.
    """
    if ids.shape != special.shape:
        raise ValueError(f"special must have the shape of ids, {tuple(ids.shape)}, got {tuple(special.shape)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a share between 0 and 1, got {rate}")
    if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
        raise ValueError(f"mask_share and random_share are shares of at most 1, got {mask_share}, {random_share}")
    if words is not None and words.shape != ids.shape:
        raise ValueError(f"words {tuple(words.shape)} must number each of the ids {tuple(ids.shape)}")
    fixed = special.bool()
    if words is not None:
        fixed = fixed | ~_first_of_word(words, fixed)
    chosen = _draw(torch.full(ids.shape, rate).masked_fill(fixed, 0.0), generator)
    if words is not None:
        chosen = _whole_words(chosen, words, special.bool())
    inputs = replace_chosen(ids, chosen, mask_id, vocab_size, generator, mask_share, random_share)
    return inputs, ids.masked_fill(~chosen, IGNORE)


def replace_chosen(
    ids: Tensor,
    chosen: Tensor,
    mask_id: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> Tensor:
    """What an encoder gets to see: of the chosen tokens 80% become [MASK], 10% a random token, 10% stay as they are.

    ids           (B, T), not changed
    chosen        (B, T) bool: the tokens that will be asked for
    result        (B, T)

    Three draws, each of the shape of ids, with the generator: torch.bernoulli of mask_share, which tokens become
    [MASK]; torch.bernoulli once more, which of the chosen rest become random, so that they are random_share of all
    chosen; torch.randint below vocab_size, what they become. Where nothing can become random (mask_share is 1, or
    random_share 0) only the first is drawn. Source: Devlin et al. 2018, section 3.1.

    >>> ids = torch.tensor([[5, 6, 7]])
    >>> replace_chosen(ids, torch.tensor([[False, True, False]]), mask_id=3, vocab_size=9, mask_share=1.0)
    tensor([[5, 3, 7]])
    """
    inputs = ids.clone()
    masked = _draw(torch.full(ids.shape, mask_share), generator) & chosen
    inputs[masked] = mask_id
    if mask_share == 1 or random_share == 0:
        return inputs
    of_the_rest = random_share / (1 - mask_share)
    replaced = _draw(torch.full(ids.shape, of_the_rest), generator) & chosen & ~masked
    random_ids = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs[replaced] = random_ids[replaced]
    return inputs


def _draw(probability: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.bernoulli(probability, generator=generator).bool()


def _first_of_word(words: Tensor, special: Tensor) -> Tensor:
    first = torch.ones_like(special)
    first[:, 1:] = (words[:, 1:] != words[:, :-1]) | special[:, :-1]
    return first


def _whole_words(chosen: Tensor, words: Tensor, special: Tensor) -> Tensor:
    """A word whose first token was chosen is chosen whole."""
    if not words.numel():
        return chosen
    number = _first_of_word(words, special).cumsum(-1)  # (B, T) counts words, also those of equal `words` far apart
    heads = torch.zeros(len(chosen), int(number.max()) + 1, dtype=torch.bool)  # (B, n words + 1)
    rows, columns = chosen.nonzero(as_tuple=True)
    heads[rows, number[rows, columns]] = True
    return heads.gather(1, number) & ~special


def masked_batches(
    documents: Sequence[Sequence[int]],
    batch_size: int,
    mask_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    seed: int = 0,
    rate: float = 0.15,
    static: bool = False,
    pad_id: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (inputs, attention_mask, labels) for a masked language model.

    special_ids   ids that are never chosen, such as [CLS] and [SEP]; padding is not chosen in any case
    static        False (RoBERTa): every epoch hides other tokens; True (BERT): each text is hidden once and for all
    """
    generator = torch.Generator().manual_seed(seed)
    special_ids = torch.tensor(sorted(special_ids), dtype=torch.long)
    for ids, mask in document_batches(documents, batch_size, seed, pad_id=pad_id):
        special = ~mask | torch.isin(ids, special_ids)
        if static:
            rows = [_masked_once(row, s, mask_id, vocab_size, rate) for row, s in zip(ids, special, strict=True)]
            yield torch.stack([inputs for inputs, _ in rows]), mask, torch.stack([labels for _, labels in rows])
        else:
            inputs, labels = mask_tokens(ids, mask_id, vocab_size, special, rate, generator)
            yield inputs, mask, labels


def _masked_once(ids: Tensor, special: Tensor, mask_id: int, vocab_size: int, rate: float) -> tuple[Tensor, Tensor]:
    """The text itself seeds the draws, so that the same text is always masked alike, whatever its padding."""
    n = int((~special).nonzero().max()) + 1 if not special.all() else 0
    generator = torch.Generator().manual_seed(zlib.crc32(ids[:n].numpy().tobytes()))
    inputs, labels = ids.clone(), torch.full_like(ids, IGNORE)
    drawn = mask_tokens(ids[None, :n], mask_id, vocab_size, special[None, :n], rate, generator)
    inputs[:n], labels[:n] = drawn[0][0], drawn[1][0]
    return inputs, labels


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Ids of words, and for each id the number of its word: what labels for words need.

    Each word is encoded alone. A tokenizer whose words begin with a space (GPT-2's, RoBERTa's) has to be given words
    with that space, else it makes other tokens than those of the text.

    Raises ValueError for a word that becomes no token at all: its label would be lost.
    """
    ids: list[int] = []
    numbers: list[int] = []
    for i, word in enumerate(words):
        pieces = tokenizer.encode(word)
        if not pieces:
            raise ValueError(f"the tokenizer makes no token of word {i}, {word!r}")
        ids += pieces
        numbers += [i] * len(pieces)
    return ids, numbers


def align_labels(labels: Sequence[int], words: Sequence[int | None]) -> list[int]:
    """Labels of words -> labels of tokens: a word's first token has its label, all others -100.

    words   for each token the number of its word, None for [CLS], [SEP] and padding

    Raises ValueError for a token of a word that has no label.

    >>> align_labels([7, 8], [None, 0, 0, 1, None])
    [-100, 7, -100, 8, -100]
    """
    aligned, before = [], None
    for word in words:
        if word is not None and not 0 <= word < len(labels):
            raise ValueError(f"a token belongs to word {word}, but there are labels for {len(labels)} words")
        aligned.append(IGNORE if word is None or word == before else labels[word])
        before = word
    return aligned
