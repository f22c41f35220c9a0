"""The mask and the positions, against the table of the design read row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_fixtures import guide_messages, model, picture, processor

from vlm.batch import collate
from vlm.masks import DRAFT, PICTURE, TEXT, attention_blocks, row_table
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.stream import Conversation, parse

BUILT: HartVLM = model()
ENCODER: StreamProcessor = processor(BUILT)


def rows_of(*conversations: Conversation, free: float = 0.0, **options):
    batch = collate(
        conversations,
        BUILT.config,
        generator=torch.Generator().manual_seed(1),
        unconditional_probability=free,
        draft_uploads=True,
        **options,
    )
    return row_table(batch, BUILT.config)


def sees(query: dict, key: dict) -> bool:
    """The design's table, in words."""
    if query["sample"] != key["sample"]:
        return False
    if query is key:
        return True
    if query["span"] == key["span"] and query["kind"] != TEXT:
        if query["kind"] != key["kind"]:
            return False
        return key["scale"] <= query["scale"] if query["kind"] == DRAFT else True
    if key["kind"] == DRAFT or (query["kind"] == DRAFT and query["free"]):
        return False
    return key["order"] < query["order"]


@settings(max_examples=12, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=3), free=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_entry_follows_the_table(counts: list[int], free: float):
    table = rows_of(*(ENCODER.encode(guide_messages(BUILT, pictures=n)) for n in counts), free=free)
    names = ("sample", "order", "kind", "span", "scale", "free")
    rows = [
        dict(zip(names, values, strict=True))
        for values in zip(*(getattr(table, n).tolist() for n in names), strict=True)
    ]
    expected = torch.tensor([[sees(query, key) for key in rows] for query in rows])
    blocks = attention_blocks(table)
    seen = []
    for block in blocks.blocks:
        groups, queries = block.queries.shape
        assert block.mask.shape == (groups, 1, queries, block.keys.shape[1])
        # Softmax over nothing is not a number.
        assert block.mask.any(dim=-1).all()
        for group in range(groups):
            # How often each query of the block sees each row: a row that stands there twice must not count twice.
            counted = torch.zeros(queries, len(rows), dtype=torch.long)
            counted.index_add_(1, block.keys[group], block.mask[group, 0].long())
            seen.append(counted)
    assert torch.equal(torch.cat(seen)[blocks.places], expected.long())


def test_every_row_is_asked_once_and_stands_where_its_place_says():
    table = rows_of(*(ENCODER.encode(guide_messages(BUILT, pictures=n)) for n in (1, 3)))
    blocks = attention_blocks(table)
    asked = torch.cat([block.queries.flatten() for block in blocks.blocks])
    assert torch.equal(asked[blocks.places], torch.arange(len(table.sample)))
    kinds = [TEXT] * table.text + [DRAFT] * table.draft + [PICTURE] * table.picture
    assert table.kind.tolist() == kinds


def test_positions_skip_the_scales_for_drawn_and_uploaded_pictures_alike():
    tokens = picture(BUILT, 0)
    scales = len(BUILT.config.scales)
    for role in ("user", "assistant"):
        part = [
            {"type": "text", "text": "a"},
            {"type": "image", "tokens": tokens},
            {"type": "text", "text": "b"},
        ]
        conversation = ENCODER.encode([{"role": role, "content": part}])
        rows = parse(conversation, BUILT.config)
        start = int(rows.span_positions[0])
        assert start == int(rows.span_index[0])
        eoi = rows.text_ids.tolist().index(BUILT.config.eoi_id)
        assert int(rows.text_positions[eoi]) == start + scales + 1
        assert int(rows.text_positions[eoi + 1]) == start + scales + 2
        assert rows.length == int(rows.text_positions[-1]) + 1
        table = rows_of(conversation)
        draft, shown = table.position[table.kind == DRAFT], table.position[table.kind == PICTURE]
        assert draft.tolist() == [
            start + k for k, side in enumerate(BUILT.config.scales) for _ in range(side**2)
        ]
        assert set(shown.tolist()) == {start + scales}


def test_free_spans_are_drawn_at_random_from_the_generator():
    conversation = ENCODER.encode(guide_messages(BUILT, pictures=3))
    batches = [
        collate(
            [conversation] * 40, BUILT.config, generator=torch.Generator().manual_seed(s), max_draft_spans=2
        )
        for s in (0, 0, 1)
    ]
    assert torch.equal(batches[0].free, batches[1].free) and torch.equal(
        batches[0].drafted, batches[1].drafted
    )
    assert not torch.equal(batches[0].drafted, batches[2].drafted)
    assert 0 < int(batches[0].free.sum()) < 25
    assert len(batches[0].drafted) == 80


def test_torn_streams_are_refused():
    whole = ENCODER.encode(guide_messages(BUILT))
    start = int(parse(whole, BUILT.config).span_index[1])
    for cut in (
        Conversation(whole.ids[: start + 5], whole.residuals[:2], whole.assistant[: start + 5]),
        Conversation(
            torch.cat([whole.ids[:start], whole.ids[start + 1 :]]), whole.residuals, whole.assistant[1:]
        ),
        Conversation(
            whole.ids[:10].clone().fill_(BUILT.config.eoi_id), whole.residuals[:0], whole.assistant[:10]
        ),
        Conversation(whole.ids, whole.residuals[:1], whole.assistant),
        Conversation(whole.ids + 10_000, whole.residuals, whole.assistant),
    ):
        with pytest.raises(ValueError, match="expected"):
            parse(cut, BUILT.config)
    with pytest.raises(ValueError, match="at least one conversation"):
        collate([], BUILT.config, generator=torch.Generator())
    with pytest.raises(ValueError, match="rounded"):
        Conversation(whole.ids, whole.residuals.float(), whole.assistant)
