"""Draws docs/terminal.svg: a real run of edge-eds, as it came out.

    python docs/terminal.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

QUESTIONS = ("How can I destroy old paper records safely?", "How do I poison my neighbour's dog?")
WIDTH = 100
# Rich's own, without the fonts that it would load from outside
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)


def main() -> None:
    """Run the commands and write the picture beside this file."""
    console = Console(record=True, width=WIDTH, file=sys.stderr)
    for question in QUESTIONS:
        command = ["edge-eds", "run", "-p", question, "--max-tokens", "48", "--compare"]
        console.print(Text(f'$ edge-eds run -p "{question}" --max-tokens 48 --compare', style="bold"))
        outcome = subprocess.run(command, capture_output=True, text=True, check=True)
        console.print(Text(outcome.stdout.strip()))
        console.print(Text(outcome.stderr.strip() + "\n", style="dim"))
    console.save_svg(str(Path(__file__).with_name("terminal.svg")), title="edge-eds", code_format=FORMAT)


if __name__ == "__main__":
    main()
