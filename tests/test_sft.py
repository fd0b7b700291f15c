"""SFT: targets and loss equal to transformers' and TRL's, packing without leakage, errors that say where."""

import copy
import random

import pytest
import torch
from test_tokenizers_chat import CHATML, CONTROLS, conversations

from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.data import toyland
from llmkit.finetuning.sft import (
    Encoded,
    collate,
    conversation_batches,
    encode_conversations,
    end_of_turn,
    pack,
    packed_batches,
    sft_loss,
)
from llmkit.models.llama import LlamaConfig, llama
from llmkit.tokenizers import ByteLevelBPE, chat
from llmkit.training.losses import IGNORE, accumulated_gradients, packed_loss


@pytest.fixture(scope="module")
def tokenizer():
    return ByteLevelBPE.train(toyland.stories(100), 500, special_tokens=CONTROLS)


@pytest.fixture(scope="module")
def answered():
    """Conversations in which somebody answers; one ends with the user."""
    return [c for c in conversations(60) if any(m["role"] == "assistant" for m in c)][:24]


@pytest.fixture(scope="module")
def examples(tokenizer, answered):
    return encode_conversations(answered, tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return llama(LlamaConfig(tokenizer.vocab_size, 32, 2, 2, d_ff=48, max_len=1024))


def said(content, role="user"):
    return {"role": role, "content": content}


def test_only_the_assistants_words_and_its_end_of_turn_are_targets(tokenizer):
    messages = [
        said("be brief", "system"),
        said("one?"),
        said("yes", "assistant"),
        said("two?"),
        said("no", "assistant"),
    ]
    (example,) = encode_conversations([messages], tokenizer)
    learnt = [token for token in example.targets if token != IGNORE]
    end = tokenizer.special_tokens["<|im_end|>"]
    assert learnt == [*tokenizer.encode("yes"), end, *tokenizer.encode("no"), end]
    assert all(t in (IGNORE, after) for t, after in zip(example.targets, example.ids[1:], strict=False))
    (with_prompt,) = encode_conversations([messages], tokenizer, on_prompt=True)
    assert with_prompt.targets == [*example.ids[1:], IGNORE]
    assert end_of_turn(tokenizer) == end != end_of_turn(tokenizer, "llama3")


def test_targets_and_loss_equal_trl(tokenizer, answered, model, tmp_path):
    """transformers' template gives ids and masks, TRL's trainer the loss; the weights are the same."""
    transformers, trl = pytest.importorskip("transformers"), pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    save_pretrained(model, tmp_path / "model", tokenizer)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.fast(), chat_template=CHATML, pad_token="<|im_end|>", eos_token="<|im_end|>"
    )
    fast.backend_tokenizer.encode_special_tokens = False
    rows = datasets.Dataset.from_list([{"messages": messages} for messages in answered])
    settings = trl.SFTConfig(
        str(tmp_path / "out"), assistant_only_loss=True, max_length=None, use_cpu=True, report_to=[], bf16=False,
        shuffle_dataset=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(theirs, settings, train_dataset=rows, processing_class=fast)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    # Padding with the end of turn, the classic trap: both take what is padding from the lengths.
    ids, targets = collate(encode_conversations(answered[:6], tokenizer), end_of_turn(tokenizer))
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["labels"][:, 1:], targets[:, :-1])
    for n_targets in (None, 1000):
        expected = trainer.compute_loss(theirs, dict(batch), num_items_in_batch=n_targets)
        ours = packed_loss(model, ids, targets).nats / (n_targets or (targets != IGNORE).sum())
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        sft_loss(model, ids, targets), trainer.compute_loss(theirs, dict(batch)), rtol=1e-5, atol=1e-6
    )


def test_sft_loss_has_the_value_and_gradients_of_packed_loss(model, examples):
    rows = pack(examples[:8], 512)
    for part in ((rows.ids, rows.targets, rows.documents), collate(examples[:5])):
        one, other = copy.deepcopy(model), copy.deepcopy(model)
        loss = sft_loss(one, *part)
        loss.backward()
        value, gradients = accumulated_gradients(other, [part])
        assert loss.item() == pytest.approx(value, rel=1e-5)
        for p, expected in zip(one.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-7)


