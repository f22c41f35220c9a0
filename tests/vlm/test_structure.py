"""The shape of answers: whatever the scores, every step of a guide gets exactly one picture."""

from __future__ import annotations

import random
import re

import pytest
import torch
from stream_fixtures import model, processor, text_tokenizer

from vlm.structure import StructureProcessor

BUILT = model()
ENCODER = processor(BUILT)
CONFIG = BUILT.config
NEWLINE = text_tokenizer().convert_tokens_to_ids("\n")
HEAD = "# A stool\nShort.\n\n## Parts\n- 1 x seat\n\n## Tools\n- hex key\n\n## Steps\n"
PICTURE = [CONFIG.boi_id, CONFIG.eoi_id]


def ids_of(text: str) -> list[int]:
    """`§` stands for a whole picture."""
    out: list[int] = []
    for i, part in enumerate(text.split("§")):
        out += (PICTURE if i else []) + ENCODER.encode_text(part)
    return out


def allowed(text: str) -> set[int]:
    rules = StructureProcessor(text_tokenizer(), CONFIG)
    scores = rules(torch.tensor([ids_of(text)], dtype=torch.long), torch.zeros(1, CONFIG.text_vocab_size))
    return set(scores[0].isfinite().nonzero().flatten().tolist())


def first(text: str) -> int:
    return ENCODER.encode_text(text)[0]


BOI, END = CONFIG.boi_id, CONFIG.turn_end_id


def test_after_a_numbered_line_only_a_picture():
    assert allowed(HEAD + "1. Attach the leg.\n") == {BOI}
    assert allowed(HEAD + "1. Attach.\n§\n2. Attach.\n") == {BOI}


def test_after_a_picture_only_a_newline_or_the_end():
    assert allowed(HEAD + "1. Attach.\n§") == {NEWLINE, END}
    assert allowed("Here it is:\n§") == {NEWLINE, END}


@pytest.mark.parametrize(
    "text", [HEAD, HEAD + "1. Attach", HEAD + "1. Attach.\n§\n", "# A", "# A\nShort.\n", "some text"]
)
def test_no_picture_inside_a_line_or_where_none_is_owed(text: str):
    assert BOI not in allowed(text)


@pytest.mark.parametrize(
    "text", [HEAD, HEAD + "1. Attach", "# A stool\n", HEAD + "1. Attach.\n§\n2", HEAD + "1. A.\n§\n2. B"]
)
def test_no_end_while_a_guide_is_unfinished(text: str):
    assert END not in allowed(text)


def test_steps_are_numbered_in_order():
    assert allowed(HEAD) == {first("1"), *byte_ids("1")}
    second = allowed(HEAD + "1. Attach.\n§\n")
    assert first("2") in second and not {first(d) for d in "13456789"} & second
    assert END in second and first("You") in second and NEWLINE not in second
    assert allowed(HEAD + "1") == {
        i for i, text in enumerate(StructureProcessor(text_tokenizer(), CONFIG).texts) if text == "."
    }
    nine = HEAD + "".join(f"{i}. Attach.\n§\n" for i in range(1, 10))
    tenth = allowed(nine)
    assert first("1") in tenth and first("2") not in tenth
    assert first("0") in allowed(nine + "1") and first(".") not in allowed(nine + "1")


def test_a_step_says_something():
    assert NEWLINE not in allowed(HEAD + "1. ") and NEWLINE in allowed(HEAD + "1. Attach")


def test_the_closing_line_closes():
    done = HEAD + "1. Attach.\n§\nYou are done!"
    assert {END, NEWLINE} <= allowed(done) and BOI not in allowed(done)
    assert allowed(done + "\n") == {END}


def test_outside_a_guide_one_picture_per_line():
    assert {BOI, END} <= allowed("")
    assert BOI in allowed("Here:\n") and BOI in allowed("Here:\n§\n") and BOI not in allowed("Here: ")
    assert END in allowed("I know only furniture")


def test_ids_that_only_the_stream_writes_are_never_allowed():
    for text in ("", HEAD, HEAD + "1. Attach", "Here:\n§\n"):
        assert not {0, CONFIG.pad_id, CONFIG.bos_id, CONFIG.turn_start_id, CONFIG.eoi_id, 7, 22} & allowed(
            text
        )


def test_scores_that_stay_are_untouched():
    rules = StructureProcessor(text_tokenizer(), CONFIG)
    given = torch.randn(1, CONFIG.text_vocab_size)
    scores = rules(torch.tensor([ids_of("Attach the")]), given)
    kept = scores.isfinite()
    assert torch.equal(scores[kept], given[kept])


@pytest.mark.parametrize("seed", range(25))
def test_whatever_the_scores_a_guide_is_well_formed(seed: int):
    rules, rng = StructureProcessor(text_tokenizer(), CONFIG), random.Random(seed)
    ids, ended = ids_of(HEAD if seed % 2 else "# A\n## Steps\n"), False
    start = len(ids)
    generator = torch.Generator().manual_seed(seed)
    while not ended and len(ids) < start + 400:
        scores = torch.randn(1, CONFIG.text_vocab_size, generator=generator)
        scores[0, [NEWLINE, BOI, *(first(d) for d in "123456789")]] += 3.0
        scores[0, END] += 3.0 if len(ids) > start + rng.randrange(20, 200) else -3.0
        chosen = int(rules(torch.tensor([ids]), scores).argmax())
        ended = chosen == END
        ids += PICTURE if chosen == BOI else [] if ended else [chosen]
    assert ended
    text = ENCODER.tokenizer.decode(ids[start:], skip_special_tokens=False).replace("<|boi|><|eoi|>", "§")
    steps = re.findall(r"(\d+)\. ([^\n§]*\S[^\n§]*)\n§(?:\n|$)", text)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1)) and steps
    assert text.count("§") == len(steps)
    rest = re.sub(r"\d+\. [^\n§]*\n§(?:\n|$)", "", text)
    assert rest.count("\n") <= 1 and not rest[:1].isdigit()


def test_one_processor_follows_one_answer():
    rules = StructureProcessor(text_tokenizer(), CONFIG)
    rules(torch.tensor([ids_of("one")]), torch.zeros(1, CONFIG.text_vocab_size))
    with pytest.raises(RuntimeError, match="one answer"):
        rules(torch.tensor([ids_of("two")]), torch.zeros(1, CONFIG.text_vocab_size))


def byte_ids(text: str) -> list[int]:
    return [text_tokenizer().convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
