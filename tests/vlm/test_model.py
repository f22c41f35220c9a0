"""The two-tower model: cached steps equal the joint pass, text stays plain, weights survive the disk.""" ""

from __future__ import annotations

import pytest
import torch
from stream_fixtures import (
    KINDS,
    config,
    guide_messages,
    model,
    picture,
    processor,
    text_tokenizer,
    tokenizer_dict,
    tower,
)
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from hart.schedule import ScaleSchedule
from vlm.batch import StreamBatch, collate
from vlm.config import HartVLMConfig, guidance_weights
from vlm.model import HartVLM
from vlm.session import StreamSession
from vlm.stream import Conversation, parse, span_tokens


def batch_of(built: HartVLM, *conversations: Conversation, free: float = 0.0, **options) -> StreamBatch:
    return collate(
        conversations,
        built.config,
        generator=torch.Generator().manual_seed(0),
        unconditional_probability=free,
        draft_uploads=True,
        **options,
    )


def cached_steps(built: HartVLM, conversation: Conversation) -> tuple[torch.Tensor, torch.Tensor]:
    """Text logits (T, vocab) and code logits (S, total, V) of a known stream, by the steps of generation."""
    rows = parse(conversation, built.config)
    session = StreamSession(built)
    quantizer = built.image_tokenizer.quantizer
    spans = dict(zip(rows.span_index.tolist(), span_tokens(conversation, rows, built.config), strict=True))
    text, codes = [], []
    for index, value in enumerate(conversation.ids.tolist()):
        if index in spans:
            tokens, latent, logits = spans[index], quantizer.zeros(1), []
            for scale in range(len(built.config.scales)):
                _, step = session._draft_step(scale, latent, [session.cache], 0.0)
                logits.append(step[0])
                latent = quantizer.accumulate(latent, tokens.codes[scale], scale)
            codes.append(torch.cat(logits))
            session.cache.crop(-built.config.codes_per_picture)
            session._picture_rows(tokens)
        elif value < built.config.text_vocab_size:
            text.append(session._text_rows(torch.tensor([value]))[0])
    return torch.stack(text), torch.stack(codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_hidden", [32, 64])
def test_joint_pass_equals_cached_steps(kind: str, image_hidden: int):
    built = model(kind, image_hidden=image_hidden)
    encoder = processor(built)
    long, short = (encoder.encode(guide_messages(built, pictures=n, seed=n)) for n in (2, 1))
    with torch.no_grad():
        output = built.stream_pass(batch_of(built, long, short))
    text, codes = zip(*(cached_steps(built, conversation) for conversation in (long, short)), strict=True)
    torch.testing.assert_close(output.text_logits, torch.cat(text), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.code_logits, torch.cat(codes), atol=1e-4, rtol=0)
    assert output.text_logits.std() > 0.1 and output.code_logits.std() > 0.1


def test_feeding_at_once_equals_feeding_id_by_id():
    built = model()
    conversation = processor(built).encode(guide_messages(built))
    text, _ = cached_steps(built, conversation)
    torch.testing.assert_close(StreamSession(built).feed(conversation)[0], text[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_text_logits_without_a_picture_are_the_plain_decoders_to_the_bit(kind: str):
    built = model(kind)
    plain = AutoModelForCausalLM.from_config(built.config.text_config).eval()
    plain.load_state_dict(built.text.state_dict())
    prompt = processor(built).encode([{"role": "user", "content": "How do I assemble a stool?"}])
    session, cache = StreamSession(built), DynamicCache(config=plain.config)
    ours = [session.feed(prompt), *(session.text(i) for i in (40, 300, 41))]
    with torch.no_grad():
        calls = [prompt.ids[None], *(torch.tensor([[i]]) for i in (40, 300, 41))]
        theirs = [plain(ids, cache=cache, use_cache=True, logits_to_keep=1).logits[:, -1] for ids in calls]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_free_spans_see_nothing_before_their_opening():
    built = model()
    encoder = processor(built)
    shown = picture(built, 7)
    ask = [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "same ids"}, {"type": "image", "tokens": shown}],
        }
    ]
    other = [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "ids same"}, {"type": "image", "tokens": shown}],
        }
    ]
    conversations = [encoder.encode(messages) for messages in (ask, other)]
    with torch.no_grad():
        free = built.stream_pass(batch_of(built, *conversations, free=1.0)).code_logits
        seeing = built.stream_pass(batch_of(built, *conversations)).code_logits
    torch.testing.assert_close(free[0], free[1], atol=1e-5, rtol=0)
    assert (seeing[0] - seeing[1]).abs().max() > 1e-2


