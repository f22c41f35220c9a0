"""Is everything here that a guide needs? Versions, devices, memory, the bundle, and a short self-test.

Each check is a `Finding` that says what was found and, where something is wrong, what to do. Light to import: a broken
library is a finding too, not a traceback. Knows no terminal.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlm.bundle import bundle_path, check_bundle, fingerprint, load_bundle
from vlm.checksums import CHECKSUMS_FILE, verify_checksums
from vlm.errors import UserError

if TYPE_CHECKING:
    import torch

    from vlm.model import HartVLM
    from vlm.processor import StreamProcessor

PACKAGE = "hart-vlm"
LEAST_MEMORY = 1 << 30
LEAST_DISK = 100 << 20
LEAST_PSNR = 20.0
"""Decibels of a round trip below which a tokenizer's pictures are no use."""

SLOW = 5.0
"""Seconds for one picture after which the self-test stops drawing."""

REINSTALL = "install again: pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """One check. advice: what to do, for all that is not "ok"."""

    name: str
    state: Literal["ok", "warning", "wrong"]
    found: str
    advice: str = ""


def examine(bundle: Path | str | None = None, device: str = "cpu", self_test: bool = True) -> Iterator[Finding]:
    """All checks, in order, each yielded as soon as it is made; they never raise.

    self_test: load the bundle on `device`, write and draw with it, some seconds on a processor.
    """
    yield from _safely("python", _python)
    yield from _safely("packages", _packages)
    yield from _safely("devices", _devices)
    yield from _safely("threads", _threads)
    yield from _safely("memory", _memory)
    yield from _safely("disk", _disk)
    usable = True
    for finding in _safely("bundle", lambda: _bundle(bundle)):
        usable = usable and finding.state != "wrong"
        yield finding
    if self_test and usable:
        yield from _safely("self-test", lambda: _self_test(bundle, device))


def _safely(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except UserError as error:
        yield Finding(name, "wrong", str(error), "do as it says, then run this again")
    except Exception as error:
        reason = " ".join(str(error).split())
        yield Finding(name, "wrong", f"unexpected {type(error).__name__}: {reason}", REINSTALL)


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "wrong", found, "" if good else "install Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires(PACKAGE) or []
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warning", f"{PACKAGE} runs without being installed", REINSTALL)
        return
    wrong, good = [], [f"{PACKAGE} {version}"]
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing, expected {requirement.specifier}")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            good.append(f"{requirement.name} {installed}")
        else:
            wrong.append(f"{requirement.name} is {installed}, expected {requirement.specifier}")
    for fault in wrong:
        yield Finding("packages", "wrong", fault, REINSTALL)
    if not wrong:
        yield Finding("packages", "ok", ", ".join(good))


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("devices", "ok", f"cpu: {platform.processor() or platform.machine()}, {_cores()} cores")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(index)
            yield Finding("devices", "ok", f"cuda:{index}: {one.name}, {one.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield Finding(
            "devices", "warning", f"there is an NVIDIA GPU, but torch is built {built} and does not see it",
            "install the build of torch that fits your driver, see pytorch.org",
        )  # fmt: skip
    if torch.backends.mps.is_available():
        yield Finding("devices", "ok", "mps: an Apple GPU")


def _threads() -> Iterator[Finding]:
    import torch

    threads, cores = torch.get_num_threads(), _cores()
    found = f"{threads} for {cores} cores"
    if threads > cores:
        yield Finding("threads", "warning", found, f"set OMP_NUM_THREADS={cores}: more threads than cores slow it down")
    elif threads == 1 < cores:
        yield Finding("threads", "warning", found, "unset OMP_NUM_THREADS to use all cores")
    else:
        yield Finding("threads", "ok", found)


def _memory() -> Iterator[Finding]:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    found = f"{free / 2**30:.1f} GiB available"
    good = free >= LEAST_MEMORY
    yield Finding("memory", "ok" if good else "warning", found, "" if good else "close something: 1 GiB is needed")


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    found = f"{free / 2**30:.1f} GiB free in {here}"
    if not os.access(here, os.W_OK):
        yield Finding("disk", "warning", f"{here} cannot be written to", "give --out a folder that can")
    elif free < LEAST_DISK:
        yield Finding("disk", "warning", found, "free some space, or give --out a folder elsewhere")
    else:
        yield Finding("disk", "ok", found)


def _bundle(bundle: Path | str | None) -> Iterator[Finding]:
    folder = bundle_path(bundle)
    check_bundle(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    yield Finding("bundle", "ok", f"{folder}, {size / 1e6:.1f} MB of weights, fingerprint {fingerprint(folder)}")
    agreeing = verify_checksums(folder)
    if agreeing is None:
        yield Finding("checksums", "ok", f"the bundle has no file {CHECKSUMS_FILE}, so nothing to compare")
    else:
        yield Finding("checksums", "ok", f"{agreeing} files are as they should be")


def _self_test(bundle: Path | str | None, device: str) -> Iterator[Finding]:
    from vlm.devices import pick_device

    started = time.monotonic()
    model, processor = load_bundle(bundle, device=pick_device(device))
    yield Finding("load", "ok", f"loaded on {device} in {time.monotonic() - started:.1f} s, all weights finite")
    yield _round_trip(model, processor)
    yield from _draws(model, processor)


def _round_trip(model: HartVLM, processor: StreamProcessor) -> Finding:
    """A picture of the flatpack world to tokens and back."""
    import random

    from vlm.flatpack.product import sample_product
    from vlm.flatpack.render import render
    from vlm.generate import decode_picture
    from vlm.pictures import psnr, to_tensor

    product = sample_product(random.Random(0))
    picture = render(product, 1, processor.resolution)
    shown = decode_picture(model, processor.encode_image(picture, model.image_tokenizer))
    quality = float(psnr(to_tensor([shown]), to_tensor([picture])))
    good = quality >= LEAST_PSNR
    advice = "" if good else "the bundle's tokenizer is badly trained or damaged; restore the bundle's files"
    return Finding("pictures", "ok" if good else "warning", f"a round trip keeps {quality:.1f} dB", advice)


def _draws(model: HartVLM, processor: StreamProcessor) -> Iterator[Finding]:
    """Words and two drawings from one seed, which must agree to the bit."""
    import torch

    from vlm.sampling import GenerationOptions
    from vlm.session import StreamSession

    question = [{"role": "user", "content": "How do I assemble a blue stool?"}]
    asked = processor.encode(question, add_generation_prompt=True)
    options = GenerationOptions(previews=False)
    drawings: list[torch.Tensor] = []
    for _ in range(2):
        session = StreamSession(model)
        started = time.monotonic()
        logits = session.feed(asked)
        words = 16
        for _ in range(words):
            logits = session.text(int(logits[0, : processor.config.text_vocab_size].argmax()))
        if not bool(logits.isfinite().all()):
            yield Finding("words", "wrong", "the model's scores are no numbers", "restore the bundle's files")
            return
        writing = time.monotonic() - started
        started = time.monotonic()
        for _ in session.draw_scales(options, torch.Generator().manual_seed(0)):
            pass
        drawing = time.monotonic() - started
        drawings.append(torch.cat([session.last_tokens.flat_codes().flatten(), session.last_tokens.residual.flatten()]))
        if drawing > SLOW:
            break
    speed = f"a picture in {drawing:.1f} s, {words / writing:.0f} pieces of text a second"
    if len(drawings) == 1:
        yield Finding("speed", "warning", speed, "close what else runs, or use --device with a GPU")
    elif not torch.equal(*drawings):
        yield Finding(
            "seed", "warning", "one seed gave two different pictures on this device", "use --device cpu to repeat one"
        )
    else:
        yield Finding("speed", "ok", f"{speed}; one seed, one picture")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
