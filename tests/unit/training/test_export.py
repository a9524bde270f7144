"""An exported folder is an ordinary checkpoint, and what is measured on it is written beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from shared.decoding.certainty import certainty
from shared.decoding.sampling import SamplingParameters
from shared.errors import BadModel
from shared.model.exits import ExitInfo, read_exits
from tests.unit.training.conftest import documents
from training.backbone import export as exporting
from training.backbone.export import export
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.config import TrainingConfig
from training.evaluation import reading as readings
from training.evaluation.card import write_card
from training.evaluation.perplexity import evaluate
from training.evaluation.reading import Reader, join
from training.evaluation.samples import OPENINGS
from training.evaluation.tuning import tune_thresholds
from training.evaluation.writing import DRAWN, GREEDY, SAMPLED
from training.text.tokenizer import train_tokenizer


@pytest.fixture
def model(tiny: TrainingConfig) -> EarlyExitLlama:
    torch.manual_seed(0)
    model = EarlyExitLlama(llama_config(tiny.size, begin=0, end=1, pad=2), tiny.size.exits)
    for weight in model.exit_norms.parameters():
        torch.nn.init.uniform_(weight)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, model: EarlyExitLlama) -> Path:
    export(model, train_tokenizer(documents(20), 300), tmp_path / "model", training={"format": 1})
    return tmp_path / "model"


def test_the_folder_loads_unaided_and_gives_the_same_logits(
    folder: Path, model: EarlyExitLlama
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(0, 300, (2, 20))
    rounded = model.to(torch.bfloat16).to(torch.float32)
    torch.testing.assert_close(loaded(ids).logits, rounded.logits(rounded(ids)[4]))


def test_what_is_shipped_is_bfloat16_tied_and_readable_by_everybody(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_generation_stops_at_the_end_mark(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    defaults = GenerationConfig.from_pretrained(folder)
    assert defaults.eos_token_id == tokenizer.eos_token_id == 1
    assert defaults.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.model_max_length == 128


def test_a_large_model_is_cut_into_shards_and_an_older_export_leaves_nothing(
    folder: Path, model: EarlyExitLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = [folder / name for name in ("evaluation.json", "agreement.json", "agreement-1-2.json")]
    for path in stale:
        path.write_text("of other weights")
    monkeypatch.setattr(exporting, "SHARD_LIMIT", "40KB")
    export(model, train_tokenizer(documents(20), 300), folder, training={"format": 1})
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(path.stat().st_size < 45_000 for path in shards)
    assert not (folder / "model.safetensors").exists()
    assert not any(path.exists() for path in stale)
    AutoModelForCausalLM.from_pretrained(folder)


def test_exits_lie_beside_the_weights_untuned(folder: Path, model: EarlyExitLlama) -> None:
    norms = load_file(folder / "exits.safetensors")
    assert norms.keys() == {"exits.1.norm.weight", "exits.2.norm.weight"}
    expected = model.exit_norms["2"].state_dict()["weight"].to(torch.bfloat16)
    assert torch.equal(norms["exits.2.norm.weight"], expected)
    assert read_exits(folder).infos == {1: ExitInfo(0.8, None), 2: ExitInfo(0.8, None)}


def test_a_reading_says_what_exits_and_end_say(folder: Path, model: EarlyExitLlama) -> None:
    rounded = model.to(torch.bfloat16).to(torch.float32)
    ids = torch.randint(0, 300, (15,))
    reading = Reader(folder).read(ids.tolist())
    normed = rounded(ids[None])
    for row, layer in enumerate((1, 2, 4)):
        probabilities = rounded.logits(normed[layer])[0].softmax(-1)
        torch.testing.assert_close(reading.confidence[row], probabilities.max(-1).values)
        assert torch.equal(reading.choices[row], probabilities.argmax(-1))
        followed = -probabilities[torch.arange(14), ids[1:]].log()
        torch.testing.assert_close(reading.losses[row, :-1], followed)
    assert reading.losses[:, -1].isnan().all()
    assert torch.equal(reading.agrees[0], reading.choices[0] == reading.choices[2])


@pytest.mark.parametrize("parameters", [GREEDY, DRAWN])
@pytest.mark.parametrize("start", [0, 3])
def test_a_large_vocabulary_is_read_a_few_places_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, parameters: SamplingParameters, start: int
) -> None:
    reader, ids = Reader(folder), list(range(10, 25))
    whole = reader.read(ids, start, parameters, seed=7)
    held: list[int] = []

    def certain(logits: torch.Tensor) -> torch.Tensor:
        held.append(logits.shape[1])
        return certainty(logits)

    monkeypatch.setattr(readings, "certainty", certain)
    monkeypatch.setattr(readings, "_HELD", 4 * 300 + 1)
    parts = reader.read(ids, start, parameters, seed=7)
    assert max(held) == 4
    assert sum(held) == len(ids) - start
    assert torch.equal(parts.choices, whole.choices)
    torch.testing.assert_close(parts.signals, whole.signals)
    torch.testing.assert_close(parts.losses, whole.losses, equal_nan=True)


def test_parts_of_readings_join_in_order(folder: Path) -> None:
    reading = Reader(folder).read(list(range(10)))
    whole = join([reading.at(0, 4), reading.at(4, 10)])
    assert torch.equal(whole.choices, reading.choices)


def test_company_does_not_change_a_continuation(trained: Path) -> None:
    reader = Reader(trained)
    prompts = [reader.ids(text) for text in ("the king", "daughter had gone that winter night")]
    together = reader.continuations(prompts, 20)
    assert together == [reader.continuations([prompt], 20)[0] for prompt in prompts]
    for prompt, answer in zip(prompts, together, strict=True):
        said = reader.read([*prompt, *answer]).choices[-1]
        assert said[len(prompt) - 1 : -1].tolist() == answer


def test_a_folder_without_exits_is_refused(folder: Path) -> None:
    (folder / "exits.safetensors").unlink()
    (folder / "exits.json").unlink()
    with pytest.raises(BadModel, match="no exits"):
        Reader(folder)


def test_exits_name_the_weights_they_belong_to(folder: Path, model: EarlyExitLlama) -> None:
    named = read_exits(folder).model_fingerprint
    tokenizer = train_tokenizer(documents(20), 300)
    export(model, tokenizer, folder, training={"format": 1})
    assert read_exits(folder).model_fingerprint == named
    model.llama.model.norm.weight.data[0] += 1
    export(model, tokenizer, folder, training={"format": 1})
    assert read_exits(folder).model_fingerprint not in (named, None)


def test_evaluation_scores_text_and_references(trained: Path, held_out: Path) -> None:
    scores = evaluate(trained, held_out)
    assert scores.keys() == {"stories", "questions"}
    reader = Reader(trained)
    text = documents(12, offset=5)[0]
    prompt, ids = reader.ids(f"{text[:30]}\n"), reader.ids(f"{text[:30]}\n{text[30:50].strip()}")
    one = evaluate(trained, held_out, tokens=1)["questions"]
    losses = reader.read(ids).losses[2, len(prompt) - 1 : -1]
    assert one.tokens == len(ids) - len(prompt)
    assert one.perplexity[4] == pytest.approx(losses.mean().exp().item(), rel=1e-5)
    assert 0 <= scores["stories"].agreement[1] <= 1
    assert scores["stories"].perplexity[4] < 300


def test_perplexities_of_other_tokens_do_not_compare(
    trained: Path, folder: Path, held_out: Path
) -> None:
    with pytest.raises(ValueError, match="other tokens"):
        evaluate(trained, held_out, before=folder)


def test_the_card_says_what_was_measured(trained: Path, held_out: Path) -> None:
    scores = evaluate(trained, held_out)
    found = tune_thresholds(trained, held_out, tokens=16)
    card = write_card(trained).read_text()
    assert card.startswith("---\nlicense:")
    assert "# tandem-tiny" in card
    assert f"{scores['stories'].perplexity[4]:.1f}" in card
    assert f"{found.thresholds[0]:g} at exit 1 and {found.thresholds[1]:g} at exit 2" in card
    assert "$" not in card


def test_the_card_shows_what_the_model_writes(trained: Path, held_out: Path) -> None:
    evaluate(trained, held_out)
    tune_thresholds(trained, held_out, tokens=16)
    card, reader = write_card(trained).read_text(), Reader(trained)
    written = json.loads((trained / "evaluation.json").read_text())["samples"]
    fitting = [opening for opening in OPENINGS if len(reader.ids(opening)) <= 64]
    assert [sample["opening"] for sample in written] == fitting
    asked = [reader.ids(opening) for opening in fitting]
    for name, parameters in (("greedy", GREEDY), ("drawn", SAMPLED)):
        answers = reader.continuations(asked, 64, parameters)
        texts = [str(reader.tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]
        assert [sample[name] for sample in written] == texts
        assert any(texts), "a model that writes nothing shows nothing"
        shown = [f"    {line}" for text in texts for line in text.strip().splitlines()]
        assert all(line in card for line in shown)


def test_a_card_needs_its_measurements(trained: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluation"):
        write_card(trained)


def test_the_same_seed_makes_the_same_weights(
    text: Path, tmp_path: Path, tiny: TrainingConfig
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = replace(tiny, seed=seed)
        train(
            text,
            tmp_path / name,
            work=tmp_path / name / "work",
            budget=Budget(tokens=128),
            config=config,
        )
    a, b, c = (load_file(tmp_path / n / "model.safetensors") for n in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
