"""scripts/study makes its table of the folders of runs, whichever of them have ended."""

import json

import pytest

from scripts import study


@pytest.fixture
def runs(tmp_path):
    """All runs of the study: JAX is two points above PyTorch, TensorFlow and float64 one above it; a seed adds 10."""
    above = {"PyTorch": 0, "JAX": 0.02, "TensorFlow": 0.01, study.REFERENCE: 0.01}
    for name, contender, _, _, seed in study.cells():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.npz").touch()
        lines = [{"step": 1, "train/loss": 2.0}, {"step": 2, "test/top1": 0.2 + 0.1 * seed + above[contender]}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_table_shows_least_median_and_most(runs):
    lines = study.table(study.top1(runs)).splitlines()
    few = "20.0% <- **40.0%** -> 60.0% | 22.0% <- **42.0%** -> 62.0% | 21.0% <- **41.0%** -> 61.0%"
    assert f"| 5 | from scratch | {few} |" in lines
    assert "| all | embedded model | 20.00% | 22.00% | 21.00% |" in lines
    assert "| JAX | 2.00, at most 2.00 | 2.00, at most 2.00 |" in lines


def test_only_runs_of_the_same_seed_are_compared(runs):
    (runs / "PyTorch_pretrained_5_0" / "weights.npz").unlink()
    (runs / "JAX_pretrained_1_3" / "weights.npz").unlink()
    lines = study.table(study.top1(runs)).splitlines()
    assert "| 5 | embedded model | 30.0% <- **45.0%** -> 60.0% |" in next(
        line for line in lines if line.startswith("| 5 | e")
    )
    assert "| JAX | 2.00, at most 2.00 | 2.00, at most 2.00 |" in lines


def test_the_page_changes_between_the_marks_only(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(f"before\n{study.MARKS[0]}\nold\n{study.MARKS[1]}\nafter\n")
    study.write_page("new", page)
    assert page.read_text() == f"before\n{study.MARKS[0]}\nnew\n{study.MARKS[1]}\nafter\n"


def test_every_cell_is_a_run_of_its_own():
    names = [cell[0] for cell in study.cells()]
    assert len(names) == len(set(names)) == 126
    few_shot = [cell for cell in study.cells() if cell[3]]
    assert {cell[4] for cell in few_shot} == {0, 1, 2, 3, 4}
