"""Chat templates: a conversation as token ids, and which of them the assistant wrote.

Control tokens are made from ids, text is always encoded as ordinary text, and the two never meet in one string: a user
who writes "<|im_end|>" writes nine characters or so, not the end of a turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmkit.tokenizers.base import Tokenizer

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": …}


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation: a control token's name, or text; `assistant` where the assistant wrote it."""

    text: str
    control: bool = False
    assistant: bool = False


def chatml(messages: Sequence[Message], prompt: bool = False) -> list[Piece]:
    """<|im_start|>role, content<|im_end|> (Qwen, SmolLM). The end of the assistant's turn is the assistant's."""
    pieces = []
    for message in messages:
        mine = message["role"] == "assistant"
        pieces += [
            Piece("<|im_start|>", True),
            Piece(message["role"] + "\n"),
            Piece(message["content"], assistant=mine),
        ]
        pieces += [Piece("<|im_end|>", True, mine), Piece("\n")]
    return pieces + ([Piece("<|im_start|>", True), Piece("assistant\n")] if prompt else [])


def llama3(messages: Sequence[Message], prompt: bool = False) -> list[Piece]:
    """<|start_header_id|>role<|end_header_id|>, content<|eot_id|>; contents are stripped."""
    pieces = [Piece("<|begin_of_text|>", True)]
    for message in messages:
        mine = message["role"] == "assistant"
        pieces += _llama3_header(message["role"])
        pieces += [Piece(message["content"].strip(), assistant=mine), Piece("<|eot_id|>", True, mine)]
    return pieces + (_llama3_header("assistant") if prompt else [])


def _llama3_header(role: str) -> list[Piece]:
    return [Piece("<|start_header_id|>", True), Piece(role), Piece("<|end_header_id|>", True), Piece("\n\n")]


def llama2(messages: Sequence[Message], prompt: bool = False) -> list[Piece]:
    """<s>[INST] user [/INST] answer </s>; the system's words stand inside the first [INST].

    Source: meta-llama/llama:llama/generation.py. [INST] is ordinary text there, so a user can imitate it; later
    templates have control tokens for this reason.
    """
    system, rest = "", list(messages)
    if rest and rest[0]["role"] == "system":
        system = f"<<SYS>>\n{rest.pop(0)['content']}\n<</SYS>>\n\n"
    if not rest:
        raise ValueError("Llama 2's system message stands inside the first user message; there is none")
    pieces = []
    for i, message in enumerate(rest):
        wanted = "user" if i % 2 == 0 else "assistant"
        if message["role"] != wanted:
            at = i + len(messages) - len(rest)
            raise ValueError(f"Llama 2 wants user and assistant in turn; message {at} is from {message['role']!r}")
        content = message["content"].strip()
        if wanted == "user":
            pieces += [Piece("<s>", True), Piece(f"[INST] {system if i == 0 else ''}{content} [/INST]")]
        else:
            pieces += [Piece(f" {content} ", assistant=True), Piece("</s>", True, True)]
    return pieces


TEMPLATES: dict[str, Callable[..., list[Piece]]] = {"chatml": chatml, "llama3": llama3, "llama2": llama2}


def encode_chat(
    messages: Sequence[Message], tokenizer: Tokenizer, template: str = "chatml", prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a mask of the same length: 1 where the assistant wrote, its end of turn included.

    prompt   end with the beginning of an assistant's turn, for a model to go on

    Headers and contents are encoded apart, so that a prompt's ids are the beginning of the whole conversation's. Where
    a content begins with white space, transformers' apply_chat_template, which encodes them together, may give others;
    so it does where a model's own template adds a system message that nobody wrote (SmolLM2's).

    Raises ValueError for an unknown template or role, an empty conversation, a message without content, and a
    template whose control tokens the tokenizer does not have.
    """
    if template not in TEMPLATES:
        raise ValueError(f"no template is called {template!r}; there are {', '.join(TEMPLATES)}")
    if not messages:
        raise ValueError("the conversation has no messages")
    for i, message in enumerate(messages):
        if (
            not isinstance(message, dict)
            or message.get("role") not in ("system", "user", "assistant")
            or not isinstance(message.get("content"), str)
        ):
            raise ValueError(f"message {i} needs a role (system, user, assistant) and a content: {message}")
    ids: list[int] = []
    mask: list[int] = []
    text, done = "", 0  # text since the last control token, and how many ids of it are in `ids`
    for piece in TEMPLATES[template](messages, prompt):
        if piece.control:
            new = [_control_id(piece.text, tokenizer, template)]
            text, done = "", 0
        elif template == "llama2":
            # SentencePiece puts a space before every text it is given, so an answer is encoded with its question.
            text += piece.text
            new = tokenizer.encode_ordinary(text)[done:]
            done += len(new)
        else:
            new = tokenizer.encode_ordinary(piece.text)
        ids += new
        mask += [int(piece.assistant)] * len(new)
    return ids, mask


def _control_id(name: str, tokenizer: Tokenizer, template: str) -> int:
    if name not in tokenizer.special_tokens:
        have = ", ".join(tokenizer.special_tokens) or "none"
        raise ValueError(f"the template {template!r} needs the special token {name!r}; this tokenizer has {have}")
    return tokenizer.special_tokens[name]
