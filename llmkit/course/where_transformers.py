"""Names of transformers and what they are called here: for a reader who knows the one and looks for the other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """`file` and `name` in transformers; the same idea here, as a reference such as "llmkit.layers.norms:RMSNorm"."""

    file: str
    name: str
    code: str
    lesson: int


def _peers(file: str, *rows: tuple[str, str, int]) -> tuple[Peer, ...]:
    return tuple(Peer(file, name, f"llmkit.{code}", lesson) for name, code, lesson in rows)


PEERS = (
    *_peers(
        "models/gpt2/modeling_gpt2.py",
        ("GPT2Attention", "layers.attention:MultiHeadAttention", 4),
        ("GPT2MLP", "layers.mlp:MLP", 5),
        ("GPT2Block", "layers.blocks:PreNormBlock", 5),
        ("GPT2Model", "layers.transformer:Transformer", 5),
        ("GPT2LMHeadModel", "models.gpt2:gpt2", 5),
    ),
    *_peers("activations.py", ("NewGELUActivation", "layers.mlp:gelu_tanh", 5)),
    *_peers(
        "models/llama/modeling_llama.py",
        ("LlamaRMSNorm", "layers.norms:RMSNorm", 6),
        ("LlamaRotaryEmbedding", "layers.rope:RotaryEmbedding", 3),
        ("apply_rotary_pos_emb", "layers.rope:rotate", 3),
        ("repeat_kv", "layers.attention:repeat_kv", 4),
        ("eager_attention_forward", "layers.attention:attention", 4),
        ("LlamaAttention", "layers.attention:MultiHeadAttention", 4),
        ("LlamaMLP", "layers.mlp:GatedMLP", 6),
        ("LlamaDecoderLayer", "layers.blocks:PreNormBlock", 6),
        ("LlamaForCausalLM", "models.llama:llama", 6),
    ),
    *_peers("models/cohere/modeling_cohere.py", ("CohereDecoderLayer", "layers.blocks:ParallelBlock", 6)),
    *_peers(
        "models/mixtral/modeling_mixtral.py",
        ("MixtralTopKRouter", "layers.moe:SoftmaxRouter", 8),
        ("MixtralExperts", "layers.moe:dispatch_loop", 8),
        ("MixtralSparseMoeBlock", "layers.moe:MoE", 8),
        ("load_balancing_loss_func", "layers.balance:load_balancing_loss", 8),
        ("MixtralForCausalLM", "models.mixtral:mixtral", 8),
    ),
    *_peers("models/deepseek_v3/modeling_deepseek_v3.py", ("DeepseekV3TopkRouter", "layers.moe:SigmoidRouter", 8)),
    *_peers("models/bloom/modeling_bloom.py", ("build_alibi_tensor", "layers.positions:alibi_slopes", 3)),
    *_peers(
        "modeling_rope_utils.py",
        ("ROPE_INIT_FUNCTIONS", "layers.rope:scaled_frequencies", 3),
        ("_compute_yarn_parameters", "layers.rope:yarn_scaling", 3),
        ("_compute_llama3_parameters", "layers.rope:llama3_scaling", 3),
    ),
    *_peers(
        "masking_utils.py",
        ("create_causal_mask", "layers.masks:causal_mask", 4),
        ("create_sliding_window_causal_mask", "layers.masks:sliding_window_mask", 4),
    ),
    *_peers(
        "cache_utils.py",
        ("DynamicCache", "layers.cache:growing_cache", 7),
        ("StaticCache", "layers.cache:static_cache", 7),
        ("StaticSlidingWindowLayer", "layers.cache:RingLayerCache", 7),
    ),
    *_peers(
        "generation/logits_process.py",
        ("TemperatureLogitsWarper", "generation.logits:temperature", 7),
        ("TopKLogitsWarper", "generation.logits:top_k", 7),
        ("TopPLogitsWarper", "generation.logits:top_p", 7),
        ("MinPLogitsWarper", "generation.logits:min_p", 7),
        ("RepetitionPenaltyLogitsProcessor", "generation.logits:repetition_penalty", 7),
    ),
    *_peers(
        "models/bert/modeling_bert.py",
        ("BertEmbeddings", "layers.transformer:Embedding", 9),
        ("BertLayer", "layers.blocks:PostNormBlock", 9),
        ("BertForMaskedLM", "layers.encoder_heads:MaskedLM", 9),
        ("BertForPreTraining", "models.bert:bert", 9),
        ("BertForSequenceClassification", "layers.encoder_heads:SequenceClassifier", 10),
        ("BertForTokenClassification", "layers.encoder_heads:TokenClassifier", 10),
    ),
    *_peers(
        "models/roberta/modeling_roberta.py",
        ("create_position_ids_from_input_ids", "models.roberta:position_ids", 9),
        ("RobertaForMaskedLM", "models.roberta:roberta", 9),
    ),
    *_peers(
        "data/data_collator.py",
        ("DataCollatorForLanguageModeling", "data.masking:mask_tokens", 9),
        ("DataCollatorForTokenClassification", "data.masking:align_labels", 10),
        ("DataCollatorWithFlattening", "data.packing:concatenate", 13),
    ),
    *_peers(
        "models/t5/modeling_t5.py",
        ("T5LayerNorm", "layers.norms:RMSNorm", 11),
        ("_relative_position_bucket", "layers.positions:relative_bucket", 3),
        ("T5LayerCrossAttention", "layers.cross:CrossAttention", 11),
        ("T5DenseGatedActDense", "layers.mlp:GatedMLP", 11),
        ("T5ForConditionalGeneration", "models.t5:t5", 11),
    ),
    *_peers(
        "models/bart/modeling_bart.py",
        ("shift_tokens_right", "training.losses:shift_right", 11),
        ("BartLearnedPositionalEmbedding", "layers.transformer:OffsetEmbedding", 11),
        ("BartDecoderLayer", "layers.cross:PostNormCrossBlock", 11),
        ("BartForConditionalGeneration", "models.bart:bart", 11),
    ),
    *_peers("optimization.py", ("get_cosine_schedule_with_warmup", "training.schedules:warmup_cosine", 5)),
    *_peers("optimization.py", ("get_wsd_schedule", "training.schedules:warmup_stable_decay", 13)),
)
