"""`lethe pretrain`: the recipes that made the shipped weights."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, print_answer

app = typer.Typer(help="The recipes that made the shipped weights.", no_args_is_help=True, rich_markup_mode=None)

CorpusOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Holds google/package and twitter/package: the two npm packages of emoji pictures, unpacked.")
]


@app.command("clip")
def pretrain_clip(
    corpus: CorpusOption = Path("public-corpus"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where weights and metrics go.")] = Path("pretrained/clip"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the CLIP model on the public corpus."""
    from flows.pretrain import run_pretrain_clip

    print_answer(run_pretrain_clip(corpus, out, steps), as_json)


@app.command("backbone")
def pretrain_backbone(
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")],
    corpus: CorpusOption = Path("public-corpus"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where state and weights go; a run there is gone on with.")] = Path(
        "pretrained/backbone"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train the backbone on the public corpus; resumable."""
    from flows.pretrain import run_pretrain_backbone

    print_answer(run_pretrain_backbone(corpus, out, minutes), as_json)


@app.command("measure")
def pretrain_measure(
    corpus: CorpusOption = Path("public-corpus"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where MODEL_CARD.md and its folder card/ go.")] = Path("pretrained/card"),
    training: Annotated[Path | None, typer.Option(metavar="DIR", help="Where `pretrain backbone` wrote; gives the loss curve.")] = None,
    num: Annotated[int | None, typer.Option(metavar="N", help="Pictures in each Fréchet distance; default: half of the held-out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the shipped weights on held-out public pictures and write the model card."""
    from flows.pretrain import run_measure

    print_answer(run_measure(corpus, out, training, num), as_json)
