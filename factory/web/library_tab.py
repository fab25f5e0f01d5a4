"""The library page: what has been built, its lineage and scores, two side by side, and a push to Ollama.

Lays out components and ties them to `factory.web.shelf`; decides nothing itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from factory.bundle.ollama import HOST
from factory.web import markup, shelf
from factory.web.export import download_link

LONGEST_NAME = 250
EMPTY = "Nothing has been built yet: run `factory run recipes/quickstart.yaml`, then press Refresh."


def build_library_tab(gr: Any, root: Path, *, host: str = HOST) -> None:
    """Lay out the library of what stands below a folder, inside an open tab; pushes go to one fixed address.

    The disk is read again at every event, so that nothing shown is older than the last press of a button.
    """
    with gr.Row():
        gr.Markdown("What stands in the folders `adapters` and `build` of this project.")
        refresh = gr.Button("Refresh")
    shown = show_library(root, None, None, None)
    table = gr.HTML(shown.table)
    chosen = gr.Radio(shown.labels, value=shown.chosen, label="Details of")
    detail, download, path, commands, file, name = _detail_parts(gr, root, shown.chosen)
    push, stop, status = _push_parts(gr, host)
    gr.Markdown("### Compare two")
    with gr.Row():
        left = gr.Radio(shown.labels, value=shown.left, label="First")
        right = gr.Radio(shown.labels, value=shown.right, label="Second")
    compare = gr.Button("Compare")
    comparison = gr.HTML(markup.paragraph(""))

    def reload(*labels: str | None) -> list[Any]:
        now = show_library(root, *labels)
        radios = [gr.update(choices=now.labels, value=value) for value in (now.chosen, now.left, now.right)]
        return [now.table, *radios, *choose(now.chosen)]

    def choose(label: str | None) -> list[Any]:
        now = show_entry(root, label)
        files = gr.update(choices=now.files, value=now.files[0] if now.files else None)
        return [now.detail, now.download, now.path, now.commands, files, now.name]

    def send(label: str | None, file: str | None, name: str | None) -> Iterator[str]:
        for line in shelf.push_steps(shelf.find_entries(root).get(label or ""), file, name or "", host):
            yield markup.paragraph(line)

    details = [detail, download, path, commands, file, name]
    everything = [table, chosen, left, right, *details]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on(
        fn=lambda: reload(None, None, None), inputs=[], outputs=everything, **private
    )  # when the page is opened
    refresh.click(reload, [chosen, left, right], everything, **private)
    chosen.input(choose, chosen, details, **private)
    file.input(lambda label, file: suggest_name(root, label, file), [chosen, file], name, **private)
    compare.click(lambda one, other: show_comparison(root, one, other), [left, right], comparison, **private)
    running = push.click(
        send, [chosen, file, name], status, concurrency_id="ollama", concurrency_limit=1, **private
    )
    stopped = stop.click(None, cancels=[running], **private)
    stopped.then(lambda: markup.paragraph("Stopped."), outputs=status, **private)


def _detail_parts(gr: Any, root: Path, label: str | None) -> tuple[Any, ...]:
    now = show_entry(root, label)
    detail, download = gr.HTML(now.detail), gr.HTML(now.download)
    path = gr.Textbox(now.path, label="Folder, to copy", interactive=False)
    commands = gr.Textbox(now.commands, label="Commands, to copy into a shell", lines=4, interactive=False)
    gr.Markdown("### Push to Ollama")
    file = gr.Radio(now.files, value=now.files[0] if now.files else None, label="File")
    name = gr.Textbox(
        now.name,
        label="Name in Ollama",
        info="Like acme/hr:q4. A model of that name is replaced.",
        max_length=LONGEST_NAME,
    )
    return detail, download, path, commands, file, name


def _push_parts(gr: Any, host: str) -> tuple[Any, ...]:
    with gr.Row():
        push = gr.Button("Push to Ollama", variant="primary")
        stop = gr.Button("Stop")
    status = gr.HTML(markup.paragraph(f"The model goes to {host} and nowhere else."))
    return push, stop, status


class Library(NamedTuple):
    """What the page shows of all entries: a table as HTML, their labels, and the labels that are chosen."""

    table: str
    labels: list[str]
    chosen: str | None
    left: str | None
    right: str | None


class Details(NamedTuple):
    """What the page shows of one entry: tables and a link as HTML, folder, commands, model files, name in Ollama."""

    detail: str
    download: str
    path: str
    commands: str
    files: list[str]
    name: str


def show_library(root: Path, chosen: str | None, left: str | None, right: str | None) -> Library:
    """Return the list of entries; a choice that no longer exists gives way to the first, or first two, there are."""
    entries = shelf.find_entries(root)
    labels = list(entries)
    scored = [label for label in labels if entries[label].scores] or labels
    defaults = (labels[:1], scored[:1], scored[1:2] or scored[:1])
    kept = (
        label if label in entries else next(iter(default), None)
        for label, default in zip((chosen, left, right), defaults, strict=True)
    )
    return Library(
        markup.to_html(shelf.list_table(entries)) if entries else markup.paragraph(EMPTY), labels, *kept
    )


def show_entry(root: Path, label: str | None) -> Details:
    """Return what there is to know about an entry; for a label that no entry has, a sentence."""
    entry = shelf.find_entries(root).get(label or "")
    if entry is None:
        return Details(markup.paragraph("Choose an entry of the list."), "", "", "", [], "")
    verdict = shelf.verdict(entry)  # an empty one keeps its place, so that the next one is read aloud
    detail = markup.paragraph(verdict) + markup.to_html(*shelf.detail_tables(entry))
    files = shelf.file_names(entry)
    name = shelf.ollama_name(entry, files[0] if files else None)
    return Details(
        detail, download_link(entry), str(entry.folder.resolve()), shelf.commands(entry), files, name
    )


def suggest_name(root: Path, label: str | None, file: str | None) -> str:
    """Return what to call a file of an entry in Ollama."""
    return shelf.ollama_name(shelf.find_entries(root).get(label or ""), file)


def show_comparison(root: Path, left: str | None, right: str | None) -> str:
    """Return two entries side by side as HTML, or what to do first."""
    entries = shelf.find_entries(root)
    one, other = entries.get(left or ""), entries.get(right or "")
    if one is None or other is None or one is other:
        return markup.paragraph("Choose two different entries.")
    table = shelf.compare_table(one, other)
    if not table.rows:
        return markup.paragraph("Neither has scores: run the evaluate stage first.")
    return markup.paragraph(shelf.compare_note(one, other)) + markup.to_html(table)
