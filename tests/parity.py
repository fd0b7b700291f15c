"""Tiny random models written to disk by transformers, and read back by llmkit: what the parity tests compare."""

import copy

import pytest
import torch

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}


def _llama(**options):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, **options))


# Each row makes transformers' model; the name's first word is the family.
MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=99, n_embd=32, n_head=4, n_layer=3, n_positions=64)
    ),
    "gpt2 n_inner relu": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64, n_inner=40, activation_function="relu"
        )
    ),
    "llama": lambda: _llama(),
    "llama gqa llama3": lambda: _llama(num_key_value_heads=2, rope_parameters=LLAMA3, max_position_embeddings=128),
    "llama mqa yarn tied": lambda: _llama(
        num_key_value_heads=1, rope_parameters=YARN, max_position_embeddings=64, tie_word_embeddings=True
    ),
    "llama linear head_dim": lambda: _llama(num_key_value_heads=2, rope_parameters=LINEAR, head_dim=12),
    "mistral window": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=7)
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2)
    ),
    "palm": lambda: transformers.CohereForCausalLM(
        transformers.CohereConfig(**SHAPE, num_key_value_heads=1, logit_scale=1.0)
    ),
}


def _bert(kind, **options):
    return getattr(transformers, kind)(transformers.BertConfig(**SHAPE, max_position_embeddings=64, **options))


def _roberta(kind, **options):
    config = transformers.RobertaConfig(
        **SHAPE, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, **options
    )
    return getattr(transformers, kind)(config)


ENCODERS = {
    "bert": lambda: _bert("BertForMaskedLM"),
    "bert relu": lambda: _bert("BertForMaskedLM", hidden_act="relu"),
    "bert model": lambda: _bert("BertModel"),
    "bert classifier": lambda: _bert("BertForSequenceClassification", num_labels=3),
    "bert tagger": lambda: _bert("BertForTokenClassification", num_labels=5),
    "roberta": lambda: _roberta("RobertaForMaskedLM"),
    "roberta model": lambda: _roberta("RobertaModel"),
    "roberta classifier": lambda: _roberta("RobertaForSequenceClassification"),
    "roberta tagger": lambda: _roberta("RobertaForTokenClassification", num_labels=5),
}


def _t5(**options):
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=99, d_model=32, d_ff=56, d_kv=6, num_layers=3, num_decoder_layers=2, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=20, decoder_start_token_id=0, **options,
        )
    )  # fmt: skip


def _bart(**options):
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=99, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=2, encoder_ffn_dim=56, decoder_ffn_dim=40, max_position_embeddings=64,
            forced_eos_token_id=None, **options,
        )
    )  # fmt: skip


SEQ2SEQ = {
    "t5": lambda: _t5(initializer_factor=0.05),  # small numbers, so that a wrong eps shows
    "t5 other eps": lambda: _t5(initializer_factor=0.05, layer_norm_epsilon=1e-4),
    "t5 v1.1": lambda: _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "bart": lambda: _bart(),
    "bart scaled relu": lambda: _bart(scale_embedding=True, activation_function="relu"),
    "bart other ids": lambda: _bart(decoder_start_token_id=5, eos_token_id=7, pad_token_id=2),
}


def make_theirs(name: str, noise: float = 0.1, seed: int = 0):
    """transformers' model; noise on every parameter, so that no zero bias and no unit gain hides a mistake."""
    torch.manual_seed(seed)
    model = (MODELS | ENCODERS | SEQ2SEQ)[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        if name.startswith("bart"):  # a buffer, zero unless somebody set it
            model.final_logits_bias.add_(noise * torch.randn_like(model.final_logits_bias))
    return model


def relative_error(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Largest difference as a share of the largest number."""
    return float((expected - got).abs().max() / expected.abs().max())


def ids_for(model, shape=(3, 40), seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, model.config.vocab_size, shape, generator=generator)


def clone(model):
    return copy.deepcopy(model)
