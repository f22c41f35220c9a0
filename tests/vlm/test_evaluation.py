"""The evaluation judges what it should: true guides pass, wrong words and wrong pictures are found."""

from __future__ import annotations

import random
import re

import pytest
import torch
from PIL import Image

from hart.tokenizer import TokenizerConfig
from vlm.evaluation import guide_figures, guides, image_tokenizer, page, talks, turns
from vlm.events import Finished, ImageDone, TextDelta
from vlm.flatpack import dialogue
from vlm.flatpack.build import stages
from vlm.flatpack.dialogue import Turn, change_turn, describe, draw_turn, next_turn, question_turn, talk_turn
from vlm.flatpack.outside import OUTSIDE_THINGS, UNSEEN_QUESTIONS, UNSEEN_THINGS
from vlm.flatpack.product import sample_product
from vlm.flatpack.prompts import sayable
from vlm.flatpack.render import render
from vlm.flatpack.wording import guide_text
from vlm.stream import Conversation
from vlm.training.tokenizer import TrainedTokenizer

EMPTY = Conversation(
    torch.zeros(1, dtype=torch.long), torch.zeros(0, 1, 1, dtype=torch.float16), torch.zeros(1, dtype=torch.bool)
)


class FakeProcessor:
    resolution = 128

    def encode(self, messages, add_generation_prompt, history=None):
        return messages


def answer(product, prompt, change=lambda step, image: image, words=lambda text: text):
    """The events of a true guide, its pictures and words changed by the two functions."""
    chosen = [name for name in sayable(product) if name not in prompt.stated]
    texts = guide_text(product, random.Random(0), chosen)
    yield TextDelta(words(texts[0]))
    for step, text in enumerate(texts[1:]):
        yield ImageDone(step, change(step, render(product, step)), "tokens")
        yield TextDelta(words(text))
    yield Finished("stop", EMPTY)


@pytest.fixture
def judged(monkeypatch):
    def run(case=0, **changes):
        product, prompt = guides.held_out_case(0, case)
        monkeypatch.setattr(guides, "generate", lambda *arguments: answer(product, prompt, **changes))
        return product, guides.judge(None, FakeProcessor(), product, prompt, 0)

    return run


@pytest.mark.parametrize("case", range(8))
def test_a_true_guide_is_right(judged, case):
    product, one = judged(case)
    assert product.held_out
    assert one.structure and one.words == []
    assert one.faults == [()] * len(stages(product))
    assert one.right and one.truth == product


def test_choices_that_the_words_hide_are_found(judged):
    case = next(n for n in range(99) if len(guides.held_out_case(0, n)[1].stated) < 3)
    _, one = judged(case, words=lambda text: text.replace(" I chose:", " It has:"))
    assert [fault.split(":")[0] for fault in one.words] == ["choices"]


def test_figures_of_guides_are_shares(judged):
    _, right = judged()
    _, wrong = judged(words=lambda text: text.replace("## Tools", "## Tools\n- glue"))
    figures = guide_figures([right, wrong])
    assert figures == {"guide.structure": 1.0, "text.exact": 0.5, "picture.truth": 1.0, "guide.truth": 0.5}


def told(turn, change=lambda image: image, words=lambda text: text):
    """A true answer to a turn, changed by two functions."""
    text = words("".join(part for part in turn.answer if isinstance(part, str)))
    shown = [part for part in turn.answer if not isinstance(part, str)]
    return turns.Answer(text, tuple(change(render(part.product, part.step)) for part in shown), EMPTY)


def made_turns(seed):
    rng = random.Random(seed)
    product = sample_product(rng, "held_out")
    end = len(stages(product))
    yield draw_turn(product, rng)
    yield change_turn(product, rng, "any")
    yield next_turn(product, 0, rng)
    yield next_turn(product, end, rng)
    yield question_turn(product, end, stages(product)[-1:], rng)
    yield talk_turn(rng)


