"""The `lethe` command line: it parses, calls, prints, exits.

Exit code 0: done; 1: refused or failed, with one line on stderr; 2: wrong usage. `--json` prints one JSON document on stdout and nothing
else there; progress goes to stderr. Libraries are imported by the command that needs them: `lethe verify` must not wait for torch.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdm_core.errors import LetheError
from flows.environment import configure_libraries

app = typer.Typer(
    name="lethe",
    help="Make a generative image model forget an owner's pictures, and sign a record of it that anyone can check and re-run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
pretrain_app = typer.Typer(help="The recipes that made the shipped weights.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(pretrain_app, name="pretrain")

WorkspaceOption = Annotated[Path, typer.Option("--workspace", metavar="DIR", help="The workspace.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
CorpusOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Holds google/package and twitter/package: the two npm packages of emoji pictures, unpacked.")
]
_HERE = Path(".")


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the workspace; must not exist or be empty.")],
    shards: Annotated[int, typer.Option(help="Number of shards, one adapter each.")] = 8,
    stages: Annotated[int, typer.Option(help="Number of training stages of a shard.")] = 4,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace: OpenMoji rendered to 32×32, packs, manifests, git + DVC, MLflow database, signing keys."""
    from flows.commands import run_init

    _answer(run_init(workspace / directory, shards=shards, stages=stages), as_json)


@app.command()
def build(workspace: WorkspaceOption = _HERE, as_json: JsonOption = False) -> None:
    """Train every shard's adapter, compose, evaluate, sign, log, register, promote."""
    from flows.commands import run_build

    _answer(run_build(workspace), as_json)


keys_app = typer.Typer(help="Who may sign requests.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys_app, name="keys")


@keys_app.command("add-issuer")
def add_issuer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As requests name it, for example owner:johanna.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="Ed25519 public key in PEM; else a pair is made.")
    ] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Register who may sign requests."""
    from flows.commands import run_add_issuer

    _answer(run_add_issuer(workspace, name, public_key), as_json)


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    public_key: Annotated[Path, typer.Option("--public-key", metavar="FILE", help="Ed25519 public key in PEM.")],
    role: Annotated[list[str], typer.Option("--role", metavar="ROLE", help="issuer, or a role of params.yaml's approvals; repeatable.")],
    valid_from: Annotated[str | None, typer.Option(metavar="TIME", help="Default: now.")] = None,
    valid_until: Annotated[str | None, typer.Option(metavar="TIME", help="Default: without end.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Register a key with its roles and validity."""
    from flows.policy import run_keys_add

    _answer(run_keys_add(workspace, name, public_key, role, valid_from, valid_until), as_json)


