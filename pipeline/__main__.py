"""The command ``latent``, also as ``python -m pipeline``."""

from pipeline.startup import begin, end


def main() -> None:
    """Run the command and end the process."""
    begin()
    from pipeline.cli import main as command

    try:
        command()
    finally:
        end()


if __name__ == "__main__":
    main()
