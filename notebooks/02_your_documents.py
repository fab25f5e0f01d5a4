# %% Intro [markdown]
# {{badge}}
#
# # A model of your own documents
#
# Name a folder. This notebook says first what a run will take, then reads the folder, trains, exports and measures. It
# reads Markdown, text, reStructuredText, HTML, PDF with a text layer, Word, PowerPoint, Excel, CSV, TSV, JSON, JSON
# Lines, mail, source code, and ZIP archives of these. Questions are made in English from tables, `Key: value` lines,
# headings of FAQs and plain sentences.
#
# **Time**: 27 documents with 6,000 words take about 25 minutes at the 12 epochs below on two cores with AVX-512 and
# bf16 (from shorter runs), and time grows with the words. On Colab add 15 minutes to install, and its cores are slower.
# The cell *Plan* estimates it for your folder.
#
# **What leaves your computer**: run on your own computer, nothing. **On Colab, your documents do: uploading them is
# leaving your computer**, and what you keep on Drive stays there. Ask who owns the documents before you upload them.
# Secrets, card and account numbers are masked before training, and only then: the upload has them all. Masking finds
# what has a pattern, not names.
#
# {{pointer}}

# %% Install
# from shared.py

# %% Set-up
# from shared.py

# %% Choose
# @title Your documents { display-mode: "form" }
# @markdown A folder: with `use_drive`, one in `adapter-factory` on your Drive, or any other with its whole path. If
# @markdown there is none of that name, Colab asks you to upload files into it, and with `use_drive` the next session
# @markdown finds them there; elsewhere a few sample documents are put there. `questions` may name a file of your
# @markdown own, `{"question": "...", "answers": ["..."]}` a line, to be measured with.
name = "mine"  # @param {type:"string"}
documents = "documents"  # @param {type:"string"}
questions = ""  # @param {type:"string"}
base = "smollm2-135m-instruct"  # @param ["smollm2-135m-instruct"] {allow-input: true}
epochs = 12  # @param {type:"integer"}
quantization = "Q8_0, Q4_K_M"  # @param ["Q8_0, Q4_K_M", "Q8_0", "Q4_K_M"]

import shutil

folder = locate(documents)
folder_is_empty = not folder.is_dir() or not any(folder.iterdir())
if folder_is_empty and ON_COLAB:
    from google.colab import files

    folder.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.upload().items():
        (folder / Path(file_name).name).write_bytes(content)
elif folder_is_empty:
    shutil.copytree(ROOT / "data" / "quickstart" / "people", folder, dirs_exist_ok=True)
    print("there was no such folder: sample documents are in it now")
num_files = sum(path.is_file() for path in folder.rglob("*"))
print(num_files, "files in", folder)

# %% Recipe
# @title The recipe
OUT = RUNS / name
BUNDLE = OUT / "bundle"
recipe = {"name": name, "base": base, "ingest": {"source": str(folder)}, "train": {"epochs": epochs}}
recipe["quantize"] = {"types": quantization.split(", ")}
if questions:
    recipe["evaluate"] = {"questions": str(locate(questions))}
recipe_file = RUNS / f"{name}.yaml"
recipe_file.write_text(json.dumps(recipe, indent=2), encoding="utf-8")  # JSON is YAML as well
print(recipe_file.read_text(encoding="utf-8"))

# %% Plan
# @title Plan: what it will take
if not SMOKE:
    factory("plan", recipe_file, *options(), "--out", OUT)

# %% Run
# @title Run
# @markdown Stop it whenever you like: run again, it goes on from the last finished stage or checkpoint.
said = factory("run", recipe_file, *options(), "--out", OUT)

# %% What was read
# @title What was left out, and what was masked
report = json.loads((OUT / "report.json").read_text(encoding="utf-8"))
print(f"read {report['counts']['corpus']['documents']} documents, not read {len(report['quarantined'])}:")
for row in report["quarantined"]:
    print(f"  {row['path']}: {row['reason']}. {row['detail']}")
print("masked in training rows:", report["counts"]["dataset"]["hygiene"] or "nothing")

# %% Rows
# from shared.py

# %% About the scores [markdown]
# ## What it learned
#
# The verdict comes first. `unseen_phrasing` asks for trained facts in forms that were not trained; `unseen_fact` for
# withheld facts, where right is to say that it does not know; `user` is your own file. `rag` is the untrained base with
# a passage found by search. If it wins, use search.

# %% Scores
# from shared.py

# %% Report
# from shared.py

# %% Ask
# @title Ask it
# @markdown Empty: the first question that it was measured with.
question = ""  # @param {type:"string"}

tested = (OUT / "dataset" / "test.jsonl").read_text(encoding="utf-8").splitlines()
question = question or json.loads(tested[0])["question"]
print(question)
answer = factory("ask", BUNDLE, question).strip()

# %% Download
# from shared.py
