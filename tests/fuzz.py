"""Strings that break tokenizers, made from a seed."""

import random

_SNIPPETS = [
    "", " ", "  ", "\n", "\r\n", "\t", "\x00", "\u00a0", "\u2028", "\u3000", "\ufeff", "\u200b", "\u200d",
    "Hello, world!", "don't", "DON'T", "we'll've", "I\u2019m", "  leading", "trailing  ", "a  b   c", "1234567", "3.14159",
    "1,000,000", "x=1;y=2", "def f(x):\n    return x**2\n", "if (a&&b){c++;}", "<|endoftext|>", "<|im_start|>user", "</s>", "[UNK]",
    "[CLS]", "<unk>", "<0x0A>", "##ing", "\u2581", "\u0120the", "e\u0301", "\u00e9", "a\u0300\u0301\u0302", "\ufb01ne", "\u2460\u2461", "\uff21\uff22\uff23",
    "\u0391\u03a3", "\u0130stanbul", "\u1e9e", "Stra\u00dfe", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u4f60\u597d\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f",
    "\uc548\ub155", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U00020000", "\U0001d518",
    "\u202eabc", "\u00ad", "\u0001", "\u001f", "\x7f", "\x85", "\ufffd", "\ufffe", "\ue000", "...", "!?!?", "--", "\u2014", "'s", "'S", "'",
]  # fmt: skip


def nasty_strings(n: int, seed: int = 0) -> list[str]:
    """n strings: snippets glued together, runs of one kind, and characters of every Unicode plane (no surrogates)."""
    rng = random.Random(seed)
    strings = dict.fromkeys(_SNIPPETS[:n])
    long = ["x" * 3000, " " * 500, "\n" * 300, "ab" * 2000, "1" * 400, "猫坐" * 300, "a\u0301" * 200, "=-" * 300]
    strings |= dict.fromkeys(long[: max(0, n - len(strings))])
    while len(strings) < n:
        kind = rng.random()
        if kind < 0.5:
            glue = rng.choice(["", "", " ", "\n"])
            strings[glue.join(rng.choice(_SNIPPETS) for _ in range(rng.randrange(1, 8)))] = None
        elif kind < 0.7:
            alphabet = rng.choice(
                ["ab ", "aA1.", " \n\t", "01", "\u00e9e\u0301", "\u4e00\u4e01 ", "'st ", "()[]{}", "-=+*/"]
            )
            strings["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 30)))] = None
        else:
            strings["".join(_character(rng) for _ in range(rng.randrange(1, 12)))] = None
    return list(strings)


def _character(rng: random.Random) -> str:
    ceiling = rng.choice([0x80, 0x250, 0x600, 0x3000, 0x10000, 0x20000, 0x110000])
    while 0xD800 <= (code := rng.randrange(ceiling)) < 0xE000:
        pass
    return chr(code)