@pytest.mark.parametrize("seed", range(6))
def test_true_turns_are_right_and_others_are_not(seed):
    blank = Image.new("RGB", (128, 128), (247, 245, 240))
    for turn in made_turns(seed):
        assert turns.wrong_turn(turn, told(turn)) == []
        assert turns.wrong_turn(turn, told(turn, words=lambda text: "x" + text))
        drawn = any(not isinstance(part, str) for part in turn.answer)
        if drawn:
            assert turns.wrong_turn(turn, told(turn, change=lambda image: blank))
            assert turns.wrong_turn(turn, turns.Answer(told(turn).text, (), EMPTY))


def test_a_picture_may_show_another_product_only_where_the_user_left_it_open():
    rng = random.Random(0)
    product = sample_product(rng, "held_out", family="stool", leg="turned")
    turn = Turn("draw", ("draw a turned stool",), (describe(product),), product, ("leg",))
    other = product.replace(size="small" if product["size"] != "small" else "large")
    assert turns.wrong_turn(turn, turns.Answer(describe(other), (render(other, 3),), EMPTY)) == []
    assert turns.wrong_turn(turn, turns.Answer(describe(other), (render(product, 3),), EMPTY))
    wrong = product.replace(leg="straight")
    assert turns.wrong_turn(turn, turns.Answer(describe(wrong), (render(wrong, 3),), EMPTY)) == ["leg is straight"]


def test_a_wrong_picture_is_found(judged):
    blank = Image.new("RGB", (128, 128), (247, 245, 240))
    product, one = judged(change=lambda step, image: blank if step == 1 else image)
    assert not one.right and one.words == []
    assert one.right_pictures == len(stages(product)) - 1
    assert one.faults[1]


def test_words_against_the_prompt_are_found_and_pictures_held_to_the_prompt(judged):
    case = next(n for n in range(99) if "size" in guides.held_out_case(0, n)[1].stated)
    product, _ = guides.held_out_case(0, case)
    size = product["size"].title()
    other = "Small" if size != "Small" else "Large"
    _, one = judged(case, words=lambda text: text.replace(f"# {size}", f"# {other}"))
    assert any("size" in fault for fault in one.words)
    assert one.truth["size"] == product["size"]
    assert one.right_pictures == one.expected and not one.right


def test_an_answer_that_is_no_guide_counts_all_its_pictures_as_wrong(judged):
    product, one = judged(words=lambda text: text.replace("## Parts", "Parts"))
    assert not one.structure and not one.right
    assert one.expected == len(stages(product)) and one.right_pictures == 0


