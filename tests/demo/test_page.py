"""What the page's handlers do, called as Gradio calls them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_fixtures import GUIDE, script, tiny_agent
from demo_fixtures import ASK, NAME, QUICK, VISITOR, pictures, run, tiny_rooms, words
from picture_files import encoded, gradient

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

from demo.app import _Page
from demo.controls import NO_ADAPTER
from demo.history import new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.rooms import Rooms
from vlm.errors import UserError
from vlm.message import MAX_PICTURES

MODEL = "bundled model"
CHOSEN = (NO_ADAPTER, "", 0.0, 1.0, 1.0, 3)


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))


@pytest.fixture
def page(rooms: Rooms) -> _Page:
    return _Page(rooms, "secret")


def new(update: dict[Any, Any], component: Any) -> dict[str, Any]:
    """What an update changes of a component."""
    return update[component].constructor_args


def upload(page: _Page, name: str = "photo.png", content: bytes | None = None) -> Path:
    """A file where Gradio puts what was uploaded."""
    path = page.rooms.files.folder / new_token() / name
    path.parent.mkdir()
    path.write_bytes(encoded(gradient()) if content is None else content)
    return path


def send(page: _Page, *files: Path, seed: str = "", text: str = ASK) -> list[dict[Any, Any]]:
    chosen = (CHOSEN[0], seed, *CHOSEN[2:])
    return list(page._say(VISITOR, NAME, MODEL, *chosen, {"text": text, "files": [str(file) for file in files]}))


def test_an_upload_is_removed_once_it_is_answered(page: _Page):
    photo = upload(page)
    last = send(page, photo)[-1]
    room = page.rooms.room(VISITOR, NAME)
    assert len(pictures(room.messages()[0])) == 1 and not photo.exists()
    assert new(last, page.box)["submit_btn"] is True and "value" not in new(last, page.box), "the box stays empty"
    assert last[page.status] == f"Seed of the last answer: {room.last_seed}"


def test_a_message_that_is_refused_keeps_its_picture(page: _Page):
    photo = upload(page)
    with pytest.warns(UserWarning, match="no whole number"):
        refused = send(page, photo, seed="seven")
    assert photo.is_file() and all(page.box not in update for update in refused), "the box keeps what is in it"
    running = page.rooms.room(VISITOR, NAME).say(ASK, [], QUICK)
    next(running)
    with pytest.warns(UserWarning, match="still under way"):
        refused = send(page, photo)
    assert photo.is_file() and all(page.box not in update for update in refused)
    running.close()


def test_a_message_that_was_not_answered_is_given_back_with_its_picture(page: _Page, monkeypatch):
    def broken(*_given, **_named):
        raise MemoryError
        yield

    photo = upload(page)
    with monkeypatch.context() as patch:
        patch.setattr("vlm.chat.answer_events", broken)
        last = send(page, photo)[-1]
    assert new(last, page.box)["value"] == {"text": ASK, "files": [str(photo)]} and photo.is_file()
    send(page, photo)
    assert not photo.exists()


def test_too_many_pictures_are_refused_before_any_is_read(page: _Page, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []
    monkeypatch.setattr("demo.room.read_upload", lambda path: read.append(path) or path.read_bytes())
    photos = [upload(page) for _ in range(MAX_PICTURES + 1)]
    last = send(page, *photos)[-1]
    room = page.rooms.room(VISITOR, NAME)
    assert f"{MAX_PICTURES + 1} pictures" in words(room.messages()[-1]) and read == []
    assert new(last, page.box)["value"]["files"] == [str(photo) for photo in photos]


def test_undo_gives_words_and_pictures_back(page: _Page):
    send(page, upload(page))
    given = new(page._undo(VISITOR, NAME, MODEL), page.box)["value"]
    assert given["text"] == ASK and len(given["files"]) == 1
    send(page, Path(given["files"][0]), text=given["text"])
    assert len(pictures(page.rooms.room(VISITOR, NAME).messages()[0])) == 1


def test_closing_a_page_does_not_wait_for_the_model(page: _Page, monkeypatch: pytest.MonkeyPatch):
    import vlm.generate

    drawing, draw = threading.Event(), threading.Event()
    plain = vlm.generate._decode

    def held(*given):
        drawing.set()
        draw.wait(60)
        return plain(*given)

    monkeypatch.setattr("vlm.generate._decode", held)
    running = page._say(VISITOR, NAME, MODEL, *CHOSEN, {"text": ASK, "files": []})
    while not drawing.is_set():
        next(running)
    running.close()
    room = page.rooms.room(VISITOR, NAME)
    assert room.busy and not draw.is_set(), "the answer is still being ended, elsewhere"
    draw.set()
    for thread in threading.enumerate():
        if thread.name == "closing":
            thread.join()
    assert not room.busy and [turn.reason for turn in room.session.turns] == ["cancelled"]


def test_a_conversation_left_in_mid_drawing_is_listed_once_it_has_ended(page: _Page, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("demo.app.FOLLOW", 0.01)
    running = page.rooms.room(VISITOR, NAME).say(ASK, [], QUICK)
    next(running), next(running)
    entered = page._begin(VISITOR, NAME, MODEL)
    following = page._follow(VISITOR, entered[page.name], MODEL, entered[page.entered])
    assert all(page.controls.history not in next(following) for _ in range(5)), "it is still under way"
    running.close()
    *_, last = following
    listed = new(last, page.controls.history)
    assert [name for _title, name in listed["choices"]] == [NAME] and listed["value"] is None


def test_an_answer_that_ends_before_the_page_follows_it_is_shown_whole(page: _Page):
    running = page.rooms.room(VISITOR, NAME).say(ASK, [], QUICK)
    next(running), next(running)
    entered = page._open(VISITOR, NAME, MODEL)
    assert page.box not in entered, "nothing can be sent while the answer is under way"
    running.close()
    states = list(page._follow(VISITOR, NAME, MODEL, entered[page.entered]))
    shown = next(state for state in states if page.box in state)
    assert new(shown, page.box)["interactive"] is True and "Stopped." in str(shown[page.chat])
    again = page._open(VISITOR, NAME, MODEL)
    assert all(page.box not in state for state in page._follow(VISITOR, NAME, MODEL, again[page.entered]))


def test_two_pages_ticks_add_up(page: _Page):
    send(page)
    first, second = "1. Attach leg 1.", "2. Attach leg 2."
    assert page._tick(VISITOR, NAME, MODEL, [], [first]) == [first]
    page._tick(VISITOR, NAME, MODEL, [], [second])
    room = page.rooms.room(VISITOR, NAME)
    assert room.ticked() == [first, second], "a page that did not know of the first took nothing away"
    page._tick(VISITOR, NAME, MODEL, [first], [])
    assert room.ticked() == [second]


def test_the_seed_of_a_step_drawn_anew_is_shown_and_draws_it_again(page: _Page):
    send(page)
    room = page.rooms.room(VISITOR, NAME)
    last = list(page._redraw_step(VISITOR, NAME, MODEL, *CHOSEN, 2))[-1]
    drawn = Path(pictures(room.messages()[1])[1]).read_bytes()
    seed = page._last_seed(VISITOR, NAME, MODEL)
    assert last[page.status] == f"Seed of step 2, drawn anew: {seed}" and new(last, page.panel.step)["value"] == 2
    list(page._redraw_step(VISITOR, NAME, MODEL, *CHOSEN, 2))
    assert Path(pictures(room.messages()[1])[1]).read_bytes() != drawn
    list(page._redraw_step(VISITOR, NAME, MODEL, CHOSEN[0], seed, *CHOSEN[2:], 2))
    assert Path(pictures(room.messages()[1])[1]).read_bytes() == drawn


@pytest.fixture
def menu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], _Page]:
    """Pages over three models, one of other settings, one that vanished; each as after a restart."""
    script(monkeypatch, GUIDE)

    def vanished():
        raise UserError("/srv/private/model is gone")

    def other():
        return tiny_agent(seed=1, guidance=4.0, residual_steps=5)

    def made() -> _Page:
        loaders = {"one": tiny_agent, "two": other, "gone": vanished}
        return _Page(Rooms(tmp_path, ModelMenu(loaders), Line()), "secret")

    return made


def test_a_switch_takes_the_settings_of_the_other_model(menu):
    page = menu()
    found = page._switch(VISITOR, NAME, "two")
    controls = page.controls
    assert [found[part] for part in (controls.model, controls.guidance, controls.residual_steps)] == ["two", 4.0, 5]
    assert controls.guidance not in page._begin(VISITOR, NAME, "two"), "what is chosen for a model stays"


def test_a_model_that_vanished_is_told_and_the_menu_goes_back(menu):
    page = menu()
    with pytest.warns(UserWarning, match="gone.* cannot be loaded") as told:
        found = page._switch(VISITOR, NAME, "gone")
    assert found[page.controls.model] == "one" and page.controls.guidance not in found
    assert not any("private" in str(one.message) for one in told)


def test_a_conversation_that_is_opened_again_shows_its_model(menu):
    room = menu().rooms.room(VISITOR, NAME, "two")
    run(room, room.say(ASK, [], QUICK))
    page = menu()
    found = page._open(VISITOR, NAME, "one")
    assert found[page.name] == NAME
    assert [found[part] for part in (page.controls.model, page.controls.guidance)] == ["two", 4.0]
    *_, loaded = page._load(VISITOR)
    assert loaded[page.controls.model] == "two"


def test_an_error_in_a_corner_of_the_page_names_no_folder_of_the_server(page: _Page, room, tmp_path: Path):
    (room.folder / "conversation.json").write_text("{")
    later = _Page(tiny_rooms(tmp_path), "secret")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = later._open(VISITOR, NAME, MODEL)
    (said,) = {str(one.message) for one in told if "conversation" in str(one.message)}
    assert str(tmp_path) not in said and room.folder.parent.name not in said
    assert found[later.name] != NAME and found[later.chat] == []


def test_a_page_that_still_shows_a_deleted_conversation_is_told(page: _Page):
    send(page)
    page._delete(VISITOR, NAME, MODEL)
    with pytest.warns(UserWarning, match="was deleted"):
        send(page, text="And another?")
    assert page.rooms.entries(VISITOR) == []
