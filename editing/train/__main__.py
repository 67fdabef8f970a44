"""`python -m editing.train mend --model reference --out FOLDER`

Trains a learned editor for one model and writes it to a folder: the best on the validation subjects, with its curve.
Started again with the same folder after a stop, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from editing.train.artefact import LOG
from editing.train.loop import Budget, begin_from, train
from editing.train.trainers import SETTINGS, USUAL, make_trainer, parsed
from facts.language.shell import complain, told
from facts.pipes import outlive_reader
from models.options import add_model_options, load_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, printing a line at every validation.  Returns 0, or 2 with one sentence on stderr for an error."""
    options = _options(arguments)
    try:
        if options.threads < 1:
            raise ValueError(f"threads is {options.threads}; expected 1 or more")
        torch.set_num_threads(options.threads)
        steps, every = USUAL[options.method]
        if options.steps is not None or options.minutes is not None:
            steps = options.steps
        budget = Budget(steps, options.minutes, every if options.validate_every is None else options.validate_every)
        changes = {"seed": options.seed, **parsed(options.set)}
        trainer = make_trainer(options.method, load_from(options), changes)
        if options.start is not None:
            begin_from(trainer, options.start)
        train(trainer, options.out, budget, lambda line: print(described(line), flush=True))
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    print(f"The editor is in {options.out}, its curve in {options.out / LOG}.")
    return 0


def described(line: dict[str, Any]) -> str:
    """A line of the log for a terminal."""
    parts = [f"step {line['step']:5d}  {line['minutes']:6.2f} min"]
    parts += [" ".join(f"{name} {value:.3f}" for name, value in line[key].items()) for key in ("losses", "validation")]
    return " | ".join(parts) + (" *" if line["kept"] else "")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=told(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=tuple(SETTINGS), help="the editor to train")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the editor")
    parser.add_argument("--start", type=Path, help="folder of a trained editor to go on from")
    parser.add_argument("--minutes", type=float, help="stop after this much training, whatever the steps")
    parser.add_argument("--steps", type=int, help="of the training; a usual number if left out")
    parser.add_argument("--validate-every", type=int, help="steps between validations and checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the network and the episodes")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings, such as layers=[3,4,5]")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
