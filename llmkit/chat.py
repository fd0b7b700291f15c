"""Talk with a model: in a notebook with `chat(model, tokenizer)`, in a terminal with `python -m llmkit.chat FOLDER`.

Answers appear while they are written and end where the model ends its turn. What the user types is always text: a typed
"<|im_end|>" is no control token. Keys and values of earlier turns are kept, so that a turn costs only its own tokens.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from llmkit.checkpoints.pretrained import from_pretrained
from llmkit.finetuning.sft import end_of_turn
from llmkit.generation.logits import GREEDY, Sampler
from llmkit.generation.text import stream_text
from llmkit.tokenizers.base import Tokenizer
from llmkit.tokenizers.chat import TEMPLATES, Message, encode_chat

HELP = "/system TEXT sets how the assistant shall behave and begins anew, /reset begins anew, /exit ends"


class Chat:
    """A conversation that goes on: `messages` so far, and the keys and values of what the model has read.

    template        a key of TEMPLATES; None takes the first whose control tokens the tokenizer has
    system          the system message, if there is to be one
    max_new_tokens  the longest answer
    max_len         the model's context in tokens; by default its config's
    notice          is told when earlier messages had to be dropped

    Raises ValueError for a tokenizer that has no template's control tokens: then the model is a base model.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        template: str | None = None,
        system: str | None = None,
        max_new_tokens: int = 200,
        max_len: int | None = None,
        sampler: Sampler = GREEDY,
        generator: torch.Generator | None = None,
        notice: Callable[[str], None] = print,
    ):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.model, self.tokenizer, self.notice = model, tokenizer, notice
        self.template = template or find_template(tokenizer)
        self.end_id = end_of_turn(tokenizer, self.template)
        self.max_new_tokens, self.sampler, self.generator = max_new_tokens, sampler, generator
        self.max_len = max_len or getattr(model.config, "max_len", None) or sys.maxsize
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Begin anew, with this system message or none."""
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._cache, self._read = None, []  # the cache, and the ids whose keys and values are in it

    def say(self, text: str) -> Iterator[str]:
        """The user says something: yield the answer in pieces; both turns are then in `messages`.

        Where the context has not enough room for an answer, the oldest turns are dropped for good, and `notice` is
        told. If the caller stops in the middle, what was said so far stays. Raises ValueError for an empty text, and
        for one that is too long by itself; the conversation is then as it was before.
        """
        if not text.strip():
            raise ValueError("there is nothing to answer: the message is empty")
        self.messages = self._fitting([*self.messages, {"role": "user", "content": text}])
        said = []
        try:
            for piece in self.reply(self.messages):
                said.append(piece)
                yield piece
        finally:
            self.messages = [*self.messages, {"role": "assistant", "content": "".join(said)}]

    def reply(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the assistant's next turn in pieces of whole characters; `messages` stay as they are."""
        ids = self._prompt(messages)
        if len(ids) >= self.max_len:
            raise ValueError(
                f"the conversation has {len(ids)} tokens, the model's context {self.max_len}: no room is left"
            )
        n_known = self._go_back_to(ids)
        new: list[int] = []

        def recorded(logits: torch.Tensor, text: torch.Tensor, *rest) -> torch.Tensor:
            """The sampler, which sees what is in the cache too, and tells us what it drew."""
            logits = logits[:, : self.tokenizer.vocab_size]  # a model may have rows that no token uses
            token = self.sampler(logits, torch.cat([text.new_tensor([ids[:n_known]]), text], dim=1), *rest)
            new.append(token.item())
            return token

        try:
            n_new = min(self.max_new_tokens, self.max_len - len(ids))
            options = {"stop_tokens": [self.end_id], "cache": self._cache, "generator": self.generator}
            for piece in stream_text(self.model, self.tokenizer, ids[n_known:], n_new, recorded, **options):
                if whole := piece.rstrip("\ufffd"):  # half a character, where the limit of tokens was reached in it
                    yield whole
        finally:
            lengths = {layer.length for layer in self._cache}
            self._read = [*ids, *new][: max(lengths)]
            if len(lengths) > 1:  # interrupted between two layers
                self._cache, self._read = None, []

    def _go_back_to(self, ids: list[int]) -> int:
        """Make the cache hold a beginning of ids and nothing else; gives the length of that beginning."""
        shared = 0
        while shared < min(len(self._read), len(ids) - 1) and self._read[shared] == ids[shared]:
            shared += 1
        if self._cache is not None and shared == self._cache.length:
            return shared
        try:
            self._cache.truncate(shared)
        except (AttributeError, ValueError):  # there is none yet, or a ring, which cannot go back
            self._cache, shared = self.model.new_cache(), 0
        return shared

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return encode_chat(messages, self.tokenizer, self.template, prompt=True)[0]

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """Without as many of the oldest turns as an answer needs room; the system message stays."""
        room = self.max_len - min(self.max_new_tokens, self.max_len // 2)
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns, n_before = messages[len(system) :], len(messages)
        while len(turns) > 1 and len(self._prompt([*system, *turns])) > room:
            turns = turns[2:]  # a question and its answer
        n_tokens = len(self._prompt([*system, *turns]))
        if n_tokens > room:
            raise ValueError(
                f"this message needs {n_tokens} tokens and there is room for {room} (the context has {self.max_len}, "
                f"an answer up to {self.max_len - room}): shorten it by {n_tokens - room} tokens"
            )
        if n_dropped := n_before - len(system) - len(turns):
            self.notice(f"[the oldest {n_dropped} messages no longer fit into the context and were dropped]")
        return [*system, *turns]


def find_template(tokenizer: Tokenizer) -> str:
    """The first of TEMPLATES whose control tokens the tokenizer has; ValueError where there is none."""
    for template in TEMPLATES:
        try:
            end_of_turn(tokenizer, template)
        except ValueError:
            continue
        return template
    raise ValueError(
        f"the tokenizer has the control tokens of no chat template ({', '.join(TEMPLATES)}): this is a base model, "
        "which goes on with a text and does not answer; llmkit.finetuning.sft makes an assistant of one"
    )


def chat(model: nn.Module, tokenizer: Tokenizer, read: Callable[[str], str] | None = None, **options) -> Chat:
    """Talk with a model until /exit or the end of input; gives the conversation. `options` are Chat's.

    read   asks for a line, given the prompt: `input`, or a function of yours that plays the user
    """
    read = read or input
    conversation = Chat(model, tokenizer, **options)
    print(HELP)
    while True:
        try:
            line = read("you: ").strip()
        except (EOFError, KeyboardInterrupt):
            return conversation
        except UnicodeDecodeError as error:  # the terminal sends bytes of an encoding that Python was not told
            print(f"that line could not be read: {error}; PYTHONUTF8=1 in the environment makes Python read UTF-8")
            continue
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return conversation
        if command in ("/reset", "/system"):
            conversation.reset(rest.strip() if command == "/system" else None)
        elif line.startswith("/"):
            print(f"there is no {command}; {HELP}")
        elif line:
            _answer(conversation, line)


def _answer(conversation: Chat, line: str) -> None:
    try:
        for piece in conversation.say(line):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except ValueError as error:
        print(error, end="")
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; ends with a message where the folder holds no model or no chat model."""
    parser = argparse.ArgumentParser(prog="python -m llmkit.chat", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a folder with config.json, safetensors and tokenizer, or a name on the Hub")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--template", choices=sorted(TEMPLATES), help="by default the one that fits the tokenizer")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="the longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")
    parser.add_argument("--top-p", type=float, default=None, help="draw only from the likeliest tokens of this mass")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if not 0 <= chosen.seed < 2**64:
        parser.error(f"--seed must be at least 0 and below 2**64, got {chosen.seed}")
    try:
        sampler = Sampler(temperature=chosen.temperature, top_p=chosen.top_p)  # before minutes of loading
        if Path(chosen.model).is_file():
            raise ValueError(f"{chosen.model} is a file; python -m llmkit.checkpoints convert makes a folder of a GGUF")
        model, tokenizer = from_pretrained(chosen.model)
        if tokenizer is None:
            raise ValueError(f"{chosen.model} has no tokenizer: save_pretrained(model, folder, tokenizer) writes one")
        chat(model, tokenizer, template=chosen.template, system=chosen.system, max_new_tokens=chosen.max_new_tokens,
             sampler=sampler, generator=torch.Generator().manual_seed(chosen.seed))  # fmt: skip
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"llmkit.chat: {error}")
    except KeyboardInterrupt:  # while it loads
        sys.exit(130)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # no terminal shows every character of a path or a text
    main()
