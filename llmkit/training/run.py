"""A whole run from one TOML file: model, data, optimiser, schedule and how to train.

[model]
family = "llama"             # gpt2, llama, mistral, mixtral, cohere (PaLM); the other keys: its config's
vocab_size = 8192            # the tokenizer's, or more
d_model = 256
n_layers = 6
n_heads = 8
d_ff = 1024

[data]
train = "shards/train"       # folders that python -m llmkit.data wrote; relative to the TOML file
validation = "shards/val"
tokenizer = "tokenizer.json" # optional: for bits per byte, and saved with the model
context = 256
documents = true             # documents in one row do not see each other

[optimizer]
kind = "adamw"               # or "muon"
lr = 3e-3

[schedule]
kind = "cosine"              # or "wsd"
warmup = 100

[training]
folder = "runs/small"
batch_size = 32
n_steps = 5000               # the other keys are the fields of Machine, below, and of settings.Settings
"""

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any

from llmkit.models import FAMILIES
from llmkit.training.settings import Settings

DECODERS = ("gpt2", "llama", "mistral", "mixtral", "cohere")
KINDS = {"optimizer": ("adamw", "muon"), "schedule": ("cosine", "wsd")}


class RunError(ValueError):
    """A TOML file that describes no run; the message names file, section and key."""


@dataclasses.dataclass(frozen=True)
class Data:
    """[data]: shards, and how rows are cut from them."""

    train: str
    context: int
    validation: str | None = None
    tokenizer: str | None = None
    documents: bool = False
    validation_rows: int = 200

    def __post_init__(self) -> None:
        _at_least(1, self, "context", "validation_rows")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """[optimizer]: for "muon", lr is that of the matrices and adamw_lr that of all others; betas are for "adamw"."""

    lr: float
    kind: str = "adamw"
    adamw_lr: float = 3e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        _at_least(0, self, "weight_decay")
        if not (self.lr > 0 and self.adamw_lr > 0):
            raise ValueError(f"lr and adamw_lr must be more than 0, got {self.lr} and {self.adamw_lr}")
        numbers = self.betas if isinstance(self.betas, (list, tuple)) else []
        if len(numbers) != 2 or not all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in numbers):
            raise ValueError(f"betas must be two numbers from 0 to less than 1, got {self.betas!r}")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """[schedule]: decay, the steps of the way down, is for "wsd" alone."""

    kind: str = "cosine"
    warmup: int = 0
    floor: float = 0.1
    decay: int | None = None

    def __post_init__(self) -> None:
        _at_least(0, self, "warmup")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is a share of lr, 0 … 1, got {self.floor}")
        if self.decay is not None:
            _at_least(1, self, "decay")


@dataclasses.dataclass(frozen=True)
class Machine:
    """The keys of [training] that are not Settings: how much at once, and on how many processes."""

    folder: str
    batch_size: int
    parallel: str = "ddp"
    compile: bool = False
    recompute: bool = False
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        _at_least(1, self, "batch_size")
        _at_least(0, self, "z_loss")
        if self.parallel not in ("ddp", "fsdp"):
            raise ValueError(f"parallel must be 'ddp' or 'fsdp', got {self.parallel!r}")


@dataclasses.dataclass(frozen=True)
class Run:
    """A TOML file, read and checked."""

    path: Path
    family: str
    model: Any  # the family's config
    data: Data
    optimizer: Optimizer
    schedule: Schedule
    machine: Machine
    settings: Settings

    def file(self, name: str) -> Path:
        """A path of the file, relative to where the file is."""
        return self.path.parent / name


def read_run(path: str | Path) -> Run:
    """Read and check a TOML file.

    Raises RunError for what is no TOML, and for a section or key that does not exist, is missing, or has a wrong type
    or a number that makes no sense.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{path} cannot be read as TOML: {error}") from None
    sections = ("model", "data", "optimizer", "schedule", "training")
    for name, section in table.items():
        if name not in sections or not isinstance(section, dict):
            raise RunError(f"{path}: [{name}] is no section; they are {', '.join(sections)}")
    model, training = dict(table.get("model", {})), table.get("training", {})
    family = model.pop("family", None)
    if family not in DECODERS:
        raise RunError(f"{path}: [model] family = {family!r}; it must be one of {', '.join(DECODERS)}")
    needed = ["vocab_size", "d_model", "n_layers", "n_heads"]
    if getattr(FAMILIES[family].config(), "d_ff", None) is not None:  # the default belongs to the published model
        needed.append("d_ff")
    for key in needed:
        if key not in model:
            raise RunError(f"{path}: [model] needs {key}")
    for field in dataclasses.fields(FAMILIES[family].config):
        value = model.get(field.name)
        if field.type in (int, int | None) and isinstance(value, int) and value < 1:  # all of them are sizes
            raise RunError(f"{path}: [model] {field.name} must be at least 1, got {value}")
    machine = {key: value for key, value in training.items() if key in _fields(Machine)}
    settings = {key: value for key, value in training.items() if key not in machine}

    def make(kind: type, section: str, values: dict[str, Any], others: tuple[type, ...] = ()) -> Any:
        return _make(kind, f"{path}: [{section}]", values, others)

    run = Run(
        path, family, make(FAMILIES[family].config, "model", model), make(Data, "data", table.get("data", {})),
        make(Optimizer, "optimizer", table.get("optimizer", {})), make(Schedule, "schedule", table.get("schedule", {})),
        make(Machine, "training", machine), make(Settings, "training", settings, (Machine,)),
    )  # fmt: skip
    for section, kinds in KINDS.items():
        kind = getattr(run, section).kind
        if kind not in kinds:
            raise RunError(f"{path}: [{section}] kind = {kind!r}; it must be {' or '.join(kinds)}")
    warmup, decay, n_steps = run.schedule.warmup, run.schedule.decay or 0, run.settings.n_steps
    if run.schedule.kind == "wsd" and warmup + decay > n_steps:
        raise RunError(f"{path}: [schedule] warmup + decay = {warmup + decay} steps, but n_steps = {n_steps}")
    if warmup > n_steps:
        raise RunError(f"{path}: [schedule] warmup = {warmup} steps, but n_steps = {n_steps}")
    return run


def _at_least(least: int, section: Any, *keys: str) -> None:
    for key in keys:
        if not getattr(section, key) >= least:
            raise ValueError(f"{key} must be at least {least}, got {getattr(section, key)}")


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _make(kind: type, where: str, values: dict[str, Any], others: tuple[type, ...]) -> Any:
    """An instance of a dataclass from a TOML section, with errors that name the key."""
    known = [name for each in (kind, *others) for name in _fields(each)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise RunError(f"{where} has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise RunError(f"{where} needs {field.name}")
        if field.name in values and not _fits(values[field.name], field.type):
            given = values[field.name]
            raise RunError(
                f"{where} {field.name} = {given!r} is of type {type(given).__name__}, not {_name(field.type)}"
            )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: {error}") from None


def _fits(value: Any, wanted: Any) -> bool:
    """Does a value of TOML suit a plain annotation? Others are left to the class itself."""
    plain = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(_name(wanted))
    if plain is None or plain is bool:
        return plain is None or isinstance(value, bool)
    return isinstance(value, plain) and not isinstance(value, bool)


def _name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.removesuffix(" | None")
