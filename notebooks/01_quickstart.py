# %% Intro [markdown]
# {{badge}}
#
# # A small model that knows your documents
#
# This notebook makes one from the papers of an invented company, Tolvane, 37 files in a dozen formats: it reads them,
# turns what they state into questions and answers, trains a LoRA adapter on a base of 135 million parameters, exports
# GGUF files, and measures honestly what was learned.
#
# **Time**: about 15 minutes on two cores with AVX-512 and bf16. On Colab, 15 minutes to install, and then longer than
# that: its cores are older (not measured). No GPU is needed. Fewer epochs take less time and teach less.
#
# **What leaves your computer**: run on your own computer, nothing; the base model comes as a package. On Colab, all of
# it happens on a computer of Google's. The documents here are invented, so no harm is done; **uploading your own to
# Colab is leaving your computer**.
#
# {{pointer}}

# %% Install
# from shared.py

# %% Set-up
# from shared.py

# %% Documents [markdown]
# ## The documents
#
# Some of them are broken on purpose: encrypted, scanned, an archive bomb. They end up in the report with a reason.

# %% List
documents = ROOT / "data" / "quickstart"
for path in sorted(documents.rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:>8,} bytes  {path.relative_to(documents)}")
print()
print((documents / "warehouse" / "goods-in.md").read_text(encoding="utf-8")[:900])

# %% About the run [markdown]
# ## The run
#
# One command does everything: `factory run recipes/quickstart.yaml`. Stop it whenever you like; run the cell again and
# it goes on from the last finished stage or, in training, the last checkpoint. Change a field and only what depends on
# it is made again.

# %% Run
# @title Run
epochs = 10  # @param {type:"integer"}
quantization = "Q8_0, Q4_K_M"  # @param ["Q8_0, Q4_K_M", "Q8_0", "Q4_K_M"]

OUT = RUNS / "quickstart"
BUNDLE = OUT / "bundle"
chosen = [f"train.epochs={epochs}", f"quantize.types=[{quantization}]"]
if SMOKE:
    chosen.append("ingest.include=[people/leave-policy-v5.docx, warehouse/goods-in.md]")
said = factory("run", ROOT / "recipes" / "quickstart.yaml", *options(*chosen), "--out", OUT)

# %% About the scores [markdown]
# ## What it learned
#
# `unseen_phrasing` asks for facts it was trained on in forms it was not trained on, `unseen_fact` for facts it never
# saw (right is to say so), `user` the questions of a file written freely, `general` what it knew before. `rag` is the
# untrained base with a passage found by search: often the better tool, and the verdict says when it is.

# %% Scores
# from shared.py

# %% Report
# from shared.py

# %% Rows
# from shared.py

# %% Ask
# @title Ask it
question = "How many days of annual leave are there?"  # @param {type:"string"}

answer = factory("ask", BUNDLE, question).strip()

# %% About the download [markdown]
# ## Take it home
#
# Next: `02_your_documents` for documents of your own, `04_export_to_ollama` to run it in Ollama, `05_playground` to
# chat with it.

# %% Download
# from shared.py
