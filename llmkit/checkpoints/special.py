"""What a model's files say beside the pieces: which tokens begin and end a text, and how a conversation is written."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing

from llmkit.checkpoints.safetensors import read_json, write_json
from llmkit.tokenizers.base import TEXT_ENDS, Tokenizer, TokenizerFileError

# The spellings that are looked for where nothing is said; a role's entry in tokenizer_config.json is role + "_token".
USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>", "[CLS]"),
    "eos": (*TEXT_ENDS, "[SEP]"),
    "unk": ("<unk>", "[UNK]"), "pad": ("<pad>", "[PAD]", "<|pad|>"), "sep": ("[SEP]",), "mask": ("[MASK]", "<mask>"),
}  # fmt: skip
# The templates of llmkit/tokenizers/chat.py in Jinja's language, which llama.cpp and transformers read.
JINJA = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
}
STARTS = {"chatml": "<|im_start|>", "llama3": "<|start_header_id|>"}  # which only a template's own tokenizers have
OTHERS = ("add_eos_token", "clean_up_tokenization_spaces", "model_max_length", "padding_side", "truncation_side")
# What a folder may hold of a tokenizer from before, and transformers would believe more than tokenizer_config.json.
STALE = ("added_tokens.json", "chat_template.jinja", "special_tokens_map.json")
# family -> what transformers puts around one text and around two
AROUND = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
}


@dataclass(frozen=True)
class Settings:
    """special: role -> the token's name; add_bos: whether readers put bos in front of every text; a Jinja template.

    others   what else of tokenizer_config.json changes what transformers makes of a text: OTHERS
    """

    special: dict[str, str] = field(default_factory=dict)
    add_bos: bool = False
    chat_template: str | None = None
    others: dict[str, Any] = field(default_factory=dict)


def usual_names(tokenizer: Tokenizer) -> dict[str, str]:
    """role -> the special token of this tokenizer that is usual for it."""
    found = {role: [name for name in usual if name in tokenizer.special_tokens] for role, usual in USUAL.items()}
    return {role: names[0] for role, names in found.items() if names}


def settings_of_folder(folder: Path, tokenizer: Tokenizer | None) -> Settings:
    """What a Hugging Face folder says in tokenizer_config.json, chat_template.jinja and config.json.

    config.json's ids count only for special tokens: where nobody set them they are its family's, such as LLaMA's 1 and
    2, which are ordinary pieces of another vocabulary. Of several templates the one called "default" is taken.
    """
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    said = read_json(path) if path.exists() else {}
    config = read_json(folder / "config.json")
    special = {}
    for role in USUAL:
        name, i = said.get(f"{role}_token"), config.get(f"{role}_token_id")
        name = name.get("content") if isinstance(name, dict) else name
        i = i[0] if isinstance(i, list) and i else i
        if f"{role}_token" not in said and tokenizer is not None and i in tokenizer.special_tokens.values():
            name = tokenizer.pieces[i]
        if isinstance(name, str) and tokenizer is not None and name in tokenizer.pieces:
            special[role] = name
    try:
        text = template.read_text(encoding="utf-8") if template.exists() else said.get("chat_template")
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{template}: not UTF-8 at byte {error.start}") from None
    if isinstance(text, list):
        text = next((t.get("template") for t in text if isinstance(t, dict) and t.get("name") == "default"), None)
    others = {key: said[key] for key in OTHERS if isinstance(said.get(key), (bool, int, str))}
    return Settings(special, said.get("add_bos_token") is True, text if isinstance(text, str) else None, others)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, family: str, settings: Settings | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json, from which transformers makes a tokenizer with the same ids.

    family     config.json's model_type: says what stands around a text where the tokenizer's own file did not
    settings   by default what the tokenizer's folder said; the chat template that is usual for its special tokens is
               written where there was no folder

    Files that the folder holds of a tokenizer before are removed (STALE). Raises TokenizerFileError for a name in the
    settings that is no token, before anything is written.

    Without the second file transformers would take the family's class, which lower-cases BERT's texts, cuts words by
    GPT-2's pattern, and knows no special tokens of a LLaMA.
    """
    usual_template = next((name for name, start in STARTS.items() if start in tokenizer.special_tokens), None)
    settings = settings or tokenizer.settings or Settings(chat_template=usual_template)
    special = usual_names(tokenizer) | settings.special
    for role, name in special.items():
        if name not in tokenizer.pieces:
            raise TokenizerFileError(f"the tokenizer has no token {name!r}, which should be its {role}")
    around = tokenizer.post_processor or _around(tokenizer, family, special.get("bos") if settings.add_bos else None)
    tokenizer.save(folder / "tokenizer.json", around)
    said = {f"{role}_token": name for role, name in special.items()}
    if "mask" in special:  # an encoder's: what begins and ends a text is also what is read for the whole, and between
        said = {"cls_token": special.get("bos"), "sep_token": special.get("eos")} | said
    if special.get("bos") == "[CLS]" and special.get("eos") == "[SEP]":  # BERT's, which are called so in GGUF alone
        del said["bos_token"], said["eos_token"]
    template = settings.chat_template
    types = ["token_type_ids"] if family == "bert" else []
    said |= settings.others | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": settings.add_bos,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        **({"chat_template": JINJA.get(template, template)} if template else {}),
    }
    write_json(said, folder / "tokenizer_config.json")
    for name in STALE:
        (folder / name).unlink(missing_ok=True)


def _around(tokenizer: Tokenizer, family: str, bos: str | None) -> dict | None:
    """tokenizer.json's post_processor."""
    single, pair = AROUND.get(family, (f"{bos} $A", f"{bos} $A {bos}:1 $B:1") if bos else ("$A", "$A $B:1"))
    ids = {name: i for name, i in tokenizer.special_tokens.items() if name in single.split()}
    if not ids or len(ids) < len(single.split()) - 1:
        return None
    return json.loads(TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items())).__getstate__())
