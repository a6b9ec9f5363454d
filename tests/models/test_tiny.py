"""The tiny model that is shipped, and the commands that make and measure it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE, CompletedProcess, run
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from models.tiny import train
from models.tiny.batches import Source, shard_batches, spans
from models.tiny.evaluate import dialogues, generate, load, main, measure
from models.tiny.loss import loss_of
from models.tiny.muon import orthogonal
from models.tiny.settings import STATE, Settings, alone_in

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
CARD = (TINY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return load(TINY)


@pytest.mark.parametrize(
    ("case", "least"),
    [
        ("six tools of the first trial", 0.95),
        ("ten tools offered", 0.98),
        ("a tool's error", 0.9),
        ("several requests", 0.95),
        ("chain of 2", 0.95),
        ("chain of 3", 0.95),
        ("chain of 4", 0.95),
        ("side by side", 0.9),
        ("unseen tool, 1 offered", 0.95),
        ("unseen tool, 5 offered", 0.8),
        ("execute(language, code)", 0.95),
        ("JSON schema, with its grammar", 0.95),
    ],
)
def test_the_shipped_model_calls_its_tools(
    shipped: tuple[Any, Any], case: str, least: float
) -> None:
    row = measure(*shipped, case, dialogues(case, 20))

    assert row.exact_call is not None
    assert row.exact_call >= least, row.mistakes


@pytest.mark.parametrize(
    ("case", "least"),
    [
        ("chain of 4", 0.9),
        ("none of 5 unseen fits", 0.95),
        ("no known tool fits", 0.95),
        ("ReAct text", 0.85),
        ("plain talk", 0.95),
    ],
)
def test_the_shipped_model_says_what_it_should(
    shipped: tuple[Any, Any], case: str, least: float
) -> None:
    row = measure(*shipped, case, dialogues(case, 20))

    assert row.whole_dialogue >= least, row.mistakes


def test_greedy_output_is_the_same_every_time(shipped: tuple[Any, Any]) -> None:
    prompt = "<|user|>hello<|end|><|assistant|>"

    assert generate(*shipped, [prompt]) == generate(*shipped, [prompt])


def test_greedy_output_is_the_same_in_another_process(shipped: tuple[Any, Any]) -> None:
    case = "ten tools offered"
    here = measure(*shipped, case, dialogues(case, 3))

    arguments = ("--json", "--sample", "3", "--case", case)
    (there,) = json.loads(_python("models.tiny.evaluate", *arguments).stdout)

    assert there == json.loads(json.dumps(asdict(here)))


def test_the_weights_are_small_enough_to_be_shipped() -> None:
    assert (TINY / "model.safetensors").stat().st_size < 16e6


def test_the_card_names_the_command_and_the_sizes_of_its_samples() -> None:
    rows = re.findall(r"^\| [^|]+ \| (\d+) \|", CARD, re.MULTILINE)

    assert re.search(r"python -m models\.tiny\.evaluate --sample \d+", CARD)
    assert "python -m models.tiny.train" in CARD
    assert rows


def test_the_evaluation_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sample", "2", "--case", "plain talk"])

    assert capsys.readouterr().out.splitlines()[2].startswith("| plain talk | 2 |")


def test_the_evaluation_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sample", "2", "--case", "plain talk", "--json"])

    (row,) = json.loads(capsys.readouterr().out)
    assert row["dialogues"] == 2


def test_spans_are_the_assistants_turns_with_their_ends() -> None:
    begin, end = 4, 1

    assert spans([3, 9, end, begin, 7, 8, end, 5, end, begin, end], begin, end) == [
        (4, 7),
        (10, 11),
    ]


def test_the_training_loss_is_that_of_the_model(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = shipped
    batch = shard_batches(tokenizer, Source(1, 32), 0)[0]
    labels = torch.full_like(batch.ids, -100)
    labels.view(-1)[batch.at + 1] = batch.targets

    with torch.no_grad():
        total = loss_of(model, 1024)(batch.ids, batch.at, batch.targets)
        mean = float(model(input_ids=batch.ids, labels=labels).loss)

    assert float(total) / batch.targets.numel() == pytest.approx(mean, rel=1e-4)


def test_workers_read_other_dialogues_in_batches_of_the_same_order(
    shipped: tuple[Any, Any],
) -> None:
    one, two = (shard_batches(shipped[1], Source(1, 32, worker=n), 0) for n in (0, 1))

    assert len(one) == len(two)
    assert not any(
        a.ids.shape == b.ids.shape and bool((a.ids == b.ids).all())
        for a, b in zip(one, two, strict=True)
    )
    assert all(0.6 < a.ids.shape[1] / b.ids.shape[1] < 1.7 for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 4), (2, 4, 16)])
def test_muon_makes_matrices_orthogonal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)

    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))

    assert values.min() > 0.4
    assert values.max() < 1.4


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["--hidden", "100"], "--hidden 100 is no multiple of --head 64"),
        (["--start", "nowhere"], "--start nowhere: is no folder of a checkpoint"),
        (["--start", str(TINY), "--head", "32"], "--head 64, not 32"),
        (["--stages", "frist:4"], "--stages: 'frist' is no mixture; there are first, route"),
        (["--stages", "first"], "'first' is not a mixture and a number of shards"),
        (["--minutes", "0"], "--minutes: '0' is not above 0"),
        (["--minutes", "nan"], "--minutes: 'nan' is not above 0"),
        (["--steps", "0"], "--steps: '0' is not above 0"),
        (["--workers", "-1"], "--workers: '-1' is not above 0"),
        (["--head", "0"], "--head: '0' is not above 0"),
        (["--layers", "two"], "--layers: 'two' is no whole number"),
        (["--dialogues", "641"], "--dialogues 641: a shard has 640"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(
    said: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path / "out"), *said])

    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_kind_is_no_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")

    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path / "out"), "--start", str(tmp_path)])

    assert "is no Llama: its config.json has no hidden_size" in capsys.readouterr().err


def test_a_damaged_state_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / STATE).write_bytes(b"half of it")

    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--resume"])

    assert "state.pt cannot be read" in capsys.readouterr().err


def test_a_run_is_not_resumed_in_another_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"settings": asdict(Settings(layers=2))}, tmp_path / STATE)

    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--resume"])

    assert "--layers 2, not 6" in capsys.readouterr().err


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"), pytest.raises(SystemExit, match="another run is writing"):
        train.main(["--out", str(tmp_path / "out")])

    assert not list((tmp_path / "out").iterdir())
    with alone_in(tmp_path / "out"):
        pass  # it is free again


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")

    with pytest.raises(SystemExit, match="out cannot be used: File exists"):
        train.main(["--out", str(tmp_path / "out")])

    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_stages_follow_one_another_and_the_mixture_comes_last() -> None:
    source = Source(1, 16, "all", (("first", 2), ("route", 1)))

    assert [source.mixture_of(shard) for shard in range(5)] == [
        "first", "first", "route", "all", "all",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    def trained(out: str, *more: str) -> torch.Tensor:
        options = ["--dialogues", "8", "--hidden", "64", "--layers", "2", "--head", "32", *more]
        _python("models.tiny.train", "--out", str(tmp_path / out), *options)
        state = torch.load(tmp_path / out / STATE)  # to the last bit; the checkpoint is rounded
        return torch.cat([weight.flatten() for weight in state["model"].values()])

    whole = trained("whole", "--steps", "12")
    trained("parts", "--steps", "12", "--until", "5")
    parts = trained("parts", "--steps", "12", "--resume")

    assert whole.dtype is torch.float32
    assert torch.equal(whole, parts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_version_is_trained_from_nothing_in_five_minutes(tmp_path: Path) -> None:
    stages = ("--minutes", "5", "--stages", "first:4")
    options = ("--workers", "2", "--fast", "--layers", "4", "--lr", "0.02", "--adam-lr", "0.003")
    _python("models.tiny.train", "--out", str(tmp_path), *stages, *options)

    row = measure(*load(tmp_path), "plain talk", dialogues("plain talk", 20))

    assert row.exact_answer is not None
    assert row.exact_answer > 0.5


def _python(module: str, *arguments: str) -> CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return run(command, cwd=ROOT, check=True, stdout=PIPE, text=True)  # noqa: S603 - ours
