"""`python -m llmkit.checkpoints convert IN OUT --to gguf|hf --type f32|f16|bf16|q8_0|q4_0 [--eos TOKEN]`."""

import argparse
import sys

from llmkit.checkpoints.convert import DTYPES, convert
from llmkit.checkpoints.gguf import FILE_TYPES


def main(arguments: list[str] | None = None) -> int:
    """Run the command; what is wrong with a file is said in a line, with exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m llmkit.checkpoints", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser("convert", help="convert a model")
    command.add_argument("source", metavar="IN", help="a folder with config.json and safetensors, or a GGUF file")
    command.add_argument("target", metavar="OUT", help="the GGUF file or the folder to write")
    command.add_argument("--to", choices=("gguf", "hf"), required=True)
    kinds = [kind.lower() for kind in FILE_TYPES]
    command.add_argument(
        "--type", choices=kinds, default="f16", help=f"of the weights; hf: {', '.join(DTYPES).lower()} (default: f16)"
    )
    command.add_argument("--eos", metavar="TOKEN", help="the token that ends a text, where the source does not say it")
    asked = parser.parse_args(arguments)
    try:
        print(convert(asked.source, asked.target, asked.to, asked.type, progress=True, eos=asked.eos))
    except (ValueError, OSError, ImportError) as error:
        print(f"not converted: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # no terminal shows every character of a path or a text
    sys.exit(main())
