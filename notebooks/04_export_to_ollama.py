# %% Intro [markdown]
# {{badge}}
#
# # Into Ollama
#
# A bundle, made by one of the notebooks before, has a `Modelfile` with the very template that the model was trained
# with. This notebook checks the bundle's checksums, shows the commands, and, if an Ollama server answers on this
# computer, pushes the model into it and asks it a question.
#
# **Time**: a minute, once it is installed (on Colab, 15 minutes more for that).
#
# **What leaves your computer**: nothing. The only server it talks to is the Ollama at `ollama_url`, and the model is
# not pushed to one on another computer. On Colab no Ollama runs: use this notebook at home with the `.zip` you
# downloaded. **Uploading a bundle to Colab is leaving your computer**: the model has learned what your documents say.
#
# {{pointer}}

# %% Install
# from shared.py

# %% Set-up
# from shared.py

# %% Bundle
# from shared.py

# %% Checksums
# @title Are the files whole?
import hashlib

for line in (BUNDLE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
    expected, file_name = line.split(maxsplit=1)
    if hashlib.sha256((BUNDLE / file_name).read_bytes()).hexdigest() != expected:
        raise ValueError(f"{file_name} is not the file that was checked: download or build the bundle again")
print("all files are as they were checked")

# %% Modelfile
# @title The Modelfile
print((BUNDLE / "Modelfile").read_text(encoding="utf-8"))

# %% Ollama
# @title Into Ollama
model_name = ""  # @param {type:"string"}
ollama_url = "http://127.0.0.1:11434"  # @param {type:"string"}
question = "How many days of annual leave are there?"  # @param {type:"string"}

import shlex
import urllib.error
import urllib.request

model_name = model_name or manifest["name"]
ollama_url = os.environ.get("OLLAMA_HOST", ollama_url)
ollama_url = ollama_url if "://" in ollama_url else f"http://{ollama_url}"


def call_ollama(path, body=None):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(f"{ollama_url}{path}", data, timeout=300 if body else 3) as answer:
        return json.load(answer)


try:
    print("Ollama", call_ollama("/api/version")["version"], "answers at", ollama_url)
    has_ollama = True
except (urllib.error.URLError, OSError, ValueError):
    has_ollama = False

if has_ollama:
    factory("push-ollama", BUNDLE, "--name", model_name, "--host", ollama_url)
    body = {"model": model_name, "prompt": question, "stream": False}
    print(call_ollama("/api/generate", body)["response"])
else:
    print(f"no Ollama answers at {ollama_url}; where one runs, in the bundle's folder:\n")
    print(f"  cd {shlex.quote(str(BUNDLE))}")
    print(f"  ollama create {model_name} -f Modelfile")
    print(f"  ollama run {model_name} {shlex.quote(question)}")
    print("\nor, from this project's folder, while Ollama runs:\n")
    print(f"  factory push-ollama {shlex.quote(str(BUNDLE))} --name {model_name}")

# %% Download
# from shared.py
