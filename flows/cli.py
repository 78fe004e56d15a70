"""The `lethe` command line: it parses, calls, prints, exits.

Exit code 0: done; 1: refused or failed, with one line on stderr; 2: wrong usage. `--json` prints one JSON document on stdout and nothing
else there; progress goes to stderr. Libraries are imported by the command that needs them: `lethe verify` must not wait for torch.
"""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdm_core.errors import InvalidInputError, LetheError
from flows import bench_commands, hold_commands, identities_commands, keys_commands, pretrain_commands, report_commands
from flows.environment import configure_libraries
from flows.options import HERE, JsonOption, WorkspaceOption, print_answer
from flows.standby.client import hand_over

app = typer.Typer(
    name="lethe",
    help="Make a generative image model forget an owner's pictures, and sign a record of it that anyone can check and re-run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, commands in (
    ("keys", keys_commands),
    ("identities", identities_commands),
    ("hold", hold_commands),
    ("pretrain", pretrain_commands),
    ("bench", bench_commands),
    ("report", report_commands),
):
    app.add_typer(commands.app, name=name)

IncludeDuplicatesOption = Annotated[
    str,
    typer.Option("--include-duplicates", metavar="ids|none|exact", help="Which duplicates under other owners go too: ids with commas."),
]


class IntakeForm(StrEnum):
    """What `--format` takes."""

    AUTO, OWN, OPENDSR, DRP, FIDES, IAB, DROP = "auto", "own", "opendsr", "drp", "fides", "iab", "drop"


