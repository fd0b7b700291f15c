"""RoBERTa (Liu et al. 2019): BERT trained longer and otherwise; in the model itself only the positions differ.

They begin at 2 (one after the padding token's number), a leftover of fairseq, where padding has position 1.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from llmkit.checkpoints.tables import Copy, weight_and_bias
from llmkit.models.bert import BertConfig, bert, encoder_weights, layer_norm


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The defaults are RoBERTa base, 124,645,632 parameters with its pooler and no other head.

    A padded batch needs its attention_mask here, which tells the positions too; transformers finds padding in the ids.
    """

    vocab_size: int = 50265
    n_types: int = 1
    norm_eps: float = 1e-5
    pad_id: int = 1

    family: ClassVar[str] = "Roberta"
    offset: ClassVar[int] = 2

    @property
    def pool_dropout(self) -> float:
        return self.head_dropout

    def __post_init__(self) -> None:
        if self.pad_id + 1 != self.offset:
            raise ValueError(f"RoBERTa's positions begin at pad_token_id + 1 = 2, but pad_token_id is {self.pad_id}")


# Liu et al. 2019, section 2.4: the sizes of BERT
SIZES = {
    "roberta-base": RobertaConfig(),
    "roberta-large": RobertaConfig(d_model=1024, n_layers=24, n_heads=16, d_ff=4096),
}


def roberta(config: RobertaConfig) -> nn.Module:
    """BERT with an offset and one dropout more, which are in the config's class."""
    return bert(config)


def position_ids(ids: Tensor, pad_id: int = 1) -> Tensor:
    """Rows of RoBERTa's table of positions for ids (B, T): pad_id for padding, the tokens count on from pad_id + 1.

    Padding is not counted, wherever it stands. llmkit's models do the same by themselves, `token_positions` and
    `OffsetEmbedding`, from the attention_mask. Equal to transformers' create_position_ids_from_input_ids.

    >>> position_ids(torch.tensor([[7, 8, 9], [1, 7, 8]]))
    tensor([[2, 3, 4],
            [1, 2, 3]])
    """
    real = (ids != pad_id).long()
    return real.cumsum(-1) * real + pad_id


IGNORE = r"position_ids$|^lm_head\.decoder\.|(^|\.)pooler\."


def weights(config: RobertaConfig) -> dict[str, Copy]:
    """BERT's table with other names for the heads."""
    table = encoder_weights("roberta.", bare=config.head == "Model")
    heads = {
        "Model": weight_and_bias("pooler", "pooler.dense", "roberta.pooler.dense"),
        "ForMaskedLM": {
            **weight_and_bias("dense", "lm_head.dense"),
            **layer_norm("norm", "lm_head.layer_norm"),
            "lm_head.bias": Copy("lm_head.bias", "lm_head.decoder.bias"),
        },
        "ForSequenceClassification": {
            **weight_and_bias("pooler", "classifier.dense"),
            **weight_and_bias("classifier", "classifier.out_proj"),
        },
        "ForTokenClassification": weight_and_bias("classifier", "classifier"),
    }
    return table | heads[config.head]
