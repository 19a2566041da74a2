"""Execute the notebooks and store them with their outputs.

python notebooks/execute.py                                 execute all notebooks in place
python notebooks/execute.py --to folder 2_dcgan.ipynb       write one notebook to another folder
NOTEBOOK_SMALL=1 python notebooks/execute.py --to folder    run with little data, as the tests do
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
CELL_TIMEOUT = 3600  # seconds; notebook 2 trains for minutes, and longer on a busy machine
METADATA = {  # without the Python version of this machine
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path, target: Path) -> None:
    """Execute a notebook and write it with its outputs.

    Args:
        source: Notebook to execute.
        target: File to write.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata = METADATA
    nbformat.write(notebook, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="file names of notebooks (default: all)")
    parser.add_argument("--to", type=Path, default=HERE, help="folder to write to")
    args = parser.parse_args()
    for name in args.names or sorted(path.name for path in HERE.glob("*.ipynb")):
        execute(HERE / name, args.to / name)
        print(args.to / name)