def test_the_figures_of_an_untrained_tokenizer_are_bad_and_the_page_is_written(judged, tmp_path):
    torch.manual_seed(0)

    class Model:
        device = torch.device("cpu")
        image_tokenizer = TrainedTokenizer(
            TokenizerConfig(vocab_size=64, encoder_widths=(16, 16, 16), decoder_widths=(16, 16, 16))
        ).tokenizer.eval()

    figures = image_tokenizer.tokenizer_figures(Model(), 4, 0)
    assert figures["ceiling.truth"] == 0 and figures["baseline.truth"] == 0
    assert figures["tokenizer.psnr_hybrid"] < 20
    assert figures["tokenizer.part_iou"] < 0.5
    blank = Image.new("RGB", (128, 128), (247, 245, 240))
    _, one = judged(change=lambda step, image: blank if step == 1 else image)
    page.write_page([one], figures, tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert html.count("<figure") == len(one.pictures) and html.count('class="wrong"') == 1
    assert (tmp_path / "000-1.png").exists() and (tmp_path / "000-1-true.png").exists()


@pytest.fixture
def talked(monkeypatch):
    """Runs a talk in which every answer is true but for the words of the named turns, which a function changes."""

    def run(number, **changes):
        made, guides_asked = {}, iter(("guide", "change"))

        def kept(name, make):
            def turn(*arguments, **named):
                one = make(*arguments, **named)
                made[one.user] = name, one
                return one

            return turn

        for name, maker in (("talk", "talk_turn"), ("picture", "draw_turn"), ("outside", "outside_turn")):
            monkeypatch.setattr(talks, maker, kept(name, getattr(dialogue, maker)))

        def reply(model, processor, user, *rest):
            name, turn = made[user]
            return told(turn, words=changes.get(name, str))

        def judge(model, processor, product, prompt, *rest):
            words = changes.get(next(guides_asked), str)
            monkeypatch.setattr(guides, "generate", lambda *arguments: answer(product, prompt, words=words))
            return guides.judge(model, processor, product, prompt, *rest)

        monkeypatch.setattr(talks, "reply", reply)
        monkeypatch.setattr(talks, "judge", judge)
        return talks.talk_faults(None, FakeProcessor(), 0, number, None)

    return run


@pytest.mark.parametrize("number", range(4))
def test_a_talk_of_true_answers_is_right_and_each_wrong_one_is_named(talked, number):
    assert talked(number) == {}
    for name in ("talk", "picture", "outside"):
        assert set(talked(number, **{name: lambda text: "x" + text})) == {name}
    for name in ("guide", "change"):
        assert set(talked(number, **{name: lambda text: text.replace("## Tools", "## Tools\n- glue")})) == {name}
        assert set(talked(number, **{name: lambda text: text.replace("#", "")})) == {name}


def test_the_share_of_right_turns_counts_every_turn(monkeypatch):
    monkeypatch.setattr(talks, "talk_faults", lambda *rest: {"talk": ["said 'x'"]} if rest[3] == 0 else {})
    assert talks.talk_words(None, None, talks=2, seed=0, options=None) == 0.9


def test_changes_are_judged_on_products_that_no_training_has():
    rng = random.Random(5)
    for guide in (False, True):
        products = [sample_product(rng, split) for split in ("held_out", "train") for _ in range(20)]
        changed = [turns.unseen_change(product, rng, guide).product for product in products]
        assert all(one.held_out for one in changed[:20]), "a held-out product always has such a change"
        assert sum(one.held_out for one in changed[20:]) > 10
        assert all(one != product for one, product in zip(changed, products, strict=True))


def test_who_does_not_look_answers_with_the_commonest_answer_to_the_question(monkeypatch):
    questions = [
        Turn("ask", (), ("There are four legs.",), topic="count"),
        Turn("ask", (), ("There are four legs.",), topic="count"),
        Turn("ask", (), ("There are three legs.",), topic="count"),
        Turn("ask", (), ("There are two feet.",), topic="count"),
        Turn("ask", (), ("The seat is red.",), topic="colour"),
        Turn("ask", (), ("The seat is blue.",), topic="colour"),
        Turn("ask", (), ("The legs are blue.",), topic="colour"),
        Turn("ask", (), ("This is step 2.",), topic="step"),
        Turn("ask", (), ("It is finished.",), topic="step"),
        Turn("ask", (), ("This is a bed.",), topic="family"),
    ]
    told = iter(questions * 100)
    monkeypatch.setattr(turns, "held_out_question", lambda rng: (None, 0, next(told)))
    assert turns.blind_share(0) == pytest.approx(0.7)


def test_requests_outside_the_world_are_right_where_they_are_refused_in_words_alone(monkeypatch):
    asked = []

    def reply(model, processor, user, images, options):
        asked.append(user[0])
        refused = turns.Answer(dialogue.OUTSIDE_ANSWER, (), EMPTY)
        drawn = turns.Answer("Here is a lamp.", (Image.new("RGB", (8, 8)),), EMPTY)
        return refused if len(asked) % 4 else drawn

    monkeypatch.setattr(talks, "reply", reply)
    assert talks.outside_truth(None, None, requests=40, seed=0, options=None) == 0.75
    assert len(set(asked)) > 20
    things = [request for request in asked if request not in UNSEEN_QUESTIONS]
    words = set(re.findall("[a-z]+", " ".join(things).lower()))
    assert words & set(UNSEEN_THINGS) and not words & set(OUTSIDE_THINGS)
