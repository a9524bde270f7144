"""What peers answer, when they say it came, and what becomes of one that is not there."""

import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers import llama_peer, transformers_peer
from benchmarks.peers.peer import Absent, Answered, Length
from benchmarks.peers.transformers_peer import Arrivals, TransformersPeer
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL
from tests.support.tiny_models import DEPTH, checkpoint, write_checkpoint

PROMPT = [1, 17, 54, 8, 33]
LENGTH = Length(12, (2,))
EXIT = 2


def greedy(folder: Path, ids: Sequence[int], length: Length) -> list[int]:
    """The full model's choices one by one, without a cache."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text, never = list(ids), list(length.eos_ids) if length.exactly else []
    with torch.inference_mode():
        while len(text) < len(ids) + length.new_tokens:
            logits = model(torch.tensor([text])).logits[0, -1]
            logits[never] = float("-inf")
            text.append(int(logits.argmax()))
            if text[-1] in length.eos_ids:
                break
    return text[len(ids) :]


def both(folder: Path) -> list[TransformersPeer]:
    return transformers_peer.load(folder, core=0, early_exit=EXIT)


@pytest.mark.parametrize("index", [0, 1], ids=["generate", "early exit"])
def test_transformers_chooses_what_a_plain_loop_chooses(index: int) -> None:
    folder = checkpoint("llama")
    free = greedy(folder, PROMPT, Length(12, ()))
    # A token of the model's own text as the end of the text, so that holding it back matters.
    exactly = Length(12, (free[5],))
    may_end = Length(12, (free[5],), exactly=False)
    peer = both(folder)[index]
    assert len(greedy(folder, PROMPT, may_end)) < 12
    assert peer.answer(PROMPT, Length(12, ())).ids == free
    assert peer.answer(PROMPT, may_end).ids == greedy(folder, PROMPT, may_end)
    assert peer.answer(PROMPT, exactly).ids == greedy(folder, PROMPT, exactly)


def test_drafts_leave_at_the_layer_asked_for() -> None:
    peer = both(checkpoint("llama"))[1]
    passes = dict.fromkeys(range(DEPTH), 0)
    layers: Any = peer.model.model.layers

    def count(layer: int) -> Any:
        def hook(*_: object) -> None:
            passes[layer] += 1

        return hook

    for layer in range(DEPTH):
        layers[layer].register_forward_pre_hook(count(layer))
    peer.answer(PROMPT, LENGTH)
    assert passes[EXIT - 1] == passes[0] > passes[EXIT] == passes[DEPTH - 1]


def test_drafts_come_in_fewer_passes_than_tokens() -> None:
    plain, assisted = transformers_peer.load(SHIPPED_MODEL, core=0, early_exit=3)
    length = Length(24, (1,))
    expected = plain.answer([0, 100, 200, 300], length)
    found = assisted.answer([0, 100, 200, 300], length)
    assert found.ids == expected.ids
    assert 0.0 in found.gaps_s
    assert min(expected.gaps_s) > 0


def test_a_checkpoint_that_asks_for_sampling_is_greedy_all_the_same(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    wishes = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 4.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(wishes))
    plain, assisted = both(tmp_path)
    expected = greedy(tmp_path, PROMPT, LENGTH)
    assert plain.answer(PROMPT, LENGTH).ids == assisted.answer(PROMPT, LENGTH).ids == expected


def test_times_add_up_and_lie_within_the_call() -> None:
    peer = both(checkpoint("llama"))[0]
    peer.answer(PROMPT, LENGTH)
    began = time.perf_counter()
    found = peer.answer(PROMPT, LENGTH)
    took = time.perf_counter() - began
    assert len(found.ids) == 12
    assert len(found.gaps_s) == 11
    assert 0 < found.ttft_s < found.total_s <= took
    assert found.total_s == pytest.approx(found.ttft_s + sum(found.gaps_s))


def test_tokens_of_one_pass_arrive_together_and_the_prompt_not_at_all() -> None:
    arrivals = Arrivals()
    arrivals.put(torch.tensor([[5, 6, 7]]))
    assert arrivals.times == []
    arrivals.put(torch.tensor([8]))
    arrivals.put(torch.tensor([[9, 10]]))
    first, second, third = arrivals.times
    assert first < second == third


def test_tokens_without_times_are_refused() -> None:
    assert Answered.of([7, 8], 10.0, [11.0, 13.0]) == Answered([7, 8], 1.0, [2.0], 3.0)
    for ids, arrivals in (([7], [11.0, 12.0]), ([], [])):
        with pytest.raises(ValueError, match="tokens came"):
            Answered.of(ids, 10.0, arrivals)


@pytest.mark.parametrize("layer", [0, DEPTH])
def test_an_early_exit_outside_the_model_is_refused(layer: int) -> None:
    with pytest.raises(CommandError, match=f"layer {layer}: the model has {DEPTH}"):
        transformers_peer.load(checkpoint("llama"), core=0, early_exit=layer)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot load"):
        transformers_peer.load(tmp_path, core=0, early_exit=1)


def loaded(folder: Path) -> list[Absent | llama_peer.LlamaPeer]:
    with llama_peer.load(folder, core=0, edge_core=0, context=64) as peers:
        return peers


def reasons(folder: Path) -> set[str]:
    """Why both of llama.cpp's peers are absent."""
    found = [each for each in loaded(folder) if isinstance(each, Absent)]
    assert [each.name for each in found] == ["llama.cpp cloud", "llama.cpp edge"]
    return {each.reason for each in found}


