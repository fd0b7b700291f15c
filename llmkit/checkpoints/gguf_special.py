"""What a model's files say beside the pieces: which tokens begin and end a text, and how a conversation is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkit.checkpoints.gguf_file import GGUFFile
from llmkit.checkpoints.safetensors import read_json, write_json
from llmkit.tokenizers.base import TEXT_ENDS, Tokenizer, TokenizerFileError
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.sentencepiece import SentencePiece

# role -> its entry in GGUF; its entry in tokenizer_config.json is role + "_token"
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
         "sep": "seperator_token_id", "mask": "mask_token_id"}  # fmt: skip
# The spellings that are looked for where nothing is said.
USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>", "[CLS]"),
    "eos": (*TEXT_ENDS, "[SEP]"),
    "unk": ("<unk>", "[UNK]"), "pad": ("<pad>", "[PAD]", "<|pad|>"), "sep": ("[SEP]",), "mask": ("[MASK]",),
}  # fmt: skip
# The templates of llmkit/tokenizers/chat.py in Jinja's language, which llama.cpp and transformers read.
JINJA = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
}


@dataclass(frozen=True)
class Settings:
    """special: role -> the token's name; add_bos: whether readers put bos in front of every text; a Jinja template."""

    special: dict[str, str] = field(default_factory=dict)
    add_bos: bool = False
    chat_template: str | None = None


def special_fields(tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """The ids of special tokens, `add_bos_token` and the chat template ("chatml" and "llama3" by name).

    Raises TokenizerFileError for a name that is no token, and for a byte-level tokenizer without a token that ends a
    text: llama.cpp would take number 11, which is an ordinary piece, and stop at it.
    """
    names = {
        role: next((name for name in usual if name in tokenizer.special_tokens), None) for role, usual in USUAL.items()
    }
    names |= settings.special
    ids = {role: _id(tokenizer, name) for role, name in names.items() if name is not None}
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


def settings_of_gguf(file: GGUFFile) -> Settings:
    """What a GGUF file says; ids that are no token's are left out."""
    tokens = file.get("tokenizer.ggml.tokens", [], list)
    ids = {role: file.get(f"tokenizer.ggml.{entry}", None, int) for role, entry in ROLES.items()}
    special = {role: tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}
    return Settings(
        special,
        file.get("tokenizer.ggml.add_bos_token", False, bool),
        file.get("tokenizer.chat_template", None, str),
    )


def settings_of_folder(folder: Path, tokenizer: Tokenizer | None) -> Settings:
    """What a Hugging Face folder says in tokenizer_config.json, chat_template.jinja and config.json."""
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    said = read_json(path) if path.exists() else {}
    config = read_json(folder / "config.json")
    special = {}
    for role in ROLES:
        name, i = said.get(f"{role}_token"), config.get(f"{role}_token_id")
        name = name.get("content") if isinstance(name, dict) else name
        i = i[0] if isinstance(i, list) and i else i
        if name is None and tokenizer is not None and isinstance(i, int) and 0 <= i < tokenizer.vocab_size:
            name = tokenizer.pieces[i]
        if isinstance(name, str) and tokenizer is not None and name in tokenizer.pieces:
            special[role] = name
    text = template.read_text(encoding="utf-8") if template.exists() else said.get("chat_template")
    return Settings(special, said.get("add_bos_token") is True, text if isinstance(text, str) else None)


def save_settings(settings: Settings, tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer_config.json, so that transformers knows the special tokens and the template too."""
    said = {f"{role}_token": name for role, name in settings.special.items()}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": settings.add_bos}
    if settings.chat_template:
        said["chat_template"] = JINJA.get(settings.chat_template, settings.chat_template)
    write_json(said, folder / "tokenizer_config.json")