def test_losses_are_of_assistant_rows_only():
    built = model()
    encoder = processor(built)
    messages = guide_messages(built)
    asked = encoder.encode(messages)
    rows = parse(asked, built.config)
    learnt = [encoder.tokenizer.convert_ids_to_tokens(int(i)) for i in rows.labels if i >= 0]
    assert learnt.count("<|boi|>") == 2 and learnt[-1] == "<|im_end|>" and "<|eoi|>" not in learnt
    assert encoder.decode_text([i for i in rows.labels.tolist() if i >= 0]) == "".join(
        part.get("text", "") for part in messages[1]["content"]
    )
    # The upload trains no draft rows.
    batch = collate([asked], built.config, generator=torch.Generator().manual_seed(0))
    assert batch.drafted.tolist() == [1, 2] and len(batch.codes) == 3
    silent = encoder.encode(messages[:1])
    losses = built(
        collate([silent], built.config, generator=torch.Generator()), torch.Generator().manual_seed(0)
    )
    assert losses.metrics() == dict.fromkeys(losses.metrics(), 0.0)


def test_a_batch_trains_every_weight_but_the_image_tokenizer():
    built = model().train()
    batch = collate(
        [processor(built).encode(guide_messages(built))], built.config, generator=torch.Generator()
    )
    losses = built(batch, torch.Generator().manual_seed(0))
    losses.total.backward()
    expected = losses.text + losses.code + losses.residual
    torch.testing.assert_close(losses.total, expected)
    without = {name for name, weight in built.named_parameters() if weight.grad is None}
    assert all(name.startswith("image_tokenizer.") for name in without)
    assert not built.image_tokenizer.training
    assert not any(weight.requires_grad for weight in built.image_tokenizer.parameters())


def test_limited_draft_spans_leave_the_other_rows_as_they_were():
    built = model()
    conversation = processor(built).encode(guide_messages(built, pictures=4))
    full, limited = batch_of(built, conversation), batch_of(built, conversation, max_draft_spans=2)
    assert len(limited.drafted) == 2
    with torch.no_grad():
        all_rows, some = built.stream_pass(full), built.stream_pass(limited)
    torch.testing.assert_close(some.text_logits, all_rows.text_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(some.code_logits, all_rows.code_logits[limited.drafted], atol=1e-5, rtol=0)


def test_text_only_batches_work():
    built = model()
    conversation = processor(built).encode(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I know furniture."}]
    )
    losses = built(batch_of(built, conversation), torch.Generator().manual_seed(0))
    assert losses.text > 0 and losses.code == 0 and losses.residual == 0


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_to_the_bit(kind: str, tmp_path):
    built = model(kind, image_hidden=64)
    built.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, HartVLM) and not loaded.image.config.is_causal
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in built.state_dict().items())
    assert loaded.config.image_tokenizer == built.config.image_tokenizer
    batch = batch_of(built, processor(built).encode(guide_messages(built)))
    with torch.no_grad():
        assert torch.equal(loaded.stream_pass(batch).code_logits, built.stream_pass(batch).code_logits)


