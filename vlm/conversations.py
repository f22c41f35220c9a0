"""Conversations as folders: saved whole, loaded to go on to the bit on the same model, from their messages on another.

    conversation.json      what was said, settings, seeds, actions, the model's fingerprint; names the files below
    stream-….safetensors   ids and residuals of every turn
    pictures/….png         every picture, sent and drawn
    transcript.md          the same to read

Knows the form of the folder. `conversation.json` is replaced last and at once, and the files it names are never
changed, only added; so a kill at any moment leaves the conversation as it was before or as it is now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError

from hart.tokens import HybridTokens
from vlm.backbone import Backbone
from vlm.bundle import check_safetensors
from vlm.chat import ChatSession, Turn
from vlm.conversion import read_anew
from vlm.errors import UserError
from vlm.files import clear_leftovers, output_file, output_folder
from vlm.message import SentPicture
from vlm.record import drawn_on, options_of, recorded_options
from vlm.saved import CONVERSATION_FILE, SavedConversation, SavedPart, SavedTurn, read_message, read_saved
from vlm.stream import Conversation, parse, span_ids
from vlm.transcript import transcript


def save_conversation(session: ChatSession, folder: Path | str) -> Path:
    """Write a session to `folder`, new or holding an earlier conversation, which is replaced; return the folder.

    Raises `UserError` if the place cannot be written, or holds something else; an earlier conversation is then whole.
    """
    session.check_idle()
    folder = Path(folder)
    try:
        if (folder / CONVERSATION_FILE).is_file() and not folder.is_symlink():
            # Names in it change with what is saved, so a killed save is not met again by its own.
            for place in (folder, folder / "pictures"):
                clear_leftovers(place)
            _fill(session, folder)
        else:
            with output_folder(folder, marker=CONVERSATION_FILE) as staging:
                _fill(session, staging)
    except OSError as error:
        raise UserError(
            f"cannot write the conversation to {folder} ({error.strerror or error}); choose another place"
        ) from error
    return folder


def load_conversation(backbone: Backbone, folder: Path | str) -> ChatSession:
    """The session that `save_conversation` wrote.

    On the model that wrote it, it goes on to the bit as if it had never been away. On another model it is made of its
    messages: the first event of the next answer is then `LoadedFromMessages`, also found in `notices`. Raises
    `UserError` if the folder is of another version, or a file is missing or damaged.
    """
    folder = Path(folder)
    saved = read_saved(folder / CONVERSATION_FILE)
    session = ChatSession(backbone, system=saved.system, seed=saved.seed)
    if saved.model == backbone.fingerprint:
        _restore(session, saved, folder)
    else:
        read_anew(session, saved, folder)
    return session


def _fill(session: ChatSession, folder: Path) -> None:
    """Write all files of a session; those that only an earlier state needed are removed at the end."""
    before = {*folder.glob("stream-*.safetensors"), *folder.glob("pictures/*.png")}
    pictures = _Pictures(session, folder / "pictures")
    turns = tuple(_saved_turn(session, number, pictures) for number in range(len(session.turns)))
    needed = set(pictures.needed)
    stream = None
    if session.turns:
        whole = Conversation.cat([turn.stream for turn in session.turns])
        stream = f"stream-{whole.fingerprint()[:16]}.safetensors"
        needed.add(folder / stream)
        if folder / stream not in before:
            with output_file(folder / stream) as staging:
                whole.save(staging)
    saved = SavedConversation(
        model=session.backbone.fingerprint,
        **drawn_on(session),
        system=session.system,
        seed=session.seed,
        stream=stream,
        turns=turns,
        actions=tuple(session.actions),
    )
    with output_file(folder / CONVERSATION_FILE) as staging:
        staging.write_text(saved.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    with output_file(folder / "transcript.md") as staging:
        staging.write_text(transcript(saved), encoding="utf-8", newline="\n")
    for path in before - needed:
        path.unlink(missing_ok=True)


class _Pictures:
    """Writes pictures under names that follow from what they show, each one once; keeps which are needed."""

    def __init__(self, session: ChatSession, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.needed: list[Path] = []

    def sent(self, turn: int, picture: SentPicture) -> SavedPart:
        return self._put(turn, hashlib.sha256(picture.png).hexdigest(), lambda: picture)

    def drawn(self, turn: int, number: int, tokens: HybridTokens) -> SavedPart:
        session, answered = self.session, self.session.turns[turn]
        ids = span_ids(tokens, session.backbone.model.config)
        key = Conversation(ids, tokens.residual, torch.ones(len(ids), dtype=torch.bool)).fingerprint()
        if answered.adapter is not None:
            # Its decoder may show the very tokens of the base otherwise. By name, so that the file stays where a
            # conversation is loaded, and saved again, without the adapter.
            key = hashlib.sha256(f"{key} {answered.adapter}".encode()).hexdigest()
        # Decoded only where the file is new, so that saving after each turn costs no more for a long conversation.
        return self._put(turn, key, lambda: SentPicture.of(session.picture(answered, number, tokens)))

    def _put(self, turn: int, key: str, picture: Callable[[], SentPicture]) -> SavedPart:
        name = f"{turn + 1:03d}-{key[:16]}.png"
        path = self.folder / name
        self.needed.append(path)
        if not path.is_file():
            self.folder.mkdir(exist_ok=True)
            with output_file(path) as staging:
                staging.write_bytes(picture().png)
        return SavedPart(picture=name)


def _saved_turn(session: ChatSession, number: int, pictures: _Pictures) -> SavedTurn:
    turn = session.turns[number]
    message = [
        SavedPart(text=part) if isinstance(part, str) else pictures.sent(number, part) for part in turn.message
    ]
    shown = count()
    answer = [
        SavedPart(text=part["text"]) if part["type"] == "text" else pictures.drawn(number, next(shown), part["tokens"])
        for part in session.backbone.processor.decode(turn.stream)[-1]["content"]
    ]
    return SavedTurn(
        message=tuple(message),
        answer=tuple(answer),
        options=recorded_options(turn.options),
        reason=turn.reason,
        context=turn.context,
        adapter=turn.adapter,
        speaker=turn.speaker,
        origin=turn.origin,
        asked_ids=len(turn.asked.ids),
        asked_pictures=len(turn.asked.residuals),
        answer_ids=len(turn.answer.ids),
        answer_pictures=len(turn.answer.residuals),
    )


def _restore(session: ChatSession, saved: SavedConversation, folder: Path) -> None:
    if saved.stream is None:
        return
    path = folder / saved.stream
    check_safetensors(path)
    try:
        whole = Conversation.load(path)
        _take(session, saved, whole, folder)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} does not hold the conversation's stream: {error}; restore the folder") from error
    session.actions = list(saved.actions)


def _take(session: ChatSession, saved: SavedConversation, whole: Conversation, folder: Path) -> None:
    """Cut the stream into turns. Raises ValueError where it does not fit them."""
    if whole.ids.dtype != torch.long or whole.assistant.dtype != torch.bool:
        raise ValueError(f"its ids are {whole.ids.dtype}, its mask {whole.assistant.dtype}, expected int64 and bool")
    ids = pictures = 0
    config = session.backbone.model.config

    def piece(count: int, spans: int) -> Conversation:
        nonlocal ids, pictures
        there, shown = slice(ids, ids + count), slice(pictures, pictures + spans)
        cut = Conversation(whole.ids[there].clone(), whole.residuals[shown].clone(), whole.assistant[there].clone())
        ids, pictures = ids + count, pictures + spans
        parse(cut, config)
        return cut

    for turn in saved.turns:
        asked, answer = piece(turn.asked_ids, turn.asked_pictures), piece(turn.answer_ids, turn.answer_pictures)
        if int(asked.ids[0]) != config.turn_start_id or int(answer.ids[-1]) != config.turn_end_id:
            raise ValueError("a turn does not begin or end as turns do")
        session.add_turn(
            Turn(
                message=read_message(turn.message, folder),
                asked=asked,
                answer=answer,
                options=options_of(turn.options),
                reason=turn.reason,
                context=turn.context,
                adapter=turn.adapter,
                origin=turn.origin,
                speaker=turn.speaker,
                shown=_shown(session, turn, folder),
            )
        )
    if ids != len(whole.ids) or pictures != len(whole.residuals):
        raise ValueError(f"it has {len(whole.ids)} ids, {len(whole.residuals)} pictures; the turns {ids}, {pictures}")


def _shown(session: ChatSession, turn: SavedTurn, folder: Path) -> dict[int, SentPicture]:
    """The files of an answer's pictures, if what drew them is not here: another model, or an adapter that is missing or
    is another by the same name."""
    if turn.origin is None and (
        turn.speaker is None or session.backbone.speaker(turn.adapter).fingerprint == turn.speaker
    ):
        return {}
    pictures = tuple(part for part in turn.answer if part.picture is not None)
    return {number: part for number, part in enumerate(read_message(pictures, folder)) if isinstance(part, SentPicture)}
