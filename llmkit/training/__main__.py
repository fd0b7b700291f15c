"""Train from a TOML file: `python -m llmkit.training CONFIG.toml`, or with `torchrun --nproc-per-node N -m` before it.

Started again, it goes on from the newest whole checkpoint. SIGTERM (a machine that is taken away) and Ctrl-C save and
end; a second Ctrl-C ends at once.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from llmkit.checkpoints.pretrained import save_pretrained
from llmkit.tokenizers.base import Tokenizer
from llmkit.training import distributed
from llmkit.training.build import build_trainer
from llmkit.training.checkpoint import CheckpointError
from llmkit.training.lock import only_one
from llmkit.training.run import Run, RunError, read_run
from llmkit.training.snapshot import full_model
from llmkit.training.trainer import Trainer


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmkit.training", description=__doc__)
    parser.add_argument("config", help="a TOML file; llmkit/training/run.py shows one")
    parser.add_argument("--until", type=int, help="stop, with a checkpoint, after this step")
    options = parser.parse_args(arguments)
    if options.until is not None and options.until < 1:
        parser.error(f"--until must be at least 1, got {options.until}")
    try:
        with distributed.process_group() as device:
            return _train(options, device)
    except (RunError, CheckpointError, FloatingPointError, OSError, UnicodeEncodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace, device) -> int:
    run = read_run(options.config)
    with only_one(run.file(run.machine.folder)) if distributed.rank() == 0 else nullcontext():
        return _run(run, options, device)


def _run(run: Run, options: argparse.Namespace, device) -> int:
    trainer, tokenizer = build_trainer(run, device)
    say = print if distributed.rank() == 0 else (lambda *text: None)
    start = trainer.resume()
    say(f"{trainer.model.n_params():,} parameters, {distributed.world_size()} process(es) on {device}, step {start}")
    with stops_at_signals(trainer):
        lines = trainer.fit(options.until)
        # to write it again would put the one that is there at risk
        if trainer.step < run.settings.n_steps and trainer.saved != trainer.step:
            trainer.save()
    if trainer.step < run.settings.n_steps:
        say(f"stopped after step {trainer.step}; the same command goes on")
        return 0
    folder = run.file(run.machine.folder)
    _save(trainer, folder / "model", tokenizer)
    if trainer.ema:
        with trainer.averaged():
            _save(trainer, folder / "model_ema", tokenizer)
    if distributed.rank() == 0:
        figures = next((line for line in reversed(lines) if "validation_loss" in line), lines[-1] if lines else {})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float))
        say(
            f"step {trainer.step}: {shown or 'there already'}\nfor from_pretrained: {folder / 'model'}"
            + (" and model_ema" if trainer.ema else "")
        )
    return 0


@contextmanager
def stops_at_signals(trainer: Trainer) -> Iterator[None]:
    """SIGTERM, however often, and the first Ctrl-C let fit end after the step that is running; a second ends at once.

    Under torchrun no Ctrl-C does: each process hears the first one twice, from the terminal and from torchrun.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: object) -> None:
        trainer.stop()
        if number == signal.SIGINT and distributed.world_size() == 1:
            signal.signal(number, before[number])

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # of a run in the background
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _save(trainer: Trainer, folder: Path, tokenizer: Tokenizer | None) -> None:
    """All ranks must call it; the first one writes."""
    model = full_model(trainer.model)
    if distributed.rank() == 0:
        save_pretrained(model, folder, tokenizer)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # no terminal shows every character of a path or a text
    sys.exit(main())
