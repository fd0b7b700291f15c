"""The twenty lessons: file name, title, part. The one list that the builder, progress and README follow."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Lesson:
    number: int
    name: str  # the file name without its ending
    title: str
    part: str

    @property
    def exists(self) -> bool:
        return find_spec(f"llmkit.course.checks.lesson_{self.number:02d}") is not None


_PARTS = {
    "Text, numbers, attention": {
        "01_next_token": "Predicting the next token",
        "02_tokenizers": "Tokenizers",
        "03_positions": "Embeddings and positions",
        "04_attention": "Attention",
    },
    "Decoders": {
        "05_gpt2": "GPT-2 and a first training run",
        "06_llama_palm": "LLaMA and PaLM",
        "07_generation": "Generation: cache, sampling, speculation",
        "08_mixture_of_experts": "Mixture of experts",
    },
    "Encoders, encoder-decoders": {
        "09_bert_roberta": "BERT and RoBERTa",
        "10_encoder_tasks": "Sentiment, classification, entities",
        "11_t5_bart": "T5 and BART",
        "12_text_to_text": "Translation, summaries: text to text",
    },
    "Training": {
        "13_pretraining": "Pretraining: data, optimiser, resume",
        "14_scaling": "Scaling: precision, parallelism, laws",
        "15_finetuning_lora": "Domain fine-tuning and LoRA",
    },
    "Instructions and alignment": {
        "16_instruction_tuning": "Instruction tuning",
        "17_preferences": "Preferences: reward models, DPO",
        "18_rlhf_ppo": "RLHF with PPO",
        "19_reasoning_grpo": "GRPO and reasoning",
        "20_real_checkpoints": "Real checkpoints, GGUF, quantisation",
    },
}
LESSONS = tuple(
    Lesson(int(name[:2]), name, title, part) for part, lessons in _PARTS.items() for name, title in lessons.items()
)


def lesson(key: int | str) -> Lesson:
    """The lesson with this number or name; ValueError where there is none."""
    for one in LESSONS:
        if key in (one.number, one.name):
            return one
    raise ValueError(f"there is no lesson {key!r}; they are {LESSONS[0].name} … {LESSONS[-1].name}")
