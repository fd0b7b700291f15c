"""How much of everything: the whole run, and one so small that a test walks it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes of all stages; the defaults are what `make capstone` runs."""

    seed: int = 0
    context: int = 144  # tokens of a packed row; the longest instruction has 133
    batch: int = 24  # rows a step

    vocab_size: int = 3072
    d_model: int = 160
    n_layers: int = 4
    texts: int = 34_000
    pretrain_steps: int = 300
    held_out: int = 700  # texts; four of seven kinds have an exact entropy
    ngram: int = 4  # the control's order

    stories: int = 8_000  # of the domain
    replay: float = 0.2  # texts of before, as a share of the stories
    domain_steps: int = 150
    rank: int = 8

    instructions: int = 46_000
    story_examples: int = 4_000  # of the domain, shown again in SFT
    sft_steps: int = 940
    tests: int = 20  # of each family and split

    pairs: int = 2_000
    test_pairs: int = 300
    reward_steps: int = 130
    dpo_steps: int = 63  # of 32 pairs, drawn with replacement: about as many draws as there are pairs
    answers: int = 256  # to as many openings that no training saw

    openings: int = 2000  # that PPO asks about
    ppo_steps: int = 50
    ppo_answers: int = 48

    new_tokens: int = 128  # for the speed
    greedy_prompts: int = 26


TINY = Plan(
    batch=8, vocab_size=512, d_model=32, n_layers=1, texts=300, pretrain_steps=6, held_out=28, ngram=2, stories=80,
    domain_steps=4, rank=2, instructions=400, story_examples=40, sft_steps=6, tests=1, pairs=12, test_pairs=8,
    reward_steps=3, dpo_steps=3, answers=8, openings=20, ppo_steps=2, ppo_answers=4, new_tokens=8, greedy_prompts=2,
)  # fmt: skip
