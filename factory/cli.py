"""The command line: reads arguments, calls the pipeline, says what happened. Decisions are made elsewhere."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from factory.errors import FactoryError, GateError, MissingExtraError, UsageError

app = typer.Typer(
    name="factory",
    help="Turn a folder of documents into a small local model that knows them, and prove what it learned.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")

INTERRUPTED = 130
DEBUG_VARIABLE = "FACTORY_DEBUG"
RECIPE_SUFFIXES = (".yaml", ".yml")
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, like recipes/quickstart.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Where results go, else build/<recipe name>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output and nothing else.")]


def main() -> None:
    """Run the command line; every error becomes one line and an exit code."""
    try:
        app(standalone_mode=True)
    except FactoryError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        from factory.quiet import explain

        _fail(explain(error, "This command"), 1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer turns Ctrl-C into this exit and says nothing
            typer.echo("interrupted: what is done is kept, the same command goes on from there", err=True)
        raise


def _fail(message: str, code: int) -> None:
    """Say an error that is being handled and exit; its traceback is shown to who asks for it."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exc()
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep libraries offline and silent, and show our own log; standard output is left to the command's result.

    SIGTERM ends the command as Ctrl-C does. Servers do not come here: they shut down in their own way.
    """
    with _sigterm_interrupts():
        from factory.progress import shown_log
        from factory.quiet import settle, spare_output

        settle()
        with spare_output(), shown_log():
            yield


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside the block, unless it is ignored or handled already."""
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _open_run(recipe: Path, overrides: list[str] | None, out: Path | None) -> Any:
    from factory.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from factory.pipeline import Run  # takes seconds: a recipe with faults is refused before

    return Run(loaded, out or Path("build") / loaded.name, lambda line: typer.echo(line, err=True))


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: OutFolder = None) -> None:
    """Run all stages of a recipe; what is up to date is skipped."""
    with _quiet_libraries():
        job = _open_run(recipe, overrides, out)
        from factory.summary import finish

        outcome = job.execute()
        lines: list[str] = []
        if outcome.stages:  # else this process only helped to train
            finish(job, outcome, lines.append)
    if lines:
        typer.echo("\n".join(lines))
    if outcome.error:
        raise outcome.error


def _run_stage(stage: str, recipe: Path, overrides: list[str] | None, out: Path | None) -> None:
    with _quiet_libraries():
        outcome = _open_run(recipe, overrides, out).execute(only=stage)
    if outcome.error:
        raise outcome.error


def _stage_command(stage: str) -> Callable[..., None]:
    def command(recipe: RecipeFile, overrides: Overrides = None, out: OutFolder = None) -> None:
        _run_stage(stage, recipe, overrides, out)

    command.__doc__ = f"Run the {stage} stage of a recipe, from what is there."
    return command


