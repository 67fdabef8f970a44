"""The loop: a stopped training goes on as if it had not been, the best is kept, what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from editing.train import __main__ as command
from editing.train.artefact import LOG, MANIFEST, load_artefact
from editing.train.editors import weight_trainer
from editing.train.editors.weight_trainer import SCALES
from editing.train.loop import CHECKPOINT, Budget, begin_from, train
from editing.train.rows import LowRank
from tests.editing.train.toys import ke_trainer, mend_trainer
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
TRAINERS = {"mend": mend_trainer, "ke": ke_trainer}
AS_ONE_RUN = 1e-6
"""A resumed run that lost its optimizer's moments is off by about 1e-4."""


class Stopped(Exception):  # noqa: N818 - a power cut is no error of ours
    """Raised from inside a training."""


@pytest.mark.parametrize("kind", list(TRAINERS))
def test_a_stopped_training_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    """Up to rounding: what is kept of the lower blocks is computed anew, in batches of another make-up."""
    budget = Budget(steps=6, validate_every=2)
    whole = TRAINERS[kind](MODEL)
    train(whole, tmp_path / "whole", budget, lambda line: None)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(TRAINERS[kind](MODEL), tmp_path / "parts", budget, stop)
    assert (tmp_path / "parts" / CHECKPOINT).is_file()
    rest = TRAINERS[kind](MODEL)
    seen: list[int] = []
    train(rest, tmp_path / "parts", budget, lambda line: seen.append(line["step"]))
    assert seen == [6]
    wanted, found = whole.learned.state_dict(), rest.learned.state_dict()
    torch.testing.assert_close(found, wanted, rtol=0, atol=AS_ONE_RUN)
    first, second = (load_artefact(tmp_path / name, kind, MODEL.revision) for name in ("whole", "parts"))
    torch.testing.assert_close(dict(second.tensors), dict(first.tensors), rtol=0, atol=AS_ONE_RUN)
    lines = [json.loads(line) for line in (tmp_path / "parts" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert not (tmp_path / "parts" / CHECKPOINT).exists()


def test_the_best_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, scores = mend_trainer(MODEL), iter([0.2, 0.9, 0.4])
    monkeypatch.setattr(trainer, "validate", lambda: {"score": next(scores)})
    states: list[dict[str, torch.Tensor]] = []

    def remember(line: dict[str, Any]) -> None:
        states.append({name: tensor.clone() for name, tensor in trainer.editor().items()})

    train(trainer, tmp_path, Budget(steps=3, validate_every=1), remember)
    kept = load_artefact(tmp_path, "mend", MODEL.revision)
    assert kept.validation["score"] == 0.9
    assert kept.validation["step"] == 2
    assert all(torch.equal(kept.tensors[name], states[1][name]) for name in states[1])
    assert not all(torch.equal(kept.tensors[name], states[2][name]) for name in states[2])


def test_the_best_editor_is_the_one_that_is_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, scores = mend_trainer(MODEL), iter([0.9, 0.4])
    monkeypatch.setattr(trainer, "validate", lambda: {"score": next(scores)})
    seen: list[dict[str, torch.Tensor]] = []

    def calibrate() -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in trainer.editor().items()})
        return {"scale": 1.3}

    monkeypatch.setattr(trainer, "calibrate", calibrate)
    train(trainer, tmp_path, Budget(steps=2, validate_every=1), lambda line: None)
    kept = load_artefact(tmp_path, "mend", MODEL.revision)
    assert (kept.validation["step"], kept.validation["score"], kept.scale) == (1, 0.9, 1.3)
    assert all(torch.equal(kept.tensors[name], seen[0][name]) for name in seen[0])


