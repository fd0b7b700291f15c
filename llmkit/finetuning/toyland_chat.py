"""What lesson 16 and benchmarks/results/instructions.py share: texts for a base model, its tokenizer, its training."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from llmkit.data.batches import document_batches
from llmkit.data.packing import Packed
from llmkit.data.toyland.instructions import Instruction, held_out, instructions
from llmkit.data.toyland.language import Sentence, sentences
from llmkit.data.toyland.lexicon import ANIMALS, FOODS, PLACES
from llmkit.data.toyland.reviews import REVIEWS
from llmkit.data.toyland.scenes import count_scene, scene
from llmkit.data.toyland.stories import VILLAGE
from llmkit.finetuning.sft import Encoded, conversation_batches, packed_batches, sft_loss
from llmkit.layers.heads import CausalLM
from llmkit.models.llama import LlamaConfig, llama
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.training.loop import History, train
from llmkit.training.muon import Muon

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)


def plain_texts(n: int, seed: int = 0) -> list[str]:
    """n texts without any instruction: scenes, counts, reviews, sentences with their translation, lists that are
    said twice.

    None is one that the held-out instructions are about.
    """
    rng, found = random.Random(f"plain {seed}"), []
    english = sentences(rng.getrandbits(40))
    words = [*FOODS, *ANIMALS, *PLACES[:20]]
    kinds = (
        lambda: scene(rng).text, lambda: scene(rng).text, lambda: count_scene(rng).text,
        lambda: REVIEWS.sample(rng).text, lambda: _both(next(english)), lambda: _both(next(english)),
        lambda: "\n".join([", ".join(rng.sample(words, rng.randint(2, 6)))] * 2),
    )  # fmt: skip
    while len(found) < n:
        text = kinds[len(found) % len(kinds)]()
        if not held_out(text.partition("\n")[0]):
            found.append(text)
    return found


def _both(sentence: Sentence) -> str:
    return f"{sentence.english()}\n{sentence.tolk()}"


def chat_tokenizer(vocab_size: int = 3072, seed: int = 0) -> ByteLevelBPE:
    """Byte-level BPE in which nearly every word of toyland is one token, with ChatML's control tokens.

    Words that can begin an answer are shown to it without a space too: else "Mia" is cut, though " Mia" is not.
    """
    pools = VILLAGE.pools
    alone = [*pools["girls"].words, *pools["boys"].words, *pools["things"].words, *FOODS, *ANIMALS, *PLACES]
    taught = [m["content"] for item in instructions(2600, seed) for m in item.conversation]
    return ByteLevelBPE.train([*plain_texts(3000, seed), *taught, *alone * 20], vocab_size, special_tokens=SPECIAL)


def base_model(tokenizer: ByteLevelBPE, d_model: int = 96, n_layers: int = 4, seed: int = 0) -> CausalLM:
    """A small LLaMA with fresh weights, for texts of up to 256 tokens.

    Its embeddings begin at a scale of 0.5, not 0.02: with few steps it learns to copy words much sooner.
    """
    torch.manual_seed(seed)
    d_ff = 3 * d_model
    model = llama(LlamaConfig(tokenizer.vocab_size, d_model, n_layers, max(1, d_model // 32), d_ff=d_ff, max_len=256))
    torch.nn.init.normal_(model.transformer.embed.tokens.weight, std=0.5)
    return model


def pretrain(model: CausalLM, tokenizer: ByteLevelBPE, texts: Sequence[str], n_steps: int, batch_size: int = 64,
             lr: float = 0.02, seed: int = 0) -> History:  # fmt: skip
    """Next-token training on plain texts, each between two <|endoftext|>."""
    end = [tokenizer.special_tokens[END_OF_TEXT]]
    documents = [end + tokenizer.encode(text) + end for text in texts]
    batches = document_batches(documents, batch_size, seed)
    return train(model, batches, n_steps, lr, optimizer=Muon(model, lr, adamw_lr=lr * 1.5), progress=False)


def fine_tune(model: CausalLM, examples: Sequence[Encoded] | Packed, n_steps: int, batch_size: int = 64,
              lr: float = 0.02, seed: int = 0, **options) -> History:  # fmt: skip
    """SFT in place, with Muon, on batches of conversations or of packed rows; `options` are training.loop.train's."""
    batches = (packed_batches if isinstance(examples, Packed) else conversation_batches)(examples, batch_size, seed)
    optimizer = Muon(model, lr, adamw_lr=lr * 1.5)
    return train(model, batches, n_steps, lr, loss=sft_loss, optimizer=optimizer, progress=False, **options)


class Small(NamedTuple):
    """What lesson 16 trains live: a tokenizer, a base model that goes on with lists, and instructions about them."""

    tokenizer: ByteLevelBPE
    base: CausalLM
    taught: list[Instruction]


def small_setting(n: int = 6000, n_steps: int = 100, seed: int = 0) -> Small:
    """Two families only, a vocabulary of 1024 and a model of 190,000 parameters: some seconds on one core.

    The base model reads lists of words, each twice, and none that a held-out instruction is about.
    """
    taught = instructions(n, seed, families=("reverse", "list"))
    texts = [f"{m['role']}\n{m['content']}" for item in taught[:4000] for m in item.conversation] + ["system\n"] * 100
    tokenizer = ByteLevelBPE.train(texts, 1024, special_tokens=SPECIAL)
    base = base_model(tokenizer, d_model=64, n_layers=2, seed=seed)
    pretrain(base, tokenizer, [f"{item.content}\n{item.content}" for item in taught], n_steps, 32, seed=seed)
    return Small(tokenizer, base, taught)