class AnswerForm(StrEnum):
    """What `--as` takes."""

    OPENDSR, DRP, FIDES, DROP = "opendsr", "drp", "fides", "drop"


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the workspace; must not exist or be empty.")],
    shards: Annotated[int, typer.Option(help="Number of shards, one adapter each.")] = 8,
    stages: Annotated[int, typer.Option(help="Number of training stages of a shard.")] = 4,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace: OpenMoji rendered to 32×32, packs, manifests, git + DVC, MLflow database, signing keys."""
    from flows.commands import run_init

    print_answer(run_init(workspace / directory, shards=shards, stages=stages), as_json)


@app.command()
def build(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Train every shard's adapter, compose, evaluate, sign, log, register, promote."""
    from flows.commands import run_build

    print_answer(run_build(workspace), as_json)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The request file.")],
    issuer: Annotated[str, typer.Option(metavar="NAME", help="A registered issuer whose private key lies in the workspace.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write FILE.sig: Ed25519 over the file's bytes."""
    from flows.commands import run_sign

    print_answer(run_sign(workspace, file, issuer), as_json)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A request file.")],
    include_duplicates: IncludeDuplicatesOption = "none",
    out: Annotated[Path | None, typer.Option(metavar="PLAN", help="Write the plan document, which people approve.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Say what a request would retrain, reuse and erase; changes nothing."""
    from flows.commands import run_plan

    print_answer(run_plan(workspace, file, include_duplicates=include_duplicates, out=out), as_json)


@app.command("plan-shards")
def plan_shards(
    batch: Annotated[int, typer.Option(min=1, metavar="K", help="How many deletions are carried out together.")] = 1,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Compare the workspace's stages with other plans: what a deletion is expected to cost under each; changes nothing."""
    from flows.shard_plans import run_plan_shards

    document = run_plan_shards(workspace, batch, show_table=not as_json)
    if as_json:
        print_answer(document, as_json)


@app.command()
def approve(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan document.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="A private Ed25519 key in PEM, registered in a role that approves.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Sign a plan; the approval lies in PLAN.approvals/."""
    from flows.policy import run_approve

    print_answer(run_approve(workspace, plan_file, key), as_json)


def _hand_over(context: typer.Context, workspace: Path) -> None:
    """End here with the exit code of the process that waits, if one takes the work."""
    if context.obj is not None and (code := hand_over(workspace, context.obj)) is not None:
        raise typer.Exit(code)


@app.command()
def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed request file; its signature lies in FILE.sig.")],
    include_duplicates: IncludeDuplicatesOption = "none",
    form: Annotated[IntakeForm, typer.Option("--format", help="The request's form; auto tells it by content.")] = IntakeForm.AUTO,
    plan_file: Annotated[Path | None, typer.Option("--plan", metavar="PLAN", help="Carry it out as planned and approved.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Forget: stop serving the data within seconds, retrain, evaluate, sign, promote, purge."""
    _hand_over(context, workspace)
    from cdm_core.intake.detection import find_form
    from flows.commands import run_submit

    print_answer(run_submit(workspace, file, include_duplicates=include_duplicates, form=find_form(form.value), plan=plan_file), as_json)


@app.command()
def learn(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="PNG or JPEG files, optionally captions.csv (file,caption).")],
    owner: Annotated[str, typer.Option(metavar="ID", help="Whose pictures these are.")],
    tier: Annotated[
        str | None,
        typer.Option(metavar="TIER", help="How likely a withdrawal is: a tier's name, or a stage's number; 0 trains first."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Learn an owner's pictures: retrain the shard, evaluate, sign, promote."""
    _hand_over(context, workspace)
    from flows.commands import run_learn

    print_answer(run_learn(workspace, directory, owner, tier), as_json)


@app.command()
def review(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="A request or arrival in needs_review.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the signed record.")],
    accept: Annotated[bool, typer.Option("--accept", help="Promote the waiting composition.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Keep what serves.")] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Sign a person's decision on a composition that waits."""
    if accept == reject:
        raise typer.BadParameter("say either --accept or --reject")
    from flows.commands import run_review

    print_answer(run_review(workspace, request_id, accept=accept, reason=reason), as_json)


@app.command()
def status(
    request_id: Annotated[str | None, typer.Argument(metavar="ID", help="One request; else all.")] = None,
    answer_as: Annotated[AnswerForm | None, typer.Option("--as", help="The document that the request's sender expects.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those that are late.")] = False,
    due_in: Annotated[str | None, typer.Option("--due-in", metavar="SPAN", help="Only those due within 7d, 36h or so.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """List requests and what became of them."""
    if answer_as is not None:
        if request_id is None:
            raise typer.BadParameter("--as answers one request: name its ID")
        from flows.answers import run_answer

        answer = run_answer(workspace, request_id, answer_as.value)
        sys.stdout.write(answer if isinstance(answer, str) and not as_json else json.dumps(answer) + "\n")
        return
    from flows.commands import run_status

    print_answer(run_status(workspace, request_id, overdue=overdue, due_in=due_in), as_json)


@app.command()
def extend(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="An open request.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the ledger. Name no person.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Extend a request's period, once and inside the first."""
    from flows.policy import run_extend

    print_answer(run_extend(workspace, request_id, reason), as_json)


@app.command()
def unlink(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="A closed request.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Destroy the salts that lead from the ledger's leaves to a closed request; every proof and receipt goes on holding."""
    from flows.unlink import run_unlink

    print_answer(run_unlink(workspace, request_id), as_json)


@app.command()
def receipt(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="A closed request.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The receipt to write.")],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="A second private key (PEM) that signs too.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write a closed request's receipt: signed, logged, time-stamped where an authority is configured."""
    from flows.receipts import run_receipt

    print_answer(run_receipt(workspace, request_id, out, key), as_json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An audit record, a receipt, or ledger.sqlite.")],
    workspace: Annotated[Path | None, typer.Option("--workspace", metavar="DIR", help="Whose public keys to trust.")] = None,
    trust: Annotated[Path | None, typer.Option("--trust", metavar="FILE", help="The key list to trust; see `keys export`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a record, a receipt or the ledger: signatures, chain or log, and the digests it names; offline."""
    from flows.receipts import run_verify

    print_answer(run_verify(path, workspace, trust), as_json)


@app.command()
def replay(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A build or decision record; with --sample, or their folder.")],
    workspace: Annotated[
        Path | None, typer.Option("--workspace", metavar="CLONE", help="A git clone of the workspace; else the record's own workspace.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE|DIR", help="Public keys to trust, in PEM; else those of the record's workspace.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="KEY", help="Re-run what this word picks among the records beside RECORD.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many --sample picks.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train again what a record says was trained and compare every digest; exit code 1 if one differs."""
    from flows.replay import run_replay

    document = run_replay(record, workspace, keys, sample, count)
    print_answer(document, as_json)
    if document["grade"] == "re-executed and different":
        raise typer.Exit(1)


@app.command()
def checkpoints(
    collect: Annotated[bool, typer.Option("--collect", help="Delete the checkpoints that nothing refers to.")] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """List each shard's chain of stages: what is kept, why it is reusable or not, and who needs it."""
    from flows.checkpoints import print_checkpoints, run_checkpoints

    document = run_checkpoints(workspace, collect=collect)
    if as_json:
        print_answer(document, as_json)
    else:
        print_checkpoints(document)


@app.command()
def generate(
    num: Annotated[int, typer.Option(min=1, max=4096, help="How many pictures.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The PNG grid to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Pictures are a function of seed, prompt and model.")] = 0,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What to draw; else unconditional.")] = None,
    shards: Annotated[str | None, typer.Option(metavar="a,b", help="Use these shards only.")] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="M", help="shard_per_image, knn, classifier, average, random, bayes, cp_delta, or top_k: before one of them."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(metavar="S", help="euler, ddim, dpm_solver or ddpm.")] = None,
    prior: Annotated[
        str | None,
        typer.Option(metavar="P", help="A shard's share before drawing: by counts, captions (counts of the prompt) or clip."),
    ] = None,
    bound: Annotated[float | None, typer.Option(min=0, metavar="K", help="Of cp_delta: refuse pictures above it.")] = None,
    entitlements: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A signed grant: shards outside it are neither loaded nor used.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Sample the champion into a PNG grid."""
    from flows.generate import run_generate

    document = run_generate(
        workspace,
        num=num,
        seed=seed,
        prompt=prompt,
        shards=shards,
        method=method,
        sampler=sampler,
        prior=prior,
        bound=bound,
        out=out,
        entitlements=entitlements,
    )
    print_answer(document, as_json)


@app.command()
def attribute(
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="A PNG or JPEG file.")] = None,
    num: Annotated[int | None, typer.Option("--generate", min=1, max=256, metavar="N", help="Attribute N generated pictures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated pictures.")] = 0,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What the picture shows; else unconditional.")] = None,
    draws: Annotated[int, typer.Option(min=2, max=4096, help="Noise draws an adapter.")] = 32,
    plot: Annotated[Path, typer.Option(metavar="FILE", help="The SVG of weights over denoising time to write.")] = Path("attribution.svg"),
    validate: Annotated[bool, typer.Option("--validate", help="Of generated pictures: compare with leaving each shard out.")] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Say which shards a picture came from, with standard errors."""
    if (image is None) == (num is None):
        raise typer.BadParameter("say either IMAGE or --generate N")
    if validate and image is not None:
        raise typer.BadParameter("--validate needs --generate")
    from flows.attribute import run_attribute

    print_answer(run_attribute(workspace, image, num=num, seed=seed, prompt=prompt, draws=draws, plot=plot, validate=validate), as_json)


@app.command()
def grant(
    subject: Annotated[str, typer.Option(metavar="NAME", help="Who may draw.")],
    shards: Annotated[str, typer.Option(metavar="a,b", help="With which shards.")],
    expires: Annotated[str, typer.Option(metavar="DATE", help="Until when: a date (its beginning in UTC) or an ISO 8601 time.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The grant to write.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Sign a grant for `lethe generate --entitlements` with the workspace's key."""
    from flows.grant import run_grant

    print_answer(run_grant(workspace, subject=subject, shards=shards, expires=expires, out=out), as_json)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Start the MLflow UI on 127.0.0.1 and say its address; ends with Ctrl-C."""
    from flows.commands import run_ui

    run_ui(workspace, port, lambda url: print_answer({"url": url}, as_json))


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server, on 127.0.0.1.")] = 4200,
    standby: Annotated[bool, typer.Option("--standby/--no-standby", help="Keep a process ready that submit and learn run in.")] = True,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Watch the inbox: run the forget and learn flows as requests and arrivals come in; ends with Ctrl-C."""
    from flows.serve import run_serve

    def print_ready(document: dict[str, object]) -> None:
        if as_json:
            print_answer(document, as_json)
            sys.stdout.flush()

    run_serve(workspace, port, on_ready=print_ready, standby=standby)


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
        print_answer(document, as_json)


@app.command("train-shard", hidden=True)
def train_shard(
    shard: Annotated[int, typer.Argument(metavar="SHARD")], workspace: WorkspaceOption = HERE, as_json: JsonOption = False
) -> None:
    """Train one shard: what `dvc repro` runs."""
    from flows.commands import run_train_shard

    print_answer(run_train_shard(workspace, shard), as_json)


def run(arguments: Sequence[str], *, is_standby: bool = False) -> int:
    """Run a command and return its exit code; our errors become one line. A bug is raised.

    A command that runs a flow hands its arguments over to the process that waits for them, unless this is that process.
    """
    try:
        _require_text(arguments)
        app(list(arguments), obj=None if is_standby else arguments)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except LetheError as error:
        sys.stderr.write(f"lethe: {' '.join(str(error).split())}\n")
        return 1
    return 0


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that aren't UTF-8, which Python hands over as halves of surrogate pairs: they can be neither hashed nor written down."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"argument {argument!a:.200}: is not UTF-8 at character {error.start}") from error


def main() -> None:
    """Entry point; a bug shows its traceback."""
    configure_libraries()
    sys.exit(run(sys.argv[1:]))
