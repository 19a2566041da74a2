"""Tests of the notebooks: they run from top to bottom, and their stored outputs are clean."""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIGURES = {"1_images_as_samples": 7, "2_dcgan": 8, "3_completion": 13}  # figures per notebook


def read(folder: Path, name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def figures(notebook) -> list[Image.Image]:
    data = [output.get("data", {}).get("image/jpeg") for output in outputs(notebook)]
    return [Image.open(io.BytesIO(base64.b64decode(jpeg))) for jpeg in data if jpeg]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == FIGURES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_notebook_runs_with_little_data_and_draws_all_figures(name, tmp_path):
    """The cells contain assertions, which must hold."""
    script = [sys.executable, NOTEBOOKS / "execute.py", "--to", tmp_path, f"{name}.ipynb"]
    environment = os.environ | {"NOTEBOOK_SMALL": "1"}
    process = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    executed = read(tmp_path, name)
    assert [cell.source for cell in executed.cells] == [
        c.source for c in read(NOTEBOOKS, name).cells
    ]
    images = figures(executed)
    assert len(images) == FIGURES[name]
    for image in images:
        assert min(image.size) > 100
        assert len(image.convert("L").getcolors()) > 20  # not blank


@pytest.mark.parametrize("name", FIGURES)
def test_stored_outputs_come_from_one_complete_run(name):
    notebook = read(NOTEBOOKS, name)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(figures(notebook)) == FIGURES[name]


@pytest.mark.parametrize("name", FIGURES)
def test_stored_outputs_are_clean(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = read(NOTEBOOKS, name)
    assert path.stat().st_size < 1.5e6
    for output in outputs(notebook):
        assert output.output_type in ("stream", "display_data"), output
        assert output.get("name", "stdout") == "stdout", output  # no warnings
        text = output.get("text") or output.data.get("text/plain", "")
        for term in ("Warning", "site-packages", str(Path.home()), str(NOTEBOOKS), sys.prefix):
            assert term not in text
    # Executing the notebook again changes neither the metadata nor the formatting.
    assert all(not cell.metadata for cell in notebook.cells)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert path.read_text(encoding="utf8") == nbformat.writes(notebook) + "\n"
