"""Measure recognition and write the tables of the documents: `python -m benchmarks.recognition COMMAND --help`."""

import argparse

from benchmarks.recognition import ablation, comparison, feedback, fine_tuning, questions, single_crop, speed
from model.errors import Not3dError


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recognition", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (comparison, speed, feedback, single_crop, ablation, fine_tuning, questions):
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except Not3dError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command continues") from None


if __name__ == "__main__":
    main()
