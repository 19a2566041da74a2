"""Execute the notebooks from top to bottom and write them with their outputs.

python notebooks/execute.py                                 all of them, in place
python notebooks/execute.py --to folder 2_dcgan.ipynb       one of them, to another folder
NOTEBOOK_SMALL=1 python notebooks/execute.py --to folder    in small, as the tests do
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
METADATA = {  # without the versions of one machine
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path, target: Path) -> None:
    """Raises nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(
        notebook,
        timeout=1800,  # seconds a cell
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata = METADATA
    nbformat.write(notebook, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--to", type=Path, default=HERE)
    arguments = parser.parse_args()
    for name in arguments.names or sorted(path.name for path in HERE.glob("*.ipynb")):
        execute(HERE / name, arguments.to / name)
        print(arguments.to / name)