def test_without_the_package_llama_is_absent_and_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    (reason,) = reasons(checkpoint("llama"))
    assert "cannot be imported" in reason
    assert "llama_cpp" in reason
    assert "pip install 'llama-cpp-python" in reason


def test_without_the_writer_of_its_files_llama_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.gguf_file", raising=False)
    (reason,) = reasons(checkpoint("llama"))
    assert "gguf" in reason
    assert "pip install" in reason


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_library_that_does_not_load_is_absent(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> ModuleType:
        raise error("libgomp.so.1: no such file")

    monkeypatch.setattr(importlib, "import_module", broken)
    (reason,) = reasons(checkpoint("llama"))
    assert "libgomp.so.1" in reason


def test_a_model_llama_cannot_run_makes_it_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))
    (reason,) = reasons(checkpoint("qwen2"))
    assert "Qwen2ForCausalLM" in reason
    assert "pip" not in reason


@pytest.fixture(scope="session")
def _llama_cpp() -> Iterator[None]:
    package = pytest.importorskip("llama_cpp")
    yield
    # It opens these when imported and leaves them to the interpreter's end, which complains.
    for file in (package._utils.outnull_file, package._utils.errnull_file):
        file.close()


@pytest.mark.usefixtures("_llama_cpp")
@pytest.mark.parametrize("folder", [SHIPPED_MODEL, checkpoint("llama")], ids=["shipped", "tiny"])
def test_llama_chooses_what_transformers_chooses(folder: Path) -> None:
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    short, longer, longest = (
        [each * 7 % vocabulary for each in range(1, 1 + size)] for size in (3, 40, 600)
    )
    plain = both(folder)[0]
    free = plain.answer(short, Length(16, ())).ids
    asked = [
        (short, Length(16, (free[4],))),
        (short, Length(16, (free[4],), exactly=False)),
        (longer, Length(16, ())),
        (longest, Length(4, ())),  # more than llama.cpp takes at once
    ]
    with llama_peer.load(folder, core=0, edge_core=0, context=604) as peers:
        for ids, length in asked:
            expected = plain.answer(ids, length).ids
            for peer in peers:
                assert isinstance(peer, llama_peer.LlamaPeer), peer
                found = peer.answer(ids, length)
                assert found.ids == expected
                assert len(found.gaps_s) == len(expected) - 1