@keys_app.command("revoke")
def revoke_key(
    keyid: Annotated[str, typer.Argument(metavar="KEYID", help="The key, or its first 8 digits or more.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the registry.")],
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Since when it doesn't count; default: now.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Let a key count no longer; what the ledger recorded before stays good."""
    from flows.policy import run_keys_revoke

    _answer(run_keys_revoke(workspace, keyid, reason, since), as_json)


@keys_app.command("list")
def list_keys(workspace: WorkspaceOption = _HERE, as_json: JsonOption = False) -> None:
    """List the key registry."""
    from flows.policy import run_keys_list

    _answer(run_keys_list(workspace), as_json)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The request file.")],
    issuer: Annotated[str, typer.Option(metavar="NAME", help="A registered issuer whose private key lies in the workspace.")],
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Write FILE.sig: Ed25519 over the file's bytes."""
    from flows.commands import run_sign

    _answer(run_sign(workspace, file, issuer), as_json)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A request file.")],
    out: Annotated[Path | None, typer.Option(metavar="PLAN", help="Write the plan document, which people approve.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Say what a request would retrain, reuse and erase; changes nothing."""
    from flows.commands import run_plan

    _answer(run_plan(workspace, file, out), as_json)


hold_app = typer.Typer(help="Samples that may not be erased yet.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(hold_app, name="hold")


@hold_app.command("add")
def add_hold(
    ground: Annotated[str, typer.Option(metavar="GROUND", help="legal_claim, legal_obligation, public_interest, research or other.")],
    until: Annotated[str, typer.Option(metavar="DATE", help="When it ends.")],
    sample: Annotated[list[str] | None, typer.Option("--sample", metavar="ID", help="A sample; repeatable.")] = None,
    owner: Annotated[list[str] | None, typer.Option("--owner", metavar="ID", help="All samples of an owner; repeatable.")] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept while the hold counts, shown nowhere.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Exempt samples from deletion requests until a day."""
    from flows.hold import run_hold_add

    _answer(run_hold_add(workspace, samples=sample or [], owners=owner or [], ground=ground, until=until, note=note), as_json)


@hold_app.command("release")
def release_hold(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD_ID")], workspace: WorkspaceOption = _HERE, as_json: JsonOption = False
) -> None:
    """End a hold; requests that waited for it are put back in the queue."""
    from flows.hold import run_hold_release

    _answer(run_hold_release(workspace, hold_id), as_json)


@hold_app.command("list")
def list_holds(workspace: WorkspaceOption = _HERE, as_json: JsonOption = False) -> None:
    """List the holds that count."""
    from flows.hold import run_hold_list

    _answer(run_hold_list(workspace), as_json)


@app.command()
def approve(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan document.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="A private Ed25519 key in PEM, registered in a role that approves.")],
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Sign a plan; the approval lies in PLAN.approvals/."""
    from flows.policy import run_approve

    _answer(run_approve(workspace, plan_file, key), as_json)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed request file; its signature lies in FILE.sig.")],
    plan_file: Annotated[Path | None, typer.Option("--plan", metavar="PLAN", help="Carry it out as planned and approved.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Forget: stop serving the data within seconds, retrain, evaluate, sign, promote, purge."""
    from flows.commands import run_submit

    _answer(run_submit(workspace, file, plan_file), as_json)


@app.command()
def learn(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="PNG or JPEG files, optionally captions.csv (file,caption).")],
    owner: Annotated[str, typer.Option(metavar="ID", help="Whose pictures these are.")],
    tier: Annotated[
        int | None, typer.Option(metavar="N", help="How likely a withdrawal is: 0 is the least likely and trains first.")
    ] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Learn an owner's pictures: retrain the shard, evaluate, sign, promote."""
    from flows.commands import run_learn

    _answer(run_learn(workspace, directory, owner, tier), as_json)


@app.command()
def review(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="A request or arrival in needs_review.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the signed record.")],
    accept: Annotated[bool, typer.Option("--accept", help="Promote the waiting composition.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Keep what serves.")] = False,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Sign a person's decision on a composition that waits."""
    if accept == reject:
        raise typer.BadParameter("say either --accept or --reject")
    from flows.commands import run_review

    _answer(run_review(workspace, request_id, accept=accept, reason=reason), as_json)


@app.command()
def status(
    request_id: Annotated[str | None, typer.Argument(metavar="ID", help="One request; else all.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those that are late.")] = False,
    due_in: Annotated[str | None, typer.Option("--due-in", metavar="SPAN", help="Only those due within 7d, 36h or so.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """List requests and what became of them."""
    from flows.commands import run_status

    _answer(run_status(workspace, request_id, overdue=overdue, due_in=due_in), as_json)


@app.command()
def extend(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="An open request.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the ledger. Name no person.")],
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Extend a request's period, once and inside the first."""
    from flows.policy import run_extend

    _answer(run_extend(workspace, request_id, reason), as_json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An audit record.")],
    workspace: Annotated[Path | None, typer.Option("--workspace", metavar="DIR", help="Whose public keys to trust.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a record's signature, chain and the digests it names; offline."""
    from flows.commands import run_verify

    _answer(run_verify(path, workspace), as_json)


@app.command()
def generate(
    num: Annotated[int, typer.Option(min=1, max=4096, help="How many pictures.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The PNG grid to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Pictures are a function of seed, prompt and model.")] = 0,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What to draw; else unconditional.")] = None,
    shards: Annotated[str | None, typer.Option(metavar="a,b", help="Use these shards only.")] = None,
    method: Annotated[str | None, typer.Option(metavar="M", help="shard_per_image, knn, average or random.")] = None,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Sample the champion into a PNG grid."""
    from flows.generate import run_generate

    _answer(run_generate(workspace, num=num, seed=seed, prompt=prompt, shards=shards, method=method, out=out), as_json)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    workspace: WorkspaceOption = _HERE,
    as_json: JsonOption = False,
) -> None:
    """Start the MLflow UI on 127.0.0.1 and say its address; ends with Ctrl-C."""
    from flows.commands import run_ui

    run_ui(workspace, port, lambda url: _answer({"url": url}, as_json))


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server, on 127.0.0.1.")] = 4200,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Watch the inbox: run the forget and learn flows as requests and arrivals come in; ends with Ctrl-C."""
    from flows.serve import run_serve

    run_serve(workspace, port)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the demo's workspace.")] = Path("lethe-demo"),
    as_json: JsonOption = False,
) -> None:
    """Do the whole main job in a new workspace: init, build, submit a deletion, verify, learn."""
    from flows.console import say, tell
    from flows.demo import run_demo

    document = run_demo(directory, say if as_json else tell)
    if as_json:
        _answer(document, as_json)


@app.command("train-shard", hidden=True)
def train_shard(
    shard: Annotated[int, typer.Argument(metavar="SHARD")], workspace: WorkspaceOption = _HERE, as_json: JsonOption = False
) -> None:
    """Train one shard: what `dvc repro` runs."""
    from flows.commands import run_train_shard

    _answer(run_train_shard(workspace, shard), as_json)


@pretrain_app.command("clip")
def pretrain_clip(
    corpus: CorpusOption = Path("public-corpus"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where weights and metrics go.")] = Path("pretrained/clip"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the CLIP model on the public corpus."""
    from flows.pretrain import run_pretrain_clip

    _answer(run_pretrain_clip(corpus, out, steps), as_json)


@pretrain_app.command("backbone")
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

    _answer(run_pretrain_backbone(corpus, out, minutes), as_json)


@pretrain_app.command("measure")
def pretrain_measure(
    corpus: CorpusOption = Path("public-corpus"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where MODEL_CARD.md and its folder card/ go.")] = Path("pretrained/card"),
    training: Annotated[Path | None, typer.Option(metavar="DIR", help="Where `pretrain backbone` wrote; gives the loss curve.")] = None,
    num: Annotated[int | None, typer.Option(metavar="N", help="Pictures in each Fréchet distance; default: half of the held-out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the shipped weights on held-out public pictures and write the model card."""
    from flows.pretrain import run_measure

    _answer(run_measure(corpus, out, training, num), as_json)


def _answer(document: dict[str, object], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    from flows.console import print_document

    print_document(document)


def main() -> None:
    """Entry point: our errors become one line and exit code 1; a bug shows its traceback."""
    configure_libraries()
    try:
        app()
    except LetheError as error:
        sys.stderr.write(f"lethe: {' '.join(str(error).split())}\n")
        sys.exit(1)