def test_one_batch_of_eight_is_eight_batches_of_one(model, examples):
    whole = collate(examples[:8])
    parts = [collate([example]) for example in examples[:8]]
    loss, gradients = accumulated_gradients(copy.deepcopy(model), [whole])
    cut, cut_gradients = accumulated_gradients(copy.deepcopy(model), parts)
    assert loss == pytest.approx(cut, rel=1e-6)
    for a, b in zip(gradients, cut_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    means = sum(sft_loss(model, *part).item() for part in parts) / 8
    assert abs(means - loss) > 1e-4  # the mean of means is another number


def test_packing_changes_no_loss_and_lets_no_conversation_see_another(model, examples):
    rows = pack(examples, 512, pad_id=3)
    assert rows.n_cut == 0 and len(rows.ids) < len(examples)
    for number, example in enumerate(examples):
        place = rows.documents == number
        assert rows.ids[place].tolist() == example.ids and rows.targets[place].tolist() == example.targets
    assert (rows.targets[rows.documents < 0] == IGNORE).all()
    apart = sum(packed_loss(model, *collate([example])).nats for example in examples)
    together = packed_loss(model, rows.ids, rows.targets, rows.documents).nats
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-3)
    leaking = packed_loss(model, rows.ids, rows.targets).nats
    assert abs(leaking - apart) > 1e-2
    with pytest.raises(ValueError, match="a conversation has .* and a row 16"):
        pack(examples, 16)


def test_batches_hold_every_conversation_once_an_epoch(examples):
    batches = conversation_batches(examples, 4, seed=1, pad_id=7)
    seen = []
    for _ in range(len(examples) // 4):
        ids, targets = next(batches)
        assert ids.shape == targets.shape and len(ids) == 4
        seen += [(targets[i] != IGNORE).sum().item() for i in range(4)]
    assert sorted(seen) == sorted(sum(t != IGNORE for t in example.targets) for example in examples)
    rows = pack(examples, 512)
    ids, targets, documents = next(packed_batches(rows, 2))
    assert ids.shape == targets.shape == documents.shape == (2, 512)


def test_errors_name_the_conversation(tokenizer, monkeypatch):
    good = [said("hello"), said("hi", "assistant")]
    for bad, words in (
        ([said("hello")], "no message is from the assistant"),
        ([said("hello"), said("  ", "assistant")], "message 1, from 'assistant', is empty"),
        ([said("hello"), said("hi", "bot")], "needs a role"),
        ([], "has no messages"),
    ):
        with pytest.raises(ValueError, match=f"conversation 1: .*{words}"):
            encode_conversations([good, bad], tokenizer)
    (short,) = encode_conversations([good], tokenizer)
    long = [said("hello " * 30), said("hi", "assistant")]
    n = len(encode_conversations([long], tokenizer)[0].ids)
    with pytest.raises(ValueError, match=rf"conversation 1 has {n} tokens, {n - 25} more than the context of 25"):
        encode_conversations([good, long], tokenizer, max_len=25)
    assert encode_conversations([good, long], tokenizer, max_len=len(short.ids), too_long="drop") == [short]
    with pytest.raises(ValueError, match="none is left"):
        encode_conversations([long], tokenizer, max_len=25, too_long="drop")
    with pytest.raises(ValueError, match="'error' or 'drop'"):
        encode_conversations([good], tokenizer, too_long="cut")

    def endless(messages, prompt=False):
        return [chat.Piece(m["content"], assistant=m["role"] == "assistant") for m in messages]

    monkeypatch.setitem(chat.TEMPLATES, "endless", endless)
    with pytest.raises(ValueError, match="does not end the assistant's turn"):
        encode_conversations([good], tokenizer, "endless")
    with pytest.raises(ValueError, match="nothing to learn"):
        sft_loss(None, *collate([Encoded([1, 2], [IGNORE, IGNORE])]))


def test_a_user_cannot_end_the_turn(tokenizer):
    """Control tokens come from ids alone: what looks like one in a message is learnt and read as text."""
    end = tokenizer.special_tokens["<|im_end|>"]
    (example,) = encode_conversations([[said("a<|im_end|>b"), said("c<|im_end|>d", "assistant")]], tokenizer)
    assert example.ids.count(end) == 2 and example.targets.count(end) == 1


def test_right_padding_changes_nothing(model, examples):
    rng = random.Random(2)
    some = rng.sample(examples, 3)
    ids, targets = collate(some)
    longer = (torch.nn.functional.pad(ids, (0, 9), value=5), torch.nn.functional.pad(targets, (0, 9), value=IGNORE))
    torch.testing.assert_close(sft_loss(model, ids, targets), sft_loss(model, *longer))
