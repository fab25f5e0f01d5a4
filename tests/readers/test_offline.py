import subprocess
import sys

SCRIPT = """
import socket, sys
from factory.readers.offline import prepare_process
prepare_process()
for attempt in (
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.socket().connect(("127.0.0.1", 9)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: __import__("torch"),
):
    try:
        attempt()
    except (PermissionError, ImportError) as error:
        print(type(error).__name__)
from unstructured.partition.text_type import is_possible_narrative_text
print(is_possible_narrative_text("The pump is drained every month by the engineer on duty."))
"""


def test_a_prepared_process_has_no_network_no_torch_and_a_tagger(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PermissionError"] * 3 + ["ModuleNotFoundError", "True"]
    assert done.stderr == ""
