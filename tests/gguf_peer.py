"""A llama.cpp for comparing numbers: its cache in F32, no flash attention, one thread; and the models compared."""

import torch
from llama_cpp import LlamaCpp

from llmkit.models.llama import LlamaConfig, llama
from llmkit.models.mixtral import MixtralConfig, mixtral
from llmkit.tokenizers import CL100K_PATTERN, ByteLevelBPE, SentencePieceBPE

STORY = "Once upon a time the cat sat on the mat. The dog, who was 12 years old, didn't see the cat! " * 30
BYTES = ByteLevelBPE.train(STORY, 320, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
MODERN = ByteLevelBPE.train(STORY, 310, CL100K_PATTERN, special_tokens=["<|endoftext|>"])
PIECES = SentencePieceBPE.train(STORY, 340)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4, "d_ff": 96, "max_len": 128, "norm_eps": 1e-5}


class Peer(LlamaCpp):
    """LlamaCpp that computes in float32 wherever it can."""

    def __init__(self, path, n_ctx=256, **settings):
        import xllamacpp

        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.cpuparams.n_threads = str(path), n_ctx, 1, False, 1
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.verbosity = -1
        for name, value in settings.items():
            setattr(p, name, value)
        self.server = xllamacpp.Server(p)

    def next_token(self, ids, n_probs):
        """{id: log-probability} of the likeliest next tokens, the best first; before any sampler changes them.

        What is written is "a", whatever is likely: after half a character or at the end the server says nothing.
        """
        question = {"prompt": list(ids), "n_predict": 1, "temperature": 0, "n_probs": n_probs, "samplers": ["top_k"],
                    "top_k": 1, "logit_bias": [[self.tokenize("a")[-1], 1000]]}  # fmt: skip
        answer = self._post("/completion", question)["completion_probabilities"][0]
        return {token["id"]: token["logprob"] for token in answer["top_logprobs"]}

    def embedding(self, ids):
        return torch.tensor(self._post("/embedding", {"content": list(ids)})[0]["embedding"]).flatten()


def perturbed(model, noise=0.1, seed=0):
    """In evaluation mode, with norms and biases that are not 1 and 0: a forgotten one would be seen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def dense(tokenizer, noise=0.1, **changes):
    return perturbed(llama(LlamaConfig(tokenizer.vocab_size, **SIZES | {"n_kv_heads": 2} | changes)), noise)


def sparse(tokenizer, **changes):
    config = MixtralConfig(tokenizer.vocab_size, **SIZES | {"n_kv_heads": 2, "n_experts": 4} | changes)
    return perturbed(mixtral(config))
