# %% Intro [markdown]
# {{badge}}
#
# # The playground, and an API
#
# `factory serve` opens a bundle on this computer: a page to chat at `/ui`, and an API like OpenAI's at `/v1`. This
# notebook starts it, shows where the page is, asks one question through the `openai` client, and stops it.
#
# **Time**: a minute, once it is installed (on Colab, 15 minutes more for that).
#
# **What leaves your computer**: nothing. The server listens on 127.0.0.1 only, its API wants a key, which stays in a
# file that only you can read, and no public link is made. On Colab it runs on a computer of Google's, and the page
# reaches you through Colab's own tunnel, for your account only: what you type there goes to that computer, and
# **uploading documents or a bundle to Colab is leaving your computer**.
#
# **On Colab**, the page opens in a tab of its own: it lets no other page frame it, so that none can lay it under yours,
# and a frame in this notebook would stay empty. The server answers to the name of the tunnel. Not tried on Colab
# itself: whether the tunnel passes that name on, as the headers `Host` and `Origin`, and what your browser allows it.
# Should the tab stay empty or its buttons do nothing, `serve.log`, beside the results, says what was refused; the API
# cell works all the same.
#
# {{pointer}}

# %% Install
# from shared.py

# %% Set-up
# from shared.py

# %% Bundle
# from shared.py

# %% Serve
# @title Start the server
port = 0  # @param {type:"integer"}
# @markdown 0: any port that is free.

import atexit
import socket
import time
import urllib.error
import urllib.request

if (server := globals().get("server")) and server.poll() is None:
    server.terminate()
if not port:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
log = RUNS / "serve.log"
address = f"http://127.0.0.1:{port}/ui"
command = [str(PYTHON), "-m", "factory.cli", "serve", str(BUNDLE), "--port", str(port)]
if ON_COLAB:  # the name by which Colab's tunnel may call it; others are refused
    from urllib.parse import urljoin, urlsplit

    from google.colab import output

    tunnel = output.eval_js(f"google.colab.kernel.proxyPort({port})")
    address = urljoin(tunnel, "/ui/")
    command += ["--name", urlsplit(tunnel).hostname]
with log.open("w", encoding="utf-8") as file:
    server = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)
atexit.register(server.terminate)  # it must not outlive the notebook


def is_ready():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


deadline = time.monotonic() + 180
while not is_ready():
    if server.poll() is not None or time.monotonic() > deadline:
        server.kill()
        raise RuntimeError(f"The server did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
    time.sleep(0.5)
print(log.read_text(encoding="utf-8"))
print(f"the playground is at {address}")

# %% Playground
# @title The playground
from IPython.display import HTML, display

display(HTML(f'<a href="{address}" target="_blank" rel="noreferrer">Open the playground</a> at {address}'))

# %% API
# @title Ask through the API
question = "How many days of annual leave are there?"  # @param {type:"string"}

from openai import OpenAI

looked = "from factory import store; print(store.cache_folder() / 'api.key')"
done = subprocess.run([str(PYTHON), "-c", looked], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
key = Path(done.stdout.strip()).read_text(encoding="utf-8").strip()
with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
    model = client.models.list().data[0].id
    messages = [{"role": "user", "content": question}]
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=64, temperature=0)
print(f"{model}: {reply.choices[0].message.content}")

# %% Stop
# @title Stop the server
# @markdown Before *Run all*, untick this to go on chatting; run the cell ticked when you are done.
stop = True  # @param {type:"boolean"}

if stop:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    print("the server has stopped, and its memory is free")

# %% Download
# from shared.py
