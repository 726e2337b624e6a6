"""Check params.yaml before any other stage runs."""

from pipeline.params import Params
from stages import run, stage


@stage(__doc__, "params")
def main(params: Params) -> None:
    """Do nothing: reading the params has checked them."""


if __name__ == "__main__":
    run(main)
