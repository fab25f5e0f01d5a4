# Cells that several notebooks have. `build.py` puts one in wherever a cell of its title says `# from shared.py`.

# %% Install
# @title Install { display-mode: "form" }
# @markdown On Colab only: about 15 minutes a session, most of it to build llama.cpp. Elsewhere it does nothing.
repository = "{{repository}}"  # @param {type:"string"}

import os
import subprocess
import sys
from pathlib import Path

ON_COLAB = "COLAB_" in "".join(os.environ)


def quietly(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


if ON_COLAB:
    if "/OWNER/" in repository:
        raise ValueError(
            "Write the address of the repository into the field `repository`, then run this again"
        )
    home = Path("/content/adapter-factory")
    if not home.exists():
        quietly("git", "clone", "--quiet", "--depth", "1", repository, str(home))
    if not (home / ".venv" / ".installed").exists():
        print("installing the versions of requirements.lock: about 15 minutes ...")
        # An environment of its own that still sees Colab's torch, which fits the GPU's driver. Colab's torchao,
        # which nothing here needs, is too old for peft, which refuses to work beside it.
        quietly(sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(home / ".venv"))
        quietly(sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "torchao")
        quietly("make", "--silent", ".venv/.installed", cwd=home)
    print("installed in", home)

# %% Set-up
# @title Set-up { display-mode: "form" }
# @markdown On Colab, tick this to keep results, and documents you upload, in `adapter-factory` on your Google Drive. A
# @markdown session that ends loses all else; ticked again, the cells go on from the last finished stage or checkpoint.
use_drive = False  # @param {type:"boolean"}

import json

SMOKE = os.environ.get("ADAPTER_FACTORY_SMOKE") == "1"  # a run of a minute that teaches nothing, for tests
SMOKE_SETTINGS = [
    "curate.test_questions=4",
    "curate.valid_questions=2",
    "train.epochs=1",
    "train.wordings=1",
    "train.rank=8",
    "train.first_layer=0.8",
    "quantize.types=[Q8_0]",
    "quantize.imatrix_tokens=0",
    "verify.prompts=2",
    "verify.compared_tokens=48",
    "verify.scored_tokens=48",
    "verify.text_lines=20",
    "verify.answer_tokens=16",
    "verify.min_ended=0",
    "evaluate.questions=null",
    "evaluate.general_questions=0",
    "evaluate.rag=false",
    "evaluate.max_answer_tokens=8",
]
places = [Path("/content/adapter-factory"), Path.cwd(), *Path.cwd().parents]
ROOT = next(place for place in places if (place / "recipes").is_dir())
PYTHON = ROOT / ".venv" / "bin" / "python"
if not PYTHON.exists():
    PYTHON = Path(sys.executable)
KEPT = ROOT  # what a name of a file or folder is looked for in
if use_drive and ON_COLAB:
    from google.colab import drive

    drive.mount("/content/drive")
    KEPT = Path("/content/drive/MyDrive/adapter-factory")
RUNS = KEPT / "build"
RUNS.mkdir(parents=True, exist_ok=True)
for variable in ("no_proxy", "NO_PROXY"):  # what is on this computer is not asked for through a proxy
    named = filter(None, os.environ.get(variable, "").split(","))
    os.environ[variable] = ",".join([*named, "127.0.0.1", "localhost"])
# The notebook's way of drawing is not for its children.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}


def factory(*arguments):
    """Run `factory ...`, show what it says as it comes, and return it. Exit code 3: a file failed its checks."""
    command = [str(PYTHON), "-m", "factory.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, **pipes)
    lines = []
    try:
        for line in child.stdout:
            print(line, end="")
            lines.append(line)
    except BaseException:
        child.terminate()
        raise
    finally:
        child.wait()
    if child.returncode not in (0, 3):
        raise RuntimeError(f"factory {arguments[0]} ended with {child.returncode}: what it said stands above")
    return "".join(lines)


def locate(name):
    """Return where a file or folder of the user's lies: on Drive, where that is used, else in the repository."""
    return next((found for found in (KEPT / name, ROOT / name) if found.exists()), KEPT / name).resolve()


def options(*settings):
    """Return recipe keys and values as command-line options."""
    chosen = [*settings, *(SMOKE_SETTINGS if SMOKE else [])]
    return [word for setting in chosen for word in ("--set", setting)]


print("results go to", RUNS)

# %% Scores
report = json.loads((OUT / "report.json").read_text(encoding="utf-8"))
print(report["verdict"], "\n")
print(f"{'model':<28} {'asked':<12} {'questions':<18} {'right':>6}  95 % interval      n")
for score in report["scores"]:
    span = f"{score['low']:.1%} to {score['high']:.1%}"
    print(
        f"{score['model']:<28} {score['method']:<12} {score['question_set']:<18} "
        f"{score['accuracy']:>6.1%}  {span:<16} {score['n']:>4}"
    )

# %% Report
# @title The whole report { display-mode: "form" }
import html

from IPython.display import HTML, display

page = (OUT / "report.html").read_text(encoding="utf-8")
frame = f'<div><iframe srcdoc="{html.escape(page)}" sandbox width="100%" height="700"></iframe></div>'
display(HTML(page if ON_COLAB else frame))  # Colab frames outputs itself

# %% Rows
# @title What it was trained on
rows = (OUT / "dataset" / "train.jsonl").read_text(encoding="utf-8").splitlines()
print(len(rows), "rows, three of them:")
for row in map(json.loads, rows[:: len(rows) // 3 + 1]):
    print()
    for message in row["messages"]:
        print(f"  {message['role']:<10} {message['content']}")
    if row.get("evidence"):
        print(f"  {'from':<10} {row['evidence']['document']}: {row['evidence']['text'][:80]!r}")

# %% Bundle
# @title Which bundle
# @markdown A bundle folder, or a `.zip` that another of these notebooks made. Empty: the newest.
bundle = ""  # @param {type:"string"}

if bundle.endswith(".zip"):
    import shutil

    target = RUNS / Path(bundle).stem
    shutil.unpack_archive(bundle, target)
    bundle = str(target / "bundle")
found = [*RUNS.glob("*/bundle/manifest.json"), *KEPT.glob("adapters/*/manifest.json")]
found = [Path(bundle) / "manifest.json"] if bundle else sorted(found, key=lambda file: file.stat().st_mtime)
if not found or not found[-1].is_file():
    raise FileNotFoundError(
        "There is no bundle here: make one with 01_quickstart, or write where it is above"
    )
BUNDLE = found[-1].parent
manifest = json.loads(found[-1].read_text(encoding="utf-8"))
print(BUNDLE)
for file in manifest["files"]:
    print(f"  {file['path']:<36} {file['bytes'] / 1e6:8.1f} MB  {file['sha256'][:12]}")

# %% Download
# @title Download
# @markdown One `.zip`: GGUF files, adapter, Modelfile, model card, checksums and report. Ticked, the last field
# @markdown gives the machine and its GPU back to Colab: whatever is not on your Drive is gone then.
disconnect = False  # @param {type:"boolean"}

import gc
import zipfile

reports = [BUNDLE.parent / name for name in ("report.html", "report.json")]
archive = RUNS / f"{BUNDLE.parent.name}.zip"
with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:  # weights do not get smaller
    for file in sorted(path for path in BUNDLE.rglob("*") if path.is_file()):
        packed.write(file, Path("bundle") / file.relative_to(BUNDLE))
    for file in filter(Path.is_file, reports):
        packed.write(file, file.name)
print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, adapter in bundle/adapter")
gc.collect()  # models were in processes of their own, which have ended: the notebook holds none
if ON_COLAB:
    from google.colab import files, runtime

    files.download(str(archive))
    if disconnect:
        runtime.unassign()
