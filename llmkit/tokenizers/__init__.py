"""Tokenizers: byte-level BPE (GPT), WordPiece (BERT), SentencePiece BPE (LLaMA), Unigram (T5), chat templates."""

from llmkit.tokenizers.base import Tokenizer, TokenizerFileError
from llmkit.tokenizers.bpe import CL100K_PATTERN, GPT2_PATTERN
from llmkit.tokenizers.byte_level import ByteLevelBPE
from llmkit.tokenizers.chat import encode_chat
from llmkit.tokenizers.files import load_tokenizer, read_sentencepiece
from llmkit.tokenizers.sentencepiece import SentencePiece
from llmkit.tokenizers.sentencepiece_bpe import SentencePieceBPE
from llmkit.tokenizers.sentencepiece_unigram import Unigram
from llmkit.tokenizers.wordpiece import WordPiece