def test_the_scale_is_the_best_that_keeps_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Successes that grow with the change, bystanders that are lost with it."""
    trainer = mend_trainer(MODEL, kept=0.8)
    trainer.learned.eval()
    names = ("reliability", "generalization", "locality_same_relation", "locality")
    says = dict(zip(SCALES, (50, 60, 70, 80, 90, 99), strict=True))
    keeps = dict(zip(SCALES, (99, 90, 85, 80, 79, 10), strict=True))
    asked: list[float] = []

    def outcome(forward: Any, batch: Any, changes: dict[str, LowRank]) -> None:
        if batch.episodes == first:
            asked.append(round(float(changes[some].rows.norm() / unscaled), 6))

    def shares(batch: Any, result: None) -> dict[str, tuple[int, int]]:
        scale = SCALES[len(turns) % len(SCALES)]
        turns.append(scale)
        successes = (says[scale], says[scale], 100 if scale > 1.2 else keeps[scale], keeps[scale])
        return {name: (count, 100) for name, count in zip(names, successes, strict=True)}

    turns: list[float] = []
    some = trainer.names[0]
    batches = trainer._validation_batches(trainer._any_subject, 8)
    first, unscaled = batches[0].episodes, trainer._changes(batches[0], 1)[some].rows.norm()
    monkeypatch.setattr(trainer, "_validation_batches", lambda *_: batches)
    monkeypatch.setattr(weight_trainer, "outcome", outcome)
    monkeypatch.setattr(weight_trainer, "shares", shares)
    found = trainer.calibrate()
    assert asked == [pytest.approx(scale) for scale in SCALES]
    assert found["scale"] == 1.2
    assert found["locality_same_relation_at_scale"] == pytest.approx(0.8)
    keeps |= dict.fromkeys(SCALES, 70) | {0.8: 75}
    turns.clear()
    assert trainer.calibrate()["scale"] == 0.8


def test_rates_rise_and_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = mend_trainer(MODEL)
    seen: list[float] = []
    monkeypatch.setattr(trainer, "validate", lambda: {"score": 0.0})

    def step(number: int, share: float) -> dict[str, float]:
        seen.append(trainer.optimizers[0].param_groups[0]["lr"] / trainer.own.matrix_learning_rate)
        return {"nll": 0.0}

    monkeypatch.setattr(trainer, "step", step)
    train(trainer, tmp_path, Budget(steps=100, validate_every=100), lambda line: None)
    assert seen[0] == pytest.approx(1 / 20)
    assert seen[20] == pytest.approx(0.8)
    assert seen[-1] == pytest.approx(0.05)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no budget was given"):
        Budget()
    with pytest.raises(ValueError, match=r"minutes is 0.0; expected a number above 0"):
        Budget(minutes=0.0)
    assert Budget(steps=10, minutes=1.0).share(5, 45.0) == pytest.approx(0.75)

    def stop(line: dict[str, Any]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(mend_trainer(MODEL), tmp_path, Budget(steps=4, validate_every=1), stop)
    with pytest.raises(ValueError, match="a training with other settings"):
        train(mend_trainer(MODEL, rank=8), tmp_path, Budget(steps=4), lambda line: None)
    with pytest.raises(ValueError, match="a training with other settings or of another model"):
        train(ke_trainer(MODEL), tmp_path, Budget(steps=4), lambda line: None)
    train(mend_trainer(MODEL), tmp_path, Budget(steps=2, validate_every=1), lambda line: None)
    assert (tmp_path / MANIFEST).exists()
    with pytest.raises(ValueError, match="holds a trained editor already"):
        train(mend_trainer(MODEL), tmp_path, Budget(steps=2), lambda line: None)
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        train(mend_trainer(MODEL), tmp_path, Budget(steps=2), lambda line: None)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert command.main(["mend", "--model", str(tmp_path), *out]) == 2
    assert "config.json" in capsys.readouterr().err
    assert command.main(["mend", "--threads", "0", *out]) == 2
    assert "threads is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["rome", *out])
    assert "invalid choice: 'rome'" in capsys.readouterr().err


def test_a_training_can_go_on_from_a_finished_editor(tmp_path: Path) -> None:
    first = mend_trainer(MODEL)
    train(first, tmp_path / "first", Budget(steps=2), lambda line: None)
    second = mend_trainer(MODEL)
    begin_from(second, tmp_path / "first")
    kept = load_artefact(tmp_path / "first", "mend", MODEL.revision)
    assert second.settings["started_from"] == kept.digest
    assert all(torch.equal(tensor, kept.tensors[name]) for name, tensor in second.editor().items())
    with pytest.raises(ValueError, match="has other sizes than the settings; give it the settings it was trained with"):
        begin_from(mend_trainer(MODEL, rank=4), tmp_path / "first")