for _stage in ("ingest", "chunk", "synthesize", "curate", "train", "merge", "quantize", "export"):
    app.command(_stage)(_stage_command(_stage))


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A recipe, or a model: folder, .gguf file, bundle or base name.")
    ],
    questions: Annotated[Path | None, typer.Option(help="A .jsonl file of {question, answers}.")] = None,
    rag: Annotated[
        Path | None, typer.Option(help="A chunks folder to retrieve passages from as well.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the rows of scores to this file.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="An OpenAI-compatible URL that judges replies; questions, answers and replies go there."
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model.")] = None,
    judge_key_env: Annotated[
        str | None,
        typer.Option(help="The environment variable with the judge's key, else OPENAI_API_KEY; '' for none."),
    ] = None,
    overrides: Overrides = None,
    out: OutFolder = None,
) -> None:
    """Score a model closed-book on a file of questions; with a recipe, run its evaluate stage."""
    if model.endswith(RECIPE_SUFFIXES):
        _refuse("a recipe names its questions itself", questions=questions, rag=rag, json=json_out)
        _refuse("a judge needs a model", judge=judge, judge_model=judge_model, judge_key_env=judge_key_env)
        _run_stage("evaluate", Path(model), overrides, out)
        return
    _refuse("it is for recipes", set=overrides, out=out)
    with _quiet_libraries():
        from factory.judge import evaluate_model, judge_endpoint

        _check_bundle(model)
        found = evaluate_model(model, questions, rag, judge_endpoint(judge, judge_model, judge_key_env))
    typer.echo("\n".join(found.lines()))
    if json_out:
        from factory.store import write_json

        write_json(json_out, [score.model_dump() for score in found.scores])
    if found.error:
        raise found.error


def _check_bundle(model: str) -> None:
    """Raise for a bundle whose manifest cannot be read, before what stands in it is looked up."""
    if (Path(model) / "manifest.json").is_file():
        from factory.bundle.manifest import read_manifest

        read_manifest(Path(model))


def _refuse(why: str, **options: object) -> None:
    """Raise for options that go with the other meaning of a command."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value or value == ""]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used here: {why}")


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="Adapter or merged folder, .gguf file, bundle, or base name.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    rag: Annotated[
        Path | None, typer.Option(help="A run, its chunks or its bundle, to put passages above the question.")
    ] = None,
    passages: Annotated[
        int | None, typer.Option(min=1, max=20, help="The most passages in the prompt; else one.")
    ] = None,
    retriever: Annotated[
        Literal["bm25", "hybrid"] | None,
        typer.Option(
            help="How passages are found: by words (bm25, the default) or by meaning, too (hybrid)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print the answer; a bundle declines what its model is not sure of.

    With --rag it answers from the passages that are found, however sure it is, and prints them and which one holds
    the answer.
    """
    _check_question(question)
    if rag is None:
        _refuse("name a folder of passages with --rag", passages=passages, retriever=retriever)
    with _quiet_libraries():
        from factory.backends.models import open_model, resolve

        _check_bundle(model)
        reference = resolve(model)
        found = _open_retriever(rag, retriever) if rag else None
        with open_model(reference) as opened:
            row = {"model": reference.name, "kind": reference.kind, "question": question}
            row |= _answer(opened, reference.sure_from, found, question, passages or 1)
    typer.echo(json.dumps(row, ensure_ascii=False) if as_json else "\n".join(_answer_lines(row)))


def _check_question(question: str) -> None:
    from factory.text.normalize import is_unicode

    if not question.strip():
        raise UsageError("The question is empty: write what to ask")
    if not is_unicode(question):
        raise UsageError(
            f"The question {ascii(question)[:80]} holds bytes that are not UTF-8: write it in a terminal of UTF-8"
        )


def _open_retriever(folder: Path, kind: str | None) -> Any:
    from factory.tasks.retrieval import Retriever, read_chunks

    if kind != "hybrid":
        return Retriever(read_chunks(folder))
    from factory.backends.embedder import Embedder

    embedder = Embedder()
    return Retriever(read_chunks(folder), lambda texts: embedder.embed(texts)[0])


def _answer(
    model: Any, sure_from: float | None, retriever: Any | None, question: str, passages: int
) -> dict[str, Any]:
    from factory.tasks.answering import answer, from_memory

    def ask(turn: str) -> Any:
        return model.answer([turn])[0]

    if retriever is None:
        return asdict(from_memory(ask(question), sure_from))
    return asdict(answer(ask, retriever, question, passages, sure_from))


def _answer_lines(row: dict[str, Any]) -> Iterator[str]:
    """Yield an answer and below it a guess that was not sure enough, or what it was given, a line a passage."""
    yield row["answer"]
    if row.get("guess"):
        yield f"Its guess, of which it is not sure: {row['guess']}"
    if "passages" not in row:
        return
    yield ""
    if not row["passages"]:
        yield "No passage shares a word with the question: answered closed-book."
    for number, passage in enumerate(row["passages"], 1):
        page = "" if passage["page"] is None else f", page {passage['page']}"
        holds = ", holds the answer" if passage["holds_answer"] else ""
        yield f"[{number}] {passage['document']}{page}: {passage['heading']} (score {passage['score']:.4g}{holds})"


@app.command()
def plan(
    recipe: RecipeFile, overrides: Overrides = None, out: OutFolder = None, as_json: AsJson = False
) -> None:
    """Say what would run, and what time, memory and disk it takes."""
    with _quiet_libraries():
        job = _open_run(recipe, overrides, out)
        from factory.plan.build import make_plan
        from factory.plan.text import describe

        made = make_plan(job)
    typer.echo(json.dumps(made, indent=2) if as_json else describe(made))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder, or a recipe.")],
    overrides: Overrides = None,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's checksums and that its files behave alike; with a recipe, run its verify stage."""
    if bundle.suffix in RECIPE_SUFFIXES:
        _refuse("a recipe's gates go to checks/gates.json", json=as_json)
        _run_stage("verify", bundle, overrides, out)
        return
    _refuse("it is for recipes", set=overrides, out=out)
    with _quiet_libraries():
        from factory.judge import verify_bundle_fully

        problems = verify_bundle_fully(bundle)
    if as_json:
        typer.echo(json.dumps({"bundle": str(bundle), "problems": problems}, indent=2))
    elif not problems:
        typer.echo("all checks passed")
    if problems:
        raise GateError(f"{len(problems)} problem(s) in {bundle}: " + "; ".join(problems))


@app.command(name="list")
def list_models(as_json: AsJson = False) -> None:
    """List the adapters and bundles below adapters/ and build/, with scores."""
    from factory.library import find, table

    rows = find(Path.cwd())
    typer.echo(json.dumps(rows, indent=2) if as_json else table(rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name from `factory list`, or a folder.")],
    as_json: AsJson = False,
) -> None:
    """Show one bundle's lineage, files and scores."""
    from factory.library import card, find_one

    row = find_one(Path.cwd(), name)
    typer.echo(json.dumps(row, indent=2) if as_json else card(row))


@app.command()
def serve(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundle folders; else all in adapters/ and build/.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in; they need the key.")
    ] = False,
    name: Annotated[
        list[str] | None, typer.Option(help="A further name under which other machines reach this one.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL to serve as well, like https://…/v1.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="The endpoint's model.")] = None,
    endpoint_key_env: Annotated[
        str, typer.Option(help="The environment variable with the endpoint's key; '' for none.")
    ] = "OPENAI_API_KEY",
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Let the endpoint answer when an engine here cannot.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests an engine answers at a time.")] = 8,
) -> None:
    """Serve bundles: an OpenAI-style API at /v1 and the playground at /ui."""
    from factory.quiet import settle

    settle()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "asyncio", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        from factory.web.serve import ServeConfig, endpoint_spec, run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("factory"):
            raise
        raise MissingExtraError(
            f"Serving needs {error.name}: pip install 'adapter-factory[serve,playground]'"
        ) from error

    elsewhere = endpoint_spec(endpoint, endpoint_model, endpoint_key_env, fallback)
    run(
        ServeConfig(
            tuple(bundles or ()),
            finds_more=not bundles,
            host=host,
            port=port,
            allow_remote=allow_remote,
            names=tuple(name or ()),
            endpoint=elsewhere,
            fallback=fallback,
            parallel=parallel,
        )
    )


@app.command(name="push-ollama")
def push_ollama(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    name: Annotated[
        str | None, typer.Option(help="What Ollama calls the model, like acme/hr:q4; else the bundle's name.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Which .gguf file of the bundle; else its default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where Ollama listens.")] = "http://127.0.0.1:11434",
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Let the model, and so what it knows, go to another machine."),
    ] = False,
) -> None:
    """Give a bundle's model to a running Ollama."""
    from factory.bundle.manifest import read_manifest
    from factory.bundle.modelfile import suggest_model_name

    with _quiet_libraries():
        from factory.bundle.ollama import push
        from factory.progress import Progress

        name = name or suggest_model_name(read_manifest(bundle), file)
        with Progress("push") as bar:
            for step in push(bundle, name, file=file, host=host, allow_remote=allow_remote):
                if step.total:
                    bar.update(step.done >> 20, step.total >> 20, f"MiB {step.status}")
                else:
                    typer.echo(f"  {step.status}", err=True)
    typer.echo(f"ollama run {name}")


@app.command("learn-from-feedback")
def learn_from_feedback(
    recipe: RecipeFile,
    out: OutFolder = None,
    history: Annotated[
        Path | None, typer.Option(help="The playground's history; else the one in the cache folder.")
    ] = None,
) -> None:
    """Write answers corrected or voted for in the playground to files to train with; test questions are refused."""
    with _quiet_libraries():
        from factory.feedback import learn

        lines = learn(recipe, out, history)
    typer.echo("\n".join(lines))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has and what each missing thing costs."""
    from factory.doctor import examine, table

    rows = examine()
    typer.echo(json.dumps(rows, indent=2) if as_json else table(rows))


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes."""
    from factory.recipe import recipe_schema as schema

    typer.echo(schema(), nl=False)


@recipe_app.command("check")
def recipe_check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe and print it with every default filled in."""
    from factory.recipe import load_recipe

    typer.echo(load_recipe(recipe, overrides).model_dump_json(indent=2))


if __name__ == "__main__":
    main()
