"""special.py's settings in a GGUF file's header."""

from typing import Any

from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.special import JINJA, Settings, usual_names
from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.sentencepiece import SentencePiece

# role -> its entry
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
         "sep": "seperator_token_id", "mask": "mask_token_id"}  # fmt: skip


def special_fields(tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """The ids of special tokens, `add_bos_token` and the chat template ("chatml" and "llama3" by name).

    Raises TokenizerFileError for a name that is no token, and for a byte-level tokenizer without a token that ends a
    text: llama.cpp would take number 11, which is an ordinary piece, and stop at it.
    """
    names = usual_names(tokenizer) | settings.special
    ids = {role: _id(tokenizer, name) for role, name in names.items()}
    if isinstance(tokenizer, SentencePiece):  # whose unknown piece is no special token
        ids.setdefault("unk", tokenizer.unk_id)
    if isinstance(tokenizer, ByteLevelBPE):
        if "eos" not in ids:
            raise TokenizerFileError(
                "no special token ends a text: llama.cpp would take number 11. Say which it is "
                "(--eos TOKEN; in Python Settings({'eos': TOKEN})), or train the tokenizer with "
                "special_tokens=['<|endoftext|>']"
            )
        ids.setdefault("bos", ids["eos"])
    fields: dict[str, Any] = {f"tokenizer.ggml.{ROLES[role]}": i for role, i in ids.items()}
    is_bert = "mask" in ids and "sep" in ids
    fields["tokenizer.ggml.add_bos_token"] = settings.add_bos or is_bert
    if settings.chat_template:
        fields["tokenizer.chat_template"] = JINJA.get(settings.chat_template, settings.chat_template)
    return fields


def _id(tokenizer: Tokenizer, name: str) -> int:
    if name in tokenizer.special_tokens:
        return tokenizer.special_tokens[name]
    if name in tokenizer.pieces:
        return tokenizer.pieces.index(name)
    raise TokenizerFileError(f"the tokenizer has no token {name!r}")


def settings_of_gguf(file: GGUFFile, tokenizer: Tokenizer | None = None) -> Settings:
    """What a GGUF file says; ids that are no token's, or none of the tokenizer's, are left out."""
    tokens = file.get("tokenizer.ggml.tokens", [], list)
    ids = {role: file.get(f"tokenizer.ggml.{entry}", None, int) for role, entry in ROLES.items()}
    special = {role: tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}
    if tokenizer is not None:
        special = {role: name for role, name in special.items() if name in tokenizer.pieces}
    return Settings(
        special,
        file.get("tokenizer.ggml.add_bos_token", False, bool),
        file.get("tokenizer.chat_template", None, str),
    )
