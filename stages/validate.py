"""Check params.yaml before any other stage runs."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pipeline.params import Params
from stages import run, stage


@stage(__doc__, "params")
def main(params: Params) -> None:
    """Do nothing: reading the params has checked them."""


if __name__ == "__main__":
    run(main)