def test_missing_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    built = model()
    built.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["code_head.weight"]
    save_file(weights | {"stranger": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"code_head\.weight.*stranger"):
        HartVLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"num_attention_heads": 2, "head_dim": 8}, "num_attention_heads"),
        ({"head_dim": 16}, "head width"),
        ({"model_type": "qwen3"}, "one kind"),
        ({"model_type": "mamba"}, "expected a decoder"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}, "rope_parameters"),
    ],
)
def test_towers_that_disagree_are_refused(changes: dict, message: str):
    text = tower("llama", vocab_size=len(text_tokenizer()))
    with pytest.raises(ValueError, match=message):
        HartVLMConfig(
            text_config=text, image_config=tower("llama") | changes, image_tokenizer=tokenizer_dict()
        )


def test_sliding_windows_are_refused():
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    with pytest.raises(ValueError, match="sliding"):
        HartVLMConfig(
            text_config=tower("qwen2", vocab_size=len(text_tokenizer())) | sliding,
            image_config=tower("qwen2"),
            image_tokenizer=tokenizer_dict(),
        )


def test_odd_last_scale_does_not_merge():
    with pytest.raises(ValueError, match="multiple of merge"):
        config(merge=3)


def test_guidance_follows_the_stated_ramp():
    assert guidance_weights(3.0, 4) == (0.0, 1.0, 2.0, 2.0)
    assert guidance_weights(0.0, 3) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="at least 0"):
        guidance_weights(-1.0, 3)


def test_picture_rows_are_merged_cells():
    built = model()
    latent = torch.randn(2, built.config.latent_channels, 4, 4)
    rows = built.picture_rows(latent)
    assert rows.shape == (2, 4, 32) and built.config.picture_rows == 4
    assert ScaleSchedule(built.config.scales).total == built.config.codes_per_picture
    changed = latent.clone()
    changed[:, :, 2:, :2] += 1
    assert ((built.picture_rows(changed) - rows).abs().sum(-1) > 1e-6).tolist() == [
        [False, False, True, False]
    ] * 2


def test_a_soft_code_loss_asks_for_all_codes_by_their_closeness():
    built, soft, sharp = model(), model(code_softness=0.5), model(code_softness=1e-7)
    quantizer = built.image_tokenizer.quantizer
    # A picture whose codes are the nearest ones, as the tokenizer makes them.
    latent = torch.randn(1, built.config.latent_channels, 4, 4, generator=torch.Generator().manual_seed(3))
    tokens = quantizer.encode(latent)
    answer = [{"type": "text", "text": "1. Attach.\n"}, {"type": "image", "tokens": tokens}]
    messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": answer}]
    batch = batch_of(built, processor(built).encode(messages))
    plain, wide, narrow = (one(batch, torch.Generator().manual_seed(0)) for one in (built, soft, sharp))
    torch.testing.assert_close(narrow.code, plain.code, rtol=1e-3, atol=0)
    logits = built.stream_pass(batch).code_logits.log_softmax(-1)
    wanted = quantizer.closeness(quantizer.rests(tokens), 0.5)
    torch.testing.assert_close(wide.code, -(wanted * logits).sum(-1).mean(), rtol=1e-4, atol=0)
    assert torch.equal(wide.code_accuracy, plain.code_accuracy)


def test_checkpointing_keeps_less_and_learns_the_same():
    built = model()
    batch = batch_of(built, processor(built).encode(guide_messages(built, pictures=2)))

    def learn(checkpointing: bool) -> tuple[int, float, list[torch.Tensor]]:
        built.zero_grad()
        built.checkpointing = checkpointing
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
            total = built(batch, torch.Generator().manual_seed(0)).total
        held = sum(kept)
        total.backward()
        return held, float(total.detach()), [p.grad.clone() for p in built.parameters() if p.grad is not None]

    plain, lean = learn(False), learn(True)
    assert lean[0] < 0.7 * plain[0]
    assert lean[1] == plain[1] and len(lean[2]) == len(plain[2])
    for mine, other in zip(lean[2], plain[2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
