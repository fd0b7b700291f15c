"""A weighted automaton with memory: a source of text whose probabilities are exactly known.

A document is written by expanding templates (template.py). The state is the memory together with what is still to be
written, and every choice has a known probability. So the same object can write documents (`sample`), say how probable
a document is (`log_prob`, the forward algorithm over all derivations that fit) and give the exact distribution of the
next word (`next_word`).
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llmkit.data.toyland.template import Alternative, Choose, Expand, Memory, Rule, Text, compile_template
from llmkit.data.toyland.words import Pool, split, tokens_of, written

END = "<end>"  # the key of "the document ends here" in next_word's answer; never part of a text


class Step(NamedTuple):
    """One line of a document's record: which alternative of a rule was taken, where, and what was known then."""

    rule: str
    template: str
    token: int  # index of the first token that came after
    memory: Memory


@dataclass(frozen=True)
class Document:
    """A sampled document. log_prob is the derivation's; the text may have others, so its own is at least that."""

    text: str
    log_prob: float
    trace: tuple[Step, ...]


class World:
    """A source of documents: rules and pools by name, beginning with the rule `start`.

    Raises ValueError for a template that names no rule, no pool, or a key that memory does not hold when it is used.
    """

    def __init__(self, rules: dict[str, Rule], pools: dict[str, Pool], start: str = "start"):
        self.rules, self.pools = rules, pools
        self._start = (Expand(start, ""), None)
        self._compiled: dict[tuple[str, str], tuple] = {}

    def _compile(self, template: str, space: str) -> tuple:
        key = (template, space)
        if key not in self._compiled:
            self._compiled[key] = compile_template(template, space)
            for item in self._compiled[key]:
                if isinstance(item, Expand) and item.rule not in self.rules:
                    raise ValueError(f"no rule is called {item.rule!r} in the template {template!r}")
                if isinstance(item, Choose) and item.pool not in self.pools:
                    raise ValueError(f"no pool is called {item.pool!r} in the template {template!r}")
        return self._compiled[key]

    def _alternatives(self, item: Expand, memory: Memory) -> tuple[list[Alternative], float]:
        alternatives = self.rules[item.rule](memory)
        total = math.fsum(a[0] for a in alternatives)
        if total <= 0:
            raise ValueError(f"the rule {item.rule!r} has no alternative for {dict(memory)}")
        return alternatives, total

    def _take(self, item: Expand, alternative: Alternative, memory: Memory, pending) -> tuple:
        """Memory and pending after an alternative was chosen."""
        if len(alternative) > 2:
            memory = memory.changed(alternative[2])
        for part in reversed(self._compile(alternative[1], item.space)):
            pending = (part, pending)
        return memory, pending

    def _choices(self, item: Choose, memory: Memory) -> tuple[Pool, set[str], float]:
        """The pool, the words left out, and what their absence multiplies the others' probabilities by."""
        pool = self.pools[item.pool]
        out = {memory[key] for key in item.but if memory[key] in pool.probs}
        return pool, out, 1 / (1 - math.fsum(pool.probs[word] for word in out)) if out else 1.0

    # --- writing ---

    def sample(self, rng: random.Random) -> Document:
        """Write one document."""
        memory, pending, pieces, trace = Memory(), self._start, [], []
        log_prob, n_tokens = 0.0, 0
        while pending:
            item, pending = pending
            if isinstance(item, Text):
                pieces.append(item.render(memory))
                n_tokens += len(tokens_of(pieces[-1]))
            elif isinstance(item, Choose):
                pool, out, scale = self._choices(item, memory)
                word = pool.draw(rng)
                while word in out:
                    word = pool.draw(rng)
                log_prob += math.log(pool.probs[word] * scale)
                memory = memory.changed({item.key: word})
                pieces.append(written(word, item.style))
                n_tokens += len(tokens_of(pieces[-1]))
            else:
                alternatives, total = self._alternatives(item, memory)
                u = rng.random() * total
                for alternative in alternatives:
                    u -= alternative[0]
                    if u < 0:
                        break
                log_prob += math.log(alternative[0] / total)
                memory, pending = self._take(item, alternative, memory, pending)
                trace.append(Step(item.rule, alternative[1], n_tokens, memory))
        return Document("".join(pieces), log_prob, tuple(trace))

    # --- reading: the forward algorithm ---

    def _begin(self) -> dict:
        return {(): [(1.0, Memory(), self._start)]}

    def _advance(self, waiting: dict, token: str) -> dict:
        """Hypotheses after one more token.

        `waiting` maps the tokens that are already decided on to hypotheses (probability, memory, pending): those
        with () must choose what to write next.
        """
        after: dict[tuple, list] = {}
        for rest, hypotheses in waiting.items():
            if rest and rest[0] == token:
                after.setdefault(rest[1:], []).extend(hypotheses)
        for p, memory, pending, tokens in self._emissions(waiting.get((), []), token):
            after.setdefault(tokens[1:], []).append((p, memory, pending))
        return {rest: _merged(hypotheses) for rest, hypotheses in after.items()}

    def _emissions(self, hypotheses: list, token: str | None) -> Iterator[tuple]:
        """Expand until something is written; with a token, only what begins with it. Ends have tokens ()."""
        stack = list(hypotheses)
        while stack:
            p, memory, pending = stack.pop()
            if pending is None:
                if token is None:
                    yield p, memory, None, ()
                continue
            item, pending = pending
            if isinstance(item, Text):
                tokens = tokens_of(item.render(memory))
                if token is None or tokens[0] == token:
                    yield p, memory, pending, tokens
            elif isinstance(item, Choose):
                pool, out, scale = self._choices(item, memory)
                words = pool.words if token is None else pool.by_first_token(item.style).get(token, ())
                for word in words:
                    if word not in out:
                        q = p * pool.probs[word] * scale
                        yield q, memory.changed({item.key: word}), pending, tokens_of(written(word, item.style))
            else:
                alternatives, total = self._alternatives(item, memory)
                for alternative in alternatives:
                    items = self._compile(alternative[1], item.space)
                    first = items[0].first if items and isinstance(items[0], Text) else None
                    if token is None or first is None or first == token:
                        taken = self._take(item, alternative, memory, pending)
                        stack.append((p * alternative[0] / total, *taken))

    def _end_probability(self, waiting: dict) -> float:
        return math.fsum(e[0] for e in self._emissions(waiting.get((), []), None) if e[3] == ())

    def word_log_probs(self, text: str) -> list[float]:
        """log P (nats) of each token given all before it, and of the end: what a perfect model would say.

        They sum to log_prob(text). From the first token that the world cannot write there, all are -inf.
        """
        logs: list[float] = []
        waiting = self._begin()
        for token in split(text):
            waiting = self._advance(waiting, token)
            total = _total(waiting)
            if total == 0:
                break
            logs.append(math.log(total))
            waiting = _scaled(waiting, 1 / total)  # so that probabilities do not underflow in long texts
        end = self._end_probability(waiting)
        logs += [-math.inf] * (len(split(text)) - len(logs))
        return [*logs, math.log(end) if end > 0 and math.isfinite(sum(logs)) else -math.inf]

    def log_prob(self, text: str) -> float:
        """Exact log-probability (nats) of a whole document; -inf for one that the world cannot write."""
        return math.fsum(logs) if math.isfinite(sum(logs := self.word_log_probs(text))) else -math.inf

    def next_word(self, prefix: str = "") -> dict[str, float]:
        """Exact distribution of the token after a document's beginning, most probable first; END for its end.

        Raises ValueError with the place where the prefix leaves the world.
        """
        waiting, tokens = self._begin(), split(prefix)
        for i, token in enumerate(tokens):
            waiting = self._advance(waiting, token)
            total = _total(waiting)
            if total == 0:
                before = "".join(tokens[max(0, i - 8) : i])
                raise ValueError(f"no document of this world goes on with {token!r} (token {i}) after {before!r}")
            waiting = _scaled(waiting, 1 / total)
        probs: dict[str, float] = {}
        for rest, hypotheses in waiting.items():
            if rest:
                probs[rest[0]] = probs.get(rest[0], 0.0) + math.fsum(h[0] for h in hypotheses)
        for p, _, _, written_tokens in self._emissions(waiting.get((), []), None):
            token = written_tokens[0] if written_tokens else END
            probs[token] = probs.get(token, 0.0) + p
        return dict(sorted(probs.items(), key=lambda item: (-item[1], item[0])))

    def documents(self) -> Iterator[tuple[str, float]]:
        """Every derivation of a small world as (text, probability); the texts may repeat. Never ends in a big one."""
        stack = [("", 1.0, Memory(), self._start)]
        while stack:
            text, p, memory, pending = stack.pop()
            for q, after, rest, tokens in self._emissions([(p, memory, pending)], None):
                if tokens == ():
                    yield text, q
                else:
                    stack.append((text + "".join(tokens), q, after, rest))


def _merged(hypotheses: list) -> list:
    """Add up hypotheses that are in the same state, or their number could grow without end."""
    if len(hypotheses) < 2:
        return hypotheses
    merged: dict[tuple, list] = {}
    for p, memory, pending in hypotheses:
        entry = merged.setdefault((frozenset(memory.items()), pending), [0.0, memory, pending])
        entry[0] += p
    return [tuple(entry) for entry in merged.values()]


def _total(waiting: dict) -> float:
    return math.fsum(h[0] for hypotheses in waiting.values() for h in hypotheses)


def _scaled(waiting: dict, by: float) -> dict:
    return {rest: [(h[0] * by, *h[1:]) for h in hypotheses] for rest, hypotheses in waiting.items()}
